"""What was found, as tables for people and as files for programs."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.data.lint.findings import LEVEL_OF, LEVELS, Finding
from utils.data.lint.survey import Survey
from utils.files import write_csv, write_text

COLUMNS = ("file", "line", "level", "kind", "found", "expected", "remedy")
_WIDTH = 120  # characters of an example in the table

Kinds = dict[str, list[Finding]]
"""Findings by kind, the worst kinds first."""


def group(findings: Iterable[Finding]) -> Kinds:
    """Findings by kind, in the order of `LEVEL_OF`, and in each by file and line."""
    kinds: Kinds = {kind: [] for kind in LEVEL_OF}
    for finding in sorted(findings, key=lambda finding: (str(finding.file), finding.line or 0)):
        kinds[finding.kind].append(finding)
    return {kind: found for kind, found in kinds.items() if found}


def count_levels(kinds: Kinds) -> dict[str, int]:
    """Number of findings of each level."""
    return {level: sum(len(found) for kind, found in kinds.items() if LEVEL_OF[kind] == level) for level in LEVELS}


def write_files(directory: Path, survey: Survey, kinds: Kinds, summary: dict[str, Any]) -> None:
    """Write report.json and problems.csv."""
    report = {
        "data": str(survey.config.file.absolute()),
        "findings": count_levels(kinds),
        "kinds": {kind: {"level": LEVEL_OF[kind], "count": len(found)} for kind, found in kinds.items()},
        "splits": summary,
    }
    write_text(directory / "report.json", json.dumps(report, indent=2) + "\n")
    rows = [[*_place(finding), *_told(finding)] for found in kinds.values() for finding in found]
    write_csv(directory / "problems.csv", [COLUMNS, *rows])


def _place(finding: Finding) -> tuple[object, object]:
    return finding.file, finding.line or ""


def _told(finding: Finding) -> tuple[str, ...]:
    return finding.level, finding.kind, finding.found, finding.expected, finding.remedy


def splits_table(summary: dict[str, Any]) -> str:
    """One line a split."""
    rows: list[Sequence[str]] = [("split", "images", "backgrounds", "objects", "per image", "side of a box, pixels")]
    for split, figures in summary.items():
        counts = [str(figures[key]) for key in ("images", "backgrounds", "objects")]
        spans = [_span(figures["objects in an image"]), _span(figures["side of a box"])]
        rows.append((split, *counts, *spans))
    return _table(rows)


def kinds_table(kinds: Kinds, root: Path) -> str:
    """One line a kind, with its first finding; paths below `root` start there."""
    rows: list[Sequence[str]] = [("level", "kind", "count", "first")]
    for kind, found in kinds.items():
        place = ":".join(map(str, filter(None, _place(found[0]))))
        first = f"{place}: {found[0].found}".replace(f"{root}/", "")
        rows.append(
            (LEVEL_OF[kind], kind, str(len(found)), first if len(first) <= _WIDTH else f"{first[: _WIDTH - 3]}...")
        )
    return _table(rows)


def _span(quantiles: dict[str, float] | None) -> str:
    if quantiles is None:
        return "-"
    return f"{quantiles['least']:g} .. {quantiles['50 %']:g} .. {quantiles['most']:g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
