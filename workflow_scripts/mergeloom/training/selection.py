"""Which epoch of a run a selection takes. Standard library only."""

import math
from collections.abc import Mapping, Sequence

from mergeloom.errors import MergeloomError

LAST = "last"
# What a selection maximises: a column of training.parquet.
SELECTIONS = {"max_val": "val_accuracy", "max_fim": "log_trace"}


def selected_epoch(rows: Sequence[Mapping[str, float]], selection: str, run: str) -> int:
    """Return the epoch that a selection takes: the last, or the first of the largest values.

    The state before training, epoch 0, is none that is selected.

    Parameters
    ----------
    rows : of a run, one per epoch from 0, in order.
    selection : `last`, `max_val` (validation accuracy) or `max_fim` (log-trace of the Fisher
        information on training images).
    run : what the rows are of, for the error.

    Raises
    ------
    MergeloomError – there is no such selection, the run recorded no such value, or had no epoch.
    """
    trained = [row for row in rows if row["epoch"] >= 1]
    if not trained:
        raise MergeloomError(f"{run}: holds no epoch of training; train again")
    if selection == LAST:
        return int(trained[-1]["epoch"])
    if selection not in SELECTIONS:
        there_is = ", ".join((LAST, *SELECTIONS))
        raise MergeloomError(f"unknown selection {selection!r}; there is: {there_is}")
    column = SELECTIONS[selection]
    if any(math.isnan(row.get(column, math.nan)) for row in trained):
        raise MergeloomError(
            f"{run}: {selection} takes the epoch of the largest {column}, which was not recorded; "
            "add log_trace to the preset of these experts and train again, or take another "
            "selection"
            if column == "log_trace"
            else f"{run}: {selection} takes the epoch of the largest {column}, which was not "
            "recorded; train again with validation images, or take another selection"
        )
    return int(max(trained, key=lambda row: row[column])["epoch"])
