"""Rows of comma-separated numbers, as several official data sets have them."""

import math
from collections.abc import Sequence

from utils.data.labels import BadRow


def split_row(line: str, columns: Sequence[str]) -> list[str]:
    """The columns of one row; a comma at its end is ignored.

    Raises:
        BadRow: If it has more or fewer columns.
    """
    tokens = line.strip().removesuffix(",").split(",")
    if len(tokens) != len(columns):
        found = f"{len(tokens)} column{'s' * (len(tokens) != 1)}"
        raise BadRow(found, f"{len(columns)} ({','.join(columns)})", "restore or correct the row")
    return tokens


def read_number(token: str) -> float:
    """The finite number that a column holds.

    Raises:
        BadRow: If it holds something else.
    """
    try:
        value = float(token.replace("_", "?"))  # float() would read 1_0 as ten
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRow(repr(token), "a number", "correct the row")
    return value
