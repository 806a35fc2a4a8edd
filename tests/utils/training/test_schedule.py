import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.training.hyp import Hyp
from utils.training.schedule import Schedule, accumulation, decay_factor


@pytest.mark.parametrize(
    ("epoch", "cosine", "factor"),
    [(0, False, 1), (5, False, 0.55), (10, False, 0.1), (0, True, 1), (5, True, 0.55), (10, True, 0.1)],
)
def test_decay_at_start_middle_and_end(epoch, cosine, factor):
    assert decay_factor(epoch, 10, 0.1, cosine=cosine) == pytest.approx(factor)


def test_the_cosine_starts_slowly():
    assert decay_factor(1, 10, 0.1, cosine=True) == pytest.approx((1 - math.cos(math.pi / 10)) / 2 * -0.9 + 1)
    assert decay_factor(1, 10, 0.1, cosine=True) > decay_factor(1, 10, 0.1)


@pytest.mark.parametrize(
    ("iteration", "epoch", "lr", "bias_lr", "momentum", "accumulate"),
    [
        (0, 0, 0, 0.1, 0.8, 1),
        (30, 0, 0.002, 0.082, 0.8274, 2),  # a fifth of 150 iterations; 1 + 3/5 is rounded up
        (75, 1, 0.5 * 0.00901, 0.05 + 0.5 * 0.00901, 0.8685, 2),  # 2.5 is rounded to even
        (149, 2, 149 / 150 * 0.00802, 0.1 / 150 + 149 / 150 * 0.00802, 0.8 + 149 / 150 * 0.137, 4),
        (150, 3, 0.00703, 0.00703, 0.937, 4),
        (499, 9, 0.00109, 0.00109, 0.937, 4),
    ],
)
def test_table(iteration, epoch, lr, bias_lr, momentum, accumulate):
    schedule = Schedule(Hyp(), epochs=10, batches=50, batch_size=16)
    assert schedule.warmup == 150
    settings = schedule.at(iteration, epoch)
    assert (settings.lr, settings.bias_lr, settings.momentum) == pytest.approx((lr, bias_lr, momentum))
    assert settings.accumulate == accumulate


def test_every_iteration_of_five_epochs():
    """The table of lr, bias lr, momentum and accumulation by the published formulas, written with NumPy."""
    batches, batch_size, warmup = 34, 12, 102
    schedule = Schedule(Hyp(lr0=0.02, lrf=0.1, momentum=0.9), epochs=5, batches=batches, batch_size=batch_size)
    for iteration in range(5 * batches):
        epoch = iteration // batches
        lr = 0.02 * (1 - epoch / 5 * (1 - 0.1))
        expected = {
            "lr": np.interp(iteration, [0, warmup], [0, lr]),
            "bias_lr": np.interp(iteration, [0, warmup], [0.1, lr]),
            "momentum": np.interp(iteration, [0, warmup], [0.8, 0.9]),
            "accumulate": max(np.interp(iteration, [0, warmup], [1, 64 / batch_size]).round(), 1),
        }
        assert dataclasses.asdict(schedule.at(iteration, epoch)) == pytest.approx(expected), iteration


def test_warmup_is_at_least_a_hundred_batches_or_none():
    assert Schedule(Hyp(warmup_epochs=1), 10, 3, 16).warmup == 100
    none = Schedule(Hyp(warmup_epochs=0), 10, 3, 16)
    assert none.warmup == 0
    assert none.at(0, 0) == none.at(2, 0)
    assert none.at(0, 0).lr == 0.01


@given(st.integers(1, 300))
def test_a_step_sees_about_64_images(batch_size):
    batches = accumulation(batch_size)
    assert batches >= 1
    assert batch_size >= 64 or 32 <= batches * batch_size <= 96
