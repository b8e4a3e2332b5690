"""Which pairs of models a question is about: all, within and between categories, of an anchor."""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from mergeloom.errors import MergeloomError

ALL: Final = "all"
CHOSEN: Final = "chosen"
ANCHOR: Final = "anchor"
MODEL: Final = "model"  # what a criterion calls a model's own name


class Criterion(NamedTuple):
    """A condition on models: + for those that have `value` in `column`, - for all others."""

    sign: str
    column: str
    value: str


class PairSet(NamedTuple):
    """Pairs of one model of `first` and one of `second`, unordered, no model with itself.

    kind : `all`, `chosen`, `anchor …`, or the column whose categories `name_1` and `name_2` are.
    first, second : bool [M].
    """

    kind: str
    name_1: str
    name_2: str
    first: np.ndarray
    second: np.ndarray

    def pairs(self) -> np.ndarray:
        """Numbers of the models of each pair, int64 [2, P], the smaller first."""
        one, other = np.triu_indices(len(self.first), k=1)
        wanted = (self.first[one] & self.second[other]) | (self.second[one] & self.first[other])
        return np.stack([one[wanted], other[wanted]])

    def strata(self) -> np.ndarray:
        """Models that are resampled together, int64 [M]: in one set, in the other, in both."""
        return self.first.astype(np.int64) + 2 * self.second.astype(np.int64) - 1


def all_pairs(count: int) -> PairSet:
    """All pairs of `count` models: 2016 of the study's 64."""
    every = np.ones(count, dtype=bool)
    return PairSet(ALL, ALL, ALL, every, every)


def category_pairs(table: pd.DataFrame, column: str) -> list[PairSet]:
    """Pairs within and between the categories of a column, categories in alphabetical order.

    Parameters
    ----------
    table : a row for each model, in the order of the similarities. Models without a category there
        (NaN) are in none.

    Raises
    ------
    MergeloomError – no such column.
    """
    values = _column(table, column)
    categories = sorted({value for value in values if value is not None})
    masks = {name: np.array([value == name for value in values]) for name in categories}
    return [
        PairSet(column, one, other, masks[one], masks[other])
        for one, other in combinations_with_replacement(categories, 2)
    ]


def anchor_pairs(table: pd.DataFrame, anchor: str, column: str) -> list[PairSet]:
    """Pairs of one model with those of each category of a column.

    Raises
    ------
    MergeloomError – no such model or column.
    """
    is_anchor = np.asarray(table.index == anchor)
    if not is_anchor.any():
        raise MergeloomError(
            f"anchor: there is no model {anchor!r}, models are {', '.join(map(str, table.index))}"
        )
    values = _column(table, column)
    categories = sorted({value for value in values if value is not None})
    return [
        PairSet(
            f"{ANCHOR} {column}",
            anchor,
            name,
            is_anchor,
            np.array([value == name for value in values]) & ~is_anchor,
        )
        for name in categories
    ]


def choose_models(table: pd.DataFrame, criteria: Sequence[Criterion]) -> np.ndarray:
    """Models that have, in each column that a + names, one of its values, and no value of a −.

    Parameters
    ----------
    table : a row for each model, whose name is the index; a criterion's column may be `model`.

    Returns
    -------
    bool [M].

    Raises
    ------
    MergeloomError – a sign, column or value that there is not, or criteria that no model fits.
    """
    chosen = np.ones(len(table), dtype=bool)
    wanted: dict[str, set[str]] = {}
    for sign, column, value in criteria:
        values = _column(table, column)
        if sign not in ("+", "-"):
            raise MergeloomError(f"criterion {column} {value}: the sign is {sign!r}, give + or -")
        if value not in values:
            known = ", ".join(sorted({str(name) for name in values if name is not None}))
            raise MergeloomError(
                f"criterion {sign} {column}: no model has {value!r} there, values are {known}"
            )
        if sign == "+":
            wanted.setdefault(column, set()).add(value)
        else:
            chosen &= np.array([each != value for each in values])
    for column, those in wanted.items():
        chosen &= np.array([each in those for each in _column(table, column)])
    if not chosen.any():
        text = ", ".join(" ".join(criterion) for criterion in criteria)
        raise MergeloomError(f"criteria {text}: no model fits them all, so leave one out")
    return chosen


def chosen_pairs(
    table: pd.DataFrame, sets: Mapping[str, Sequence[Criterion]], one: str, other: str
) -> PairSet:
    """Pairs of two sets of models, or within one, that criteria choose.

    Parameters
    ----------
    sets : criteria by the sets' names, of which `one` and `other` are two, or the same.
    """
    return PairSet(
        CHOSEN, one, other, choose_models(table, sets[one]), choose_models(table, sets[other])
    )


def _column(table: pd.DataFrame, column: str) -> list[str | None]:
    if column == MODEL:
        return [str(name) for name in table.index]
    if column not in table:
        raise MergeloomError(
            f"models have no column {column!r}, columns are "
            f"{', '.join([MODEL, *map(str, table.columns)])}"
        )
    return [None if pd.isna(value) else str(value) for value in table[column]]
