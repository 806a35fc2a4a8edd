"""Write what the CSV files in benchmarks/results hold into docs/performance.md, as tables and pictures.

python -m benchmarks.render
"""

import csv
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cost import cost_section
from benchmarks.goals import goals_table
from benchmarks.markdown import Row, coco_table, group, loader_table, model_table, nms_table, op_tables, origins
from utils.cli import run_command
from utils.config import option, parse_options
from utils.errors import UserError
from utils.files import PROGRAM_ROOT, write_text

logger = logging.getLogger(__name__)

BEGIN, END = "<!-- results: written by benchmarks/render.py -->", "<!-- end of results -->"
NO_GPU = "**No figure here comes from a GPU: none was at hand.**"

_SECTIONS = {
    "akconv": ("The op", op_tables),
    "model": ("Whole models", model_table),
    "loader": ("Training loader", loader_table),
    "nms": ("Non-maximum suppression", nms_table),
    "coco": ("COCO's numbers", coco_table),
}


@dataclass(frozen=True)
class RenderOptions:
    """Options of this command."""

    results: str = option("benchmarks/results", "folder of CSV files, named akconv*, model*, loader*, nms* or coco*")
    doc: str = option("docs/performance.md", "file whose part between two markers is replaced; pictures go to images/")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = parse_options(RenderOptions, argv, prog="render", description=__doc__ or "")
    render(PROGRAM_ROOT / options.results, PROGRAM_ROOT / options.doc)


def render(results: Path, doc: Path) -> None:
    """Render the results.

    Args:
        results: Folder of CSV files, whose names begin with akconv, model, loader, nms or coco.
        doc: File in which the part between the two markers is replaced; pictures go to images/ beside it.

    Raises:
        UserError: If there are no results, a column is missing, a cell is no number, or the document has no markers.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; expected the CSV files of the benchmarks there")
    tables = {kind: read(results.glob(f"{kind}*.csv")) for kind in _SECTIONS}
    everything = [row for rows in tables.values() for row in rows]
    if not everything:
        raise UserError(f"{results}: no results; run the benchmarks first")
    for kind in (kind for kind, rows in tables.items() if not rows):
        logger.warning("%s: no results of bench_%s, its section is left out", results, kind)
    head, begin, rest = doc.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{doc}: expected the lines {BEGIN} and {END}")
    try:
        body = sections(tables, everything, doc.parent / "images")
    except KeyError as error:
        raise UserError(f"{results}: found a file without the column {error}; run its benchmark again") from error
    except ValueError as error:
        raise UserError(
            f"{results}: found a cell that should be a number ({error}); run its benchmark again"
        ) from error
    write_text(doc, "\n\n".join((head + begin, *body, end + tail)))


def sections(tables: dict[str, list[Row]], everything: list[Row], images: Path) -> list[str]:
    """What stands between the markers, one chapter for each machine."""
    parts = [] if any(row["gpu"] for row in everything) else [NO_GPU]
    for number, machine in enumerate(group(everything, machine_of)):
        parts.append(f"## {machine}")
        own = {kind: [row for row in rows if machine_of(row) == machine] for kind, rows in tables.items()}
        if goals := goals_table(own["akconv"], own["model"]):
            parts += ["### Goals", goals]
        for kind, (title, table) in _SECTIONS.items():
            text = table(own[kind]) if own[kind] else ""
            if text:
                parts += [f"### {title}", text, f"Measured with {origins(own[kind])}."]
            elif own[kind]:
                logger.warning(
                    "%s: no file of bench_%s has the default offsets only, so its main tables are left out; run it "
                    "without --spread and --shift",
                    machine,
                    kind,
                )
        picture = f"akconv-cost{number + 1 if number else ''}.png"
        parts += cost_section(own["akconv"], images / picture)
    return parts


def read(files: Iterable[Path]) -> list[Row]:
    """The rows of CSV files, in the order of their names, each with the name as its "run".

    Raises:
        UserError: If a file is no text, or a line has not as many cells as the first or repeats it.
    """
    rows: list[Row] = []
    for file in sorted(files):
        try:
            header, *lines = list(csv.reader(file.read_text(encoding="utf-8").splitlines())) or [[]]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file}: no CSV file ({error}); run its benchmark again") from error
        for number, line in enumerate(lines, 2):
            if len(line) != len(header) or line == header:
                raise UserError(
                    f"{file}:{number}: found {len(line)} cells, expected a row of {len(header)} under the first line; "
                    "remove this line or run the benchmark again"
                )
            rows.append(dict(zip(header, line, strict=True)) | {"run": file.stem})
    return rows


def machine_of(row: Row) -> str:
    """Where a row was measured."""
    return row["gpu"] or row["cpu"]


if __name__ == "__main__":
    sys.exit(run_command(main))
