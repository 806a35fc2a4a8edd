"""Make a row of the tables by its recipe, and read it again."""

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.recipes import Recipe, shown
from utils.data.config import load_dataset_config
from utils.errors import Terminated, UserError
from utils.files import PROGRAM_ROOT, next_free_path, read_yaml, write_text

logger = logging.getLogger(__name__)

ROW_FILE = "row.json"
"""In the folder of a row: what was trained, and the metrics."""


def read_row(recipe: Recipe) -> dict[str, float | None]:
    """What was measured for exactly this row, see `Recipe.metrics`; empty if nothing was.

    Raises:
        UserError: If the row's file is damaged, or of another row.
    """
    file = recipe.folder / ROW_FILE
    if not file.exists():
        return {}
    content = _read_json(file)
    for key, wanted in recipe.facts().items():
        if (found := content.get(key)) != wanted:
            raise UserError(f"{file}: {key} is {found!r}, and the row has {wanted!r}; move that folder elsewhere")
    metrics = content.get("metrics")
    names = recipe.table.metrics
    if not isinstance(metrics, dict) or not all(
        isinstance(metrics.get(name, ""), int | float | None) for name in names
    ):
        raise UserError(f"{file}: expected the metrics {', '.join(names)}; remove it to evaluate again")
    return {name: metrics[name] for name in names}


def make_row(recipe: Recipe) -> None:
    """Do what is not done yet: data set, training, evaluation, and the file that `read_row` reads.

    Raises:
        UserError: If a command fails, or the row's folder holds a training with other settings.
    """
    if read_row(recipe):
        logger.info("%s is complete; to make it anew move %s elsewhere", recipe.name, shown(recipe.folder))
        return
    if not _is_prepared(recipe):
        recipe.draw()
        _run(recipe.prepare_command())
    recipe.check_data(load_dataset_config(str(recipe.data)))
    train = _train(recipe)
    val = next_free_path(recipe.folder / "val")
    _run(recipe.val_command(val.name, train.name))
    metrics = recipe.metrics(_read_json(val / "metrics.json"))
    weights = f"{train.name}/weights/best.pt"
    content = {**recipe.facts(), "weights": weights, "metrics": metrics}
    write_text(recipe.folder / ROW_FILE, json.dumps(content, indent=2) + "\n")


def _is_prepared(recipe: Recipe) -> bool:
    try:
        dataset = load_dataset_config(str(recipe.data))
        return bool(dataset.sources("train") and dataset.sources("val"))
    except UserError:
        return False


def _train(recipe: Recipe) -> Path:
    """The folder of a finished training: one that is there, or was begun and is gone on with, or a new one."""
    folders = sorted(recipe.folder.glob("train*"))
    for folder in folders:
        if (file := folder / "opt.yaml").exists():
            recipe.check_training(read_yaml(file), file)
        if (folder / "metrics.json").exists():  # what a training writes last
            return folder
    for folder in folders:
        if (last := folder / "weights" / "last.pt").exists():
            _run(["train.py", "--resume", shown(last)])
            return folder
    folder = next_free_path(recipe.folder / "train")
    _run(recipe.train_command(folder.name))
    return folder


def _run(arguments: list[str]) -> None:
    """Run a command to its end, also when this one is to end: otherwise two could write into one run."""
    logger.info("\n$ python %s", " ".join(arguments))
    process = subprocess.Popen([sys.executable, *arguments], cwd=PROGRAM_ROOT)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    except KeyboardInterrupt:  # it has got the Ctrl-C as well
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise Terminated
    if status:
        raise UserError(f"python {arguments[0]} ended with status {status}, see above; the same command goes on here")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected an object, found {type(content).__name__}; remove it")
    return content
