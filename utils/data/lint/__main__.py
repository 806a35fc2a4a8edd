"""Find what is wrong with a data set."""

import argparse
import logging
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_command
from utils.data.config import DatasetConfig, load_dataset_config
from utils.data.images import MAX_SIDE
from utils.data.lint.classes import check_classes, count_classes
from utils.data.lint.duplicates import check_duplicates
from utils.data.lint.folders import check_folders
from utils.data.lint.repair import write_copy
from utils.data.lint.report import count_levels, group, kinds_table, splits_table, write_files
from utils.data.lint.sources import own_folders
from utils.data.lint.summary import box_sizes, summarise
from utils.data.lint.survey import survey_dataset
from utils.errors import UserError
from utils.files import make_run_directory
from utils.show.lint_pictures import save_finding_mosaics, save_overview

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}; see --help")


def lint(
    data: str, *, imgsz: int = 640, project: str = "runs/lint", name: str = "exp", fix: Path | None = None
) -> dict[str, int]:
    """Look at all of a data set and report it in a new run folder.

    Args:
        data: Data set YAML.
        imgsz: Pixels of the long side of the images in training.
        project: Folder of all runs.
        name: Folder of this run, numbered if it exists.
        fix: Folder to make with a mended copy.

    Returns:
        Number of findings of each level.

    Raises:
        UserError: If the YAML cannot be used, `fix` exists or lies in the data set, or the report or the copy cannot be
            written.
    """
    config = load_dataset_config(data)
    if fix:
        _check_new(fix, config)
    survey = survey_dataset(config, imgsz)
    across = [*check_duplicates(survey), *check_folders(survey), *check_classes(survey)]
    findings = [*survey.findings, *across, *(finding for item in survey.items() for finding in item.findings)]
    kinds, summary = group(findings), summarise(survey)
    directory = make_run_directory(project, name)
    write_files(directory, survey, kinds, summary)
    save_finding_mosaics(directory, kinds, survey.items())
    counts = {split: count_classes(survey, split) for split in survey.splits}
    sizes = {split: box_sizes(items) for split, items in survey.splits.items()}
    save_overview(directory / "overview.png", counts, sizes, config.names)
    logger.info("\n%s", splits_table(summary))
    if kinds:
        logger.info("\n%s", kinds_table(kinds, config.root))
    logger.info("\nreport: %s", directory)
    if fix:
        logger.info("mended copy: %s", write_copy(survey, findings, fix))
    return count_levels(kinds)


def _check_new(fix: Path, config: DatasetConfig) -> None:
    """Refuse a folder for the copy that is there, or would be found with the data set."""
    if fix.exists():
        raise UserError(f"--fix {fix}: exists already and is never overwritten; choose another folder")
    for folder in own_folders(config):
        if fix.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--fix {fix}: lies in {folder} of the data set, which is never changed; choose another folder"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        UserError: If there are errors in the data set, or with --strict warnings.
    """
    parser = _Parser(prog="python -m utils.data.lint", description=__doc__)
    parser.add_argument("data", help="data set YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="long side of the images in training (default: 640)")
    parser.add_argument("--strict", action="store_true", help="fail for warnings too")
    parser.add_argument("--fix", type=Path, metavar="FOLDER", help="write a mended copy of the data set there")
    parser.add_argument("--project", default="runs/lint", help="folder of all runs (default: runs/lint)")
    parser.add_argument("--name", default="exp", help="folder of this run, numbered if it exists (default: exp)")
    options = parser.parse_args(argv)
    if not 1 <= options.imgsz <= MAX_SIDE:
        raise UserError(f"--imgsz {options.imgsz}: expected 1 to {MAX_SIDE} pixels")
    found = lint(options.data, imgsz=options.imgsz, project=options.project, name=options.name, fix=options.fix)
    if found["error"] or (options.strict and found["warning"]):
        raise UserError(f"{options.data}: found {found['error']} errors and {found['warning']} warnings, see above")


if __name__ == "__main__":
    sys.exit(run_command(main))
