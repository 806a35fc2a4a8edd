"""Write what the CSV files in benchmarks/results hold into docs/performance.md, as tables and pictures.

python -m benchmarks.render
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.cost import cost_section
from benchmarks.tables import Row, group, loader_table, model_table, nms_table, op_tables, origins
from utils.cli import run_command
from utils.errors import UserError
from utils.files import PROGRAM_ROOT, write_text

BEGIN, END = "<!-- results: written by benchmarks/render.py -->", "<!-- end of results -->"
NO_GPU = "**No figure here comes from a GPU: none was at hand.**"

_SECTIONS = {
    "akconv": ("The op", op_tables),
    "model": ("Whole models", model_table),
    "loader": ("Training loader", loader_table),
    "nms": ("Non-maximum suppression", nms_table),
}


def main(results: Path = PROGRAM_ROOT / "benchmarks/results", doc: Path = PROGRAM_ROOT / "docs/performance.md") -> None:
    """Render the results.

    Args:
        results: Folder of CSV files, whose names begin with akconv, model, loader or nms.
        doc: File in which the part between the two markers is replaced; pictures go to images/ beside it.

    Raises:
        UserError: If there are no results, or the document has no markers.
    """
    tables = {kind: read(results.glob(f"{kind}*.csv")) for kind in _SECTIONS}
    everything = [row for rows in tables.values() for row in rows]
    if not everything:
        raise UserError(f"{results}: no results; run the benchmarks first")
    head, begin, rest = doc.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{doc}: expected the lines {BEGIN} and {END}")
    parts = [] if any(row["gpu"] for row in everything) else [NO_GPU]
    for number, machine in enumerate(group(everything, machine_of)):
        parts.append(f"## {machine}")
        own = {kind: [row for row in rows if machine_of(row) == machine] for kind, rows in tables.items()}
        for kind, (title, table) in _SECTIONS.items():
            if own[kind]:
                parts += [f"### {title}", table(own[kind]), f"Measured with {origins(own[kind])}."]
        picture = f"akconv-cost{number + 1 if number else ''}.png"
        parts += cost_section(own["akconv"], doc.parent / "images" / picture)
    write_text(doc, "\n\n".join((head + begin, *parts, end + tail)))


def read(files: Iterable[Path]) -> list[Row]:
    """The rows of CSV files, in the order of their names, each with the name as its "run"."""
    rows: list[Row] = []
    for file in sorted(files):
        with file.open(newline="", encoding="utf-8") as stream:
            rows += [row | {"run": file.stem} for row in csv.DictReader(stream)]
    return rows


def machine_of(row: Row) -> str:
    """Where a row was measured."""
    return row["gpu"] or row["cpu"]


if __name__ == "__main__":
    sys.exit(run_command(main))
