"""Published figures: read from CSV files, checked, and looked up for one study.

`config/published/README.md` says what they are. Standard library only: the workflow reads them at
start.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mergeloom.errors import MergeloomError

FOLDER = "published"
NAMES = ("method", "encoder", "benchmark", "experts")
VALUES = ("accuracy", "normalized_accuracy", "per_task", "source")
AVERAGES = (*NAMES, *VALUES)
PER_TASK = (*NAMES, "task", *VALUES)
CORRUPTED = (*NAMES, "images", *VALUES)


class Figure(NamedTuple):
    """One published figure. Accuracies are fractions, normalized_accuracy None if not published;
    `task` is empty for an average over tasks, `images` where they are not corrupted."""

    method: str
    encoder: str
    benchmark: str
    experts: str
    task: str
    accuracy: float
    normalized_accuracy: float | None
    per_task: bool
    source: str
    images: str = ""


def read_published(folders: Iterable[Path]) -> list[Figure]:
    """Read `published/*.csv` of preset folders, in percent there, as fractions here.

    Raises
    ------
    MergeloomError
        A file has other columns, or a line a field that is missing, no name, no number, out of
        range, or given before; the message names file and line.
    """
    figures: list[Figure] = []
    seen: dict[tuple[str, ...], str] = {}
    for folder in folders:
        for path in sorted((Path(folder) / FOLDER).glob("*.csv")):
            for where, figure in _lines(path):
                key = (*figure[:5], figure.images)
                if key in seen:
                    raise MergeloomError(
                        f"{where}: {' '.join(filter(None, key))} stands in {seen[key]} already.\n"
                        "Keep one of the two lines: a table can show one published figure."
                    )
                seen[key] = where
                figures.append(figure)
    return figures


def lookup(
    figures: Iterable[Figure], encoder: str, benchmark: str, experts: str, images: str = ""
) -> dict[str, dict[str, Figure]]:
    """The published figures of one encoder, benchmark, collection of experts and kind of images, by
    method and by task; the task of an average is empty, and so are `images` as they are."""
    study = (encoder, benchmark, experts, images)
    known: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        if (figure.encoder, figure.benchmark, figure.experts, figure.images) == study:
            known.setdefault(figure.method, {})[figure.task] = figure
    return known


def _lines(path: Path) -> Iterator[tuple[str, Figure]]:
    try:
        yield from _read(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise MergeloomError(f"{path}: not a CSV file in UTF-8: {error}") from None


def _read(path: Path) -> Iterator[tuple[str, Figure]]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        columns = tuple(next(lines, ()))
        if columns not in (AVERAGES, PER_TASK, CORRUPTED):
            raise MergeloomError(
                f"{path}, line 1: the columns are {', '.join(columns) or 'none'}, but must be "
                f"{', '.join(AVERAGES)}; for figures of single tasks, {', '.join(PER_TASK)}; or, "
                f"for averages on corrupted images, {', '.join(CORRUPTED)}."
            )
        for fields in lines:
            where = f"{path}, line {lines.line_num}"
            if len(fields) != len(columns):
                raise MergeloomError(
                    f"{where}: {len(fields)} fields, but there are {len(columns)} columns. "
                    "A text with a comma must stand in double quotes."
                )
            yield where, _figure(dict(zip(columns, fields, strict=True)), where)


def _figure(row: dict[str, str], where: str) -> Figure:
    for column in (*NAMES, *(name for name in ("task", "images") if name in row)):
        if not re.fullmatch(r"[\w.-]+", row[column]):
            raise MergeloomError(f"{where}: {column} is {row[column]!r}, which is no name")
    if row["per_task"] not in ("true", "false"):
        raise MergeloomError(f"{where}: per_task is {row['per_task']!r}, but must be true or false")
    if not row["source"].strip():
        raise MergeloomError(f"{where}: source is empty; say where the figure is published")
    normalized = row["normalized_accuracy"]
    return Figure(
        method=row["method"],
        encoder=row["encoder"],
        benchmark=row["benchmark"],
        experts=row["experts"],
        task=row.get("task", ""),
        accuracy=_percent(row["accuracy"], "accuracy", where, most=100),
        # A merged model may be better than the fine-tuned one.
        normalized_accuracy=_percent(normalized, "normalized_accuracy", where, most=200)
        if normalized
        else None,
        per_task=row["per_task"] == "true",
        source=row["source"],
        images=row.get("images", ""),
    )


def _percent(text: str, column: str, where: str, most: int) -> float:
    """A number in percent as a fraction; at least 1, so that no fraction is taken for percent."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 1 <= value <= most:
        raise MergeloomError(f"{where}: {column} is {text!r}, but must be in percent, 1 to {most}")
    return round(value / 100, 8)  # 0.8322 for 83.22, without the noise of the division
