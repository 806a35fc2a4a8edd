"""Training in several processes, started by torchrun, as on a cluster; here two of them on the CPU through Gloo."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from utils.checkpoint import read_checkpoint
from utils.files import PROGRAM_ROOT

NET = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[12, 12, 18, 18], [20, 20, 26, 26]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "AKConv", [16, 3, 2]], [-1, 1, "Conv", [24, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}
# BatchNorm sees other batches in each process, so without it only: then all numbers must agree. Losses are kept.
SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
import torch
import train
from utils.cli import run_command
from utils.training import progress

new_model, add = train.new_model, progress.EpochProgress.add

def without_batch_statistics(*arguments):
    model = new_model(*arguments)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return model

def keep(self, losses, *others, **named):
    with open("losses-%s.jsonl" % sys.argv[sys.argv.index("--name") + 1], "a") as file:
        file.write(json.dumps([float(value) for value in losses.values()]) + "\\n")
    return add(self, losses, *others, **named)

train.new_model = without_batch_statistics
if not train.this_world().rank:
    progress.EpochProgress.add = keep
sys.exit(run_command(train.main))
"""


@pytest.fixture
def workplace(rectangle_set: Callable[..., Path]) -> Path:
    """Seven pictures to learn from, so that the last batch of two fours is odd, and five to evaluate on."""
    folder = rectangle_set(train=7, val=5, noise=50)
    (folder / "net.yaml").write_text(yaml.safe_dump(NET))
    (folder / "without_batchnorm.py").write_text(SCRIPT.format(root=str(PROGRAM_ROOT)))
    return folder


@pytest.fixture
def start(workplace: Path):
    """Starts trainings; what is left of them at the end is killed."""
    started = []

    def launch(script: str, *flags: str, processes: int, restarts: int = 0) -> "subprocess.Popen[str]":
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher.append(f"--max_restarts={restarts}")
        arguments = ["--cfg", "net.yaml", "--data", "set.yaml", "--img", "64", "--batch", "4", "--workers", "0"]
        arguments += ["--device", "cpu", "--noplots", "--project", "runs", "--tracker", "none", *flags]
        process = subprocess.Popen(
            [sys.executable, *(launcher if processes > 1 else ()), script, *arguments],
            cwd=workplace,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


TRAIN = str(PROGRAM_ROOT / "train.py")


def finish(process: "subprocess.Popen[str]", timeout: float = 300) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def children(process: "subprocess.Popen[str]") -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [pid for pid in map(int, text.split()) if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(workplace: Path, start):
    flags = ("--epochs", "3", "--multi-scale")
    finish(start("without_batchnorm.py", *flags, "--name", "one", processes=1))
    output = finish(start("without_batchnorm.py", *flags, "--name", "two", processes=2))
    assert output.count("3 epochs at 64 px") == 1, "only one process talks"
    one, two = (
        np.array([json.loads(line) for line in (workplace / f"losses-{name}.jsonl").read_text().splitlines()])
        for name in ("one", "two")
    )
    assert one.shape == (6, 3)
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    states = [read_checkpoint(workplace / "runs" / name / "weights" / "last.pt").state for name in ("one", "two")]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5)
    rows = [(workplace / "runs" / name / "results.csv").read_text().splitlines()[1:] for name in ("one", "two")]
    for ours, theirs in zip(*rows, strict=True):
        assert [float(v) for v in theirs.split(",")] == pytest.approx([float(v) for v in ours.split(",")], rel=1e-3)


@pytest.mark.slow
def test_a_killed_process_ends_all_of_them(workplace: Path, start):
    process = start(TRAIN, "--epochs", "5000", processes=2)
    wait_for(workplace / "runs" / "exp" / "weights" / "last.pt", process)
    victims = children(process)
    assert len(victims) == 2
    os.kill(victims[int(np.random.default_rng().integers(2))], signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in output, "the cause is named"


@pytest.mark.slow
def test_after_a_restart_the_training_goes_on(workplace: Path, start):
    process = start(TRAIN, "--epochs", "40", processes=2, restarts=1)
    wait_for(workplace / "runs" / "exp" / "weights" / "last.pt", process)
    os.kill(children(process)[1], signal.SIGKILL)
    output = finish(process)
    assert "continuing after" in output
    assert [folder.name for folder in (workplace / "runs").iterdir()] == ["exp"]
    rows = (workplace / "runs" / "exp" / "results.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(40))


def test_a_batch_that_cannot_be_shared(workplace: Path, start):
    process = start(TRAIN, "--batch", "5", processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "--batch-size 5 images cannot be shared equally by 2 processes; give a multiple of 2" in output
