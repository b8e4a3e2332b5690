"""Markdown tables that can be read in a terminal: columns are aligned, and wide tables split."""

from collections.abc import Iterable, Sequence
from typing import Final

WIDTH: Final = 132
"""Characters in a line of a table; a wider one is split. Terminals have 80 or 132."""

Column = Sequence[str]  # a title and the cells below it


def tables(left: Sequence[Column], right: Sequence[Column]) -> list[str]:
    """Lines of a table, or of several where one is too wide, each with the columns of `left`.

    Columns of `left` are words, aligned left; those of `right` are numbers, aligned right.
    """
    return next(
        lines for count in range(1, len(right) + 1) if (lines := _split(left, right, count))
    )


def _split(left: Sequence[Column], right: Sequence[Column], count: int) -> list[str] | None:
    """The lines of `count` tables of about as many columns each, or None if one is too wide."""
    each = -(-len(right) // count)
    found = [aligned(left, right[start : start + each]) for start in range(0, len(right), each)]
    if each > 1 and max(len(table[0]) for table in found) > WIDTH:
        return None
    return [line for table in found for line in ("", *table)][1:]


def aligned(left: Sequence[Column], right: Sequence[Column]) -> list[str]:
    """Lines of one table, whatever its width."""
    padded = [[text.ljust(_width(column)) for text in column] for column in left]
    padded += [[text.rjust(_width(column)) for text in column] for column in right]
    rule = [f"|{'-' * (_width(c) + 2)}" for c in left] + [
        f"|{'-' * (_width(c) + 1)}:" for c in right
    ]
    lines = [f"| {' | '.join(row)} |" for row in zip(*padded, strict=True)]
    return [lines[0], "".join(rule) + "|", *lines[1:]]


def _width(column: Iterable[str]) -> int:
    return max(map(len, column))
