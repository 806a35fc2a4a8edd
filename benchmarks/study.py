"""Does AKConv help on a data set? Several models are trained from equal settings with several seeds, and compared.

python -m benchmarks.study --data bccd.yaml --imgsz 320 --epochs 100

Each run is a plain `train.py` in a folder of its own, PROJECT/NAME/MODEL-seedK, evaluated by `val.py` on the test split
if the data set has one, otherwise on the val split. An interrupted study goes on when the same command is given again;
more seeds or models may be added. The report (report.md, runs.csv, curves.png) is written after every run.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.study_report import Trial, write_report
from models.config import load_model_config
from utils.cli import run_command
from utils.config import option, parse_options
from utils.data.config import load_dataset_config
from utils.errors import UserError
from utils.files import PROGRAM_ROOT, write_text

logger = logging.getLogger(__name__)

_FIXED = ("data", "weights", "hyp", "epochs", "imgsz", "batch_size")
"""Options that all runs of a study share."""


@dataclass(frozen=True)
class StudyOptions:
    """Options of this command."""

    data: str = option("data/shapes.yaml", "data set YAML")
    models: tuple[str, ...] = option(
        ("yolov5n", "yolov5n-ak3", "yolov5n-ak5", "yolov5n-ak9"), "model files; the first is what others compare with"
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "a run of every model for each of them", least=0)
    weights: str = option("", "checkpoint to start from; by default from scratch")
    hyp: str = option("hyp.scratch-low.yaml", "hyperparameters")
    epochs: int = option(100, "epochs of a run", least=1)
    imgsz: int = option(640, "pixels of the longer side", flags=("--img", "--img-size"), least=32)
    batch_size: int = option(16, "images a batch", least=1)
    device: str = option("", "cpu or a CUDA index; the first GPU if there is one")
    jobs: int = option(1, "runs at the same time; on a CPU they share its cores", least=1)
    project: str = option("runs/study", "folder of the studies")
    name: str = option("exp", "name of this study below --project")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse_options(StudyOptions, argv, prog="study", description=__doc__ or "")
    for model in options.models:
        load_model_config(f"{model}.yaml")
    dataset = load_dataset_config(options.data)
    split = "test" if dataset.test else "val"
    folder = PROGRAM_ROOT / options.project / options.name
    settings = {name: getattr(options, name) for name in _FIXED}
    check_settings(folder / "study.json", settings)
    trials = [
        Trial(folder, model, seed) for seed in dict.fromkeys(options.seeds) for model in dict.fromkeys(options.models)
    ]

    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run_trial, trial, options, split) for trial in trials]
        try:
            for run in as_completed(runs):
                run.result()
                done = [trial for trial in trials if trial.is_done]
                write_report(folder, done, title=f"{split} split of {options.data}", command=command_line(options))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    print((folder / "report.md").read_text(encoding="utf-8"))


def check_settings(file: Path, settings: dict[str, object]) -> None:
    """Write the settings of a new study; those of one that goes on must be the same."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=2) + "\n")
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        changed = [f"{name} {known[name]!r}, now {value!r}" for name, value in settings.items() if known[name] != value]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file}: not the settings of a study ({error!r}); give another --name") from error
    if changed:
        raise UserError(f"{file.parent}: a study with other settings ({'; '.join(changed)}); give another --name")


def run_trial(trial: Trial, options: StudyOptions, split: str) -> None:
    """Train and evaluate, as far as that is not done."""
    if trial.is_done:
        return
    if not trial.is_trained:
        last = trial.folder / "weights" / "last.pt"
        resumed, start = last.exists(), time.monotonic()
        resume = ["train.py", "--resume", str(last)]
        if not resumed and trial.folder.exists():
            logger.info("%s was stopped before its first epoch was complete, starting it again", trial.folder)
            shutil.rmtree(trial.folder)
        run_python(trial, resume if resumed else training_arguments(trial, options), options.jobs)
        if not resumed:  # of the rest alone it would be too short
            write_text(trial.clock, json.dumps(time.monotonic() - start) + "\n")
    run_python(trial, evaluation_arguments(trial, options, split), options.jobs)
    logger.info("%s, seed %d: mAP50 %.3f, mAP %.3f", trial.model, trial.seed, *trial.scores().values())


def training_arguments(trial: Trial, options: StudyOptions) -> list[str]:
    """Arguments of Python for a new run."""
    flags = {f"--{name.replace('_', '-')}": str(getattr(options, name)) for name in _FIXED}
    flags |= {"--cfg": f"{trial.model}.yaml", "--seed": str(trial.seed), "--device": options.device}
    flags |= {"--project": str(trial.folder.parent), "--name": trial.folder.name, "--tracker": "none"}
    return ["train.py", *(word for flag in flags.items() for word in flag)]


def evaluation_arguments(trial: Trial, options: StudyOptions, split: str) -> list[str]:
    """Arguments of Python that evaluate the best epoch."""
    best = str(trial.folder / "weights" / "best.pt")
    shared = ("--data", options.data, "--imgsz", str(options.imgsz), "--batch-size", str(options.batch_size))
    place = ("--project", str(trial.folder), "--name", "evaluation", "--exist-ok")
    return ["val.py", "--weights", best, *shared, "--task", split, "--device", options.device, *place]


def run_python(trial: Trial, arguments: list[str], jobs: int) -> None:
    """Run a command of this program, its output in the log of the trial."""
    script, *rest = arguments
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    trial.log.parent.mkdir(parents=True, exist_ok=True)
    with trial.log.open("a", encoding="utf-8") as log:
        environment = os.environ | threads
        done = subprocess.run(
            [sys.executable, PROGRAM_ROOT / script, *rest], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise UserError(f"{script} ended with status {done.returncode}; see {trial.log}")


def command_line(options: StudyOptions) -> str:
    """The command that repeats the study."""
    words = ["python -m benchmarks.study"]
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{field.name.replace('_', '-')} {text}")
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(run_command(main))
