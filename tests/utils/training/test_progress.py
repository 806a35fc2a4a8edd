import dataclasses
import math

import pytest
import torch

from utils.errors import UserError
from utils.training import progress
from utils.training.progress import EpochProgress, LossNotFinite


@dataclasses.dataclass
class FakeBatch:
    paths: list[str]


def loader(batches=4, images=2):
    return [FakeBatch([f"/set/images/b{b}i{i}.jpg" for i in range(images)]) for b in range(batches)]


def run(epoch, values, batches=4, images=2):
    """An epoch whose batches have these objectness losses."""
    shown = EpochProgress(loader(batches, images), torch.device("cpu"), epoch, 9)
    for value, _ in zip(values, shown.batches(), strict=True):
        losses = {"box": torch.tensor(0.5), "obj": torch.tensor(value), "cls": torch.tensor(0.25)}
        shown.add(losses, 3, 64)
    return shown


def test_means():
    assert run(0, [1.0, 2.0, 3.0, 6.0]).means() == {"box": 0.5, "obj": 3.0, "cls": 0.25}


@pytest.mark.parametrize("seconds", [0.0, 1000.0])  # checked at every batch, and only at the end
@pytest.mark.parametrize("bad", [0, 2, 3])
def test_names_the_files_of_the_first_bad_batch(monkeypatch, seconds, bad):
    monkeypatch.setattr(progress, "_SECONDS", seconds)
    values = [1.0] * bad + [math.inf] + [math.nan] * (3 - bad)
    with pytest.raises(LossNotFinite) as caught:
        run(2, values)
    text = str(caught.value)
    assert f"in epoch 2, batch {bad} (box 0.5, obj inf, cls 0.25), with b{bad}i0.jpg, b{bad}i1.jpg; " in text
    assert "the checkpoints of earlier epochs are kept" in text
    assert isinstance(caught.value, UserError)


def test_in_the_first_epoch_there_is_no_checkpoint():
    with pytest.raises(LossNotFinite) as caught:
        run(0, [math.nan] * 4)
    assert "kept" not in str(caught.value)


def test_many_files_are_not_all_named():
    with pytest.raises(LossNotFinite, match=r"b0i15\.jpg and 24 more; check"):
        run(0, [math.nan], batches=1, images=40)


def test_files_of_checked_batches_are_forgotten(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    assert run(0, [1.0] * 4)._unchecked == []
