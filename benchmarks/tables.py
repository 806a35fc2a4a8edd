"""The published tables of AKConv beside ours, and the recipe of every row.

python benchmarks/tables.py                                               # both tables
python benchmarks/tables.py --row coco:yolov5n-ak5                        # the commands that make a row
python benchmarks/tables.py --row coco:yolov5n-ak5 --run                  # run them; what is done is not done again
python benchmarks/tables.py --row visdrone:yolov5n-ak5 --scale smoke      # all steps on drawn pictures, in minutes
"""

import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a script: its folder holds names of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.markdown import markdown
from benchmarks.published_tables import PUBLISHED
from benchmarks.recipes import RESULTS, SCALES, Recipe, find_recipe, recipes
from benchmarks.rows import make_row, read_row
from models import Model
from models.summary import Cost, cost
from utils.cli import run_command
from utils.config import option, parse_options
from utils.errors import UserError

logger = logging.getLogger(__name__)

_MARK = "(*)"
_ORIGIN = """\
# Published are the model, the data set and the cost at 640 px, but no schedule: 300 epochs are those of YOLOv5's own
# COCO models, the IoU of suppression on COCO is that of its final evaluation, all else are its defaults."""


@dataclass(frozen=True)
class TableOptions:
    """Options of this command."""

    row: str = option("", "one row, such as coco:yolov5n-ak5, instead of the tables")
    run: bool = option(False, "run the commands of --row instead of printing them")
    scale: str = option("full", "smoke runs --row on drawn pictures", choices=SCALES)


def main(argv: list[str] | None = None, results: Path = RESULTS) -> None:
    """Run the command.

    Args:
        argv: Arguments, by default those of the process.
        results: Where the runs of rows are.
    """
    options = parse_options(TableOptions, argv, prog="tables", description=__doc__ or "")
    smoke = options.scale != "full"
    if not options.row:
        if options.run or smoke:
            raise UserError("tables: --run and --scale need --row, such as --row visdrone:yolov5n-ak5")
        print("\n\n".join(full_table(key, results) for key in PUBLISHED))
        return
    recipe = find_recipe(options.row, options.scale, results)
    if not (options.run or smoke):
        print(commands(recipe))
        return
    make_row(recipe)
    print(f"\n{smoke_table(recipe) if smoke else full_table(recipe.key, results)}")


def full_table(key: str, results: Path) -> str:
    """A published table; behind every figure the one that was computed or measured here."""
    table = PUBLISHED[key]
    lines, remarks = [], []
    for recipe in recipes(key, "full", results):
        row, counted, measured = recipe.published, count(recipe), measured_percent(recipe)
        cells = [f"{printed} / {ours}" for printed, ours in zip(row.metrics, measured, strict=True)]
        for printed, value, digits in ((row.gflops, counted.gflops, 3), (row.parameters, counted.parameters / 1e6, 6)):
            mark = "" if agrees(value, printed) else f" {_MARK}"
            cells.append(f"{printed} / {value:.{digits}f}{mark}")
            if mark:
                remarks.append(f"{_MARK} {row.model}: {row.remark or 'does not agree with the published figure'}.")
        lines.append((row.model, row.n, *cells))
    header = ("model", "N", *table.metrics, "GFLOPs", "parameters, M")
    return "\n\n".join((f"### {table.title}: published / ours", markdown(header, lines), *remarks))


def smoke_table(recipe: Recipe) -> str:
    """What the steps gave on drawn pictures.

    Raises:
        UserError: If nothing was detected, so that nothing is proven.
    """
    metrics = read_row(recipe)
    main_metric = "AP" if "AP" in metrics else "mAP"
    if not metrics[main_metric]:
        raise UserError(f"{recipe.name}: {main_metric} is {metrics[main_metric]}, so the smoke test proves nothing")
    counted, row = count(recipe), recipe.published
    cells = (f"{counted.gflops:.3f}", f"{counted.parameters / 1e6:.6f}")
    header = ("model", "scale", "N", *recipe.table.metrics, "GFLOPs", "parameters, M")
    line = (row.model, "**smoke**", row.n, *measured_percent(recipe), *cells)
    note = "Figures of drawn pictures after a few epochs show that every step works, and nothing else."
    return f"### Smoke test of {recipe.name}\n\n{markdown(header, [line])}\n\n{note}"


def measured_percent(recipe: Recipe) -> list[str]:
    """The row's metrics as they are printed; dashes for those that were not measured here."""
    try:
        metrics = read_row(recipe)
    except UserError as error:
        logger.warning("%s is left empty: %s", recipe.name, error)
        metrics = {}
    values = (metrics.get(name) for name in recipe.table.metrics)
    return ["-" if value is None else f"{100 * value:.1f}" for value in values]


def count(recipe: Recipe) -> Cost:
    """Size and cost of the row's model by the published rule."""
    return cost(Model(f"{recipe.published.model}.yaml", nc=recipe.table.nc), fused=True)


def agrees(value: float, printed: str) -> bool:
    """Whether a figure rounds to the printed one."""
    return round(value, len(printed.partition(".")[2])) == float(printed)


def commands(recipe: Recipe) -> str:
    """The commands of a row, as typed in the program's folder, and where their settings come from."""
    steps = (recipe.prepare_command(), recipe.train_command(), recipe.val_command())
    return "\n".join((_ORIGIN, *(shlex.join(("python", *arguments)) for arguments in steps)))


if __name__ == "__main__":
    sys.exit(run_command(main))
