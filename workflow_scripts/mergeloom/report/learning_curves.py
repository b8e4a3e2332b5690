"""Learning curves: loss and accuracy per epoch of every task of an experts collection."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mergeloom.errors import MergeloomError
from mergeloom.report import style

COLUMNS: Final = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
TRAIN: Final[dict[str, Any]] = {
    "color": "#0072B2",
    "linestyle": (0, (4, 1.6)),
    "marker": "s",
    "markersize": 3,
}
VALIDATION: Final[dict[str, Any]] = {
    "color": "#D55E00",
    "linestyle": "-",
    "marker": "o",
    "markersize": 3,
}


def learning_curves(histories: Mapping[str, pd.DataFrame], subject: str = "") -> Figure:
    """Draw how the fine-tuning of each task went.

    Parameters
    ----------
    histories : task → the rows of training.parquet: epoch (0 is before training), train_loss,
        train_accuracy, val_loss, val_accuracy (NaN where unknown); other columns are not used.

    Raises
    ------
    MergeloomError
        There is no task, a column is missing, or a history has no row.
    """
    if not histories:
        raise MergeloomError("No training history was given. Give at least one task's.")
    for task, history in histories.items():
        missing = [column for column in COLUMNS if column not in history]
        if missing or history.empty:
            raise MergeloomError(
                f"Training history of {task}: has {len(history)} rows and the columns "
                f"{', '.join(history.columns)}; missing: {', '.join(missing) or 'rows'}.\n"
                "Delete its training.parquet and train again."
            )
    rows, columns = style.grid(len(histories), 5)
    height = (3.1 if rows == 1 else 2.7) * rows + 1.2
    with style.figure(
        max(2.25 * columns + 0.6, 5), height, "Fine-tuning, task by task", subject
    ) as fig:
        panels = fig.subplots(
            2 * rows, columns, sharex=True, sharey=False, squeeze=False, height_ratios=[3, 2] * rows
        )
        for index, (task, history) in enumerate(histories.items()):
            row, column = divmod(index, columns)
            _task(panels[2 * row, column], panels[2 * row + 1, column], task, history)
        for index in range(len(histories), rows * columns):
            row, column = divmod(index, columns)
            panels[2 * row, column].set_visible(False)
            panels[2 * row + 1, column].set_visible(False)
        for row in range(rows):
            panels[2 * row, 0].set_ylabel("accuracy")
            panels[2 * row + 1, 0].set_ylabel("loss")
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
        fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return fig


def _task(accuracy: Axes, loss: Axes, task: str, history: pd.DataFrame) -> None:
    for axes, quantity in ((accuracy, "accuracy"), (loss, "loss")):
        for split, look, name in (
            ("train", TRAIN, "training"),
            ("val", VALIDATION, "validation (epoch 0: zero-shot)"),
        ):
            known = history.dropna(subset=[f"{split}_{quantity}"])
            axes.plot(known["epoch"], known[f"{split}_{quantity}"], **look, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3))
    accuracy.set_ylim(0, 1.03)
    accuracy.set_yticks([0, 0.5, 1])
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    loss.set_ylim(bottom=0)
    last = history["val_accuracy"].dropna()
    if not last.empty:
        accuracy.annotate(
            f"{100 * last.iloc[-1]:.1f}%",
            (1, 0),
            xycoords="axes fraction",
            xytext=(-3, 4),
            textcoords="offset points",
            ha="right",
            color=VALIDATION["color"],
        )
    accuracy.set_title(task, fontsize=9)
