"""Accuracy on corrupted images: a row per corruption and merger, and the averages side by side."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import pandas as pd

from mergeloom.report.results import Result, in_order
from mergeloom.report.tables import marked

CLEAN = "clean"


def summary(results: Iterable[Result], tasks: Sequence[str]) -> pd.DataFrame:
    """Put results on clean and on corrupted images of one benchmark into a table.

    Parameters
    ----------
    results : contents of the result JSONs; those on the same images stand together.

    Returns
    -------
    DataFrame with the columns images (`clean`, or corruption and severity), merger, per_task,
    alpha, accuracy, normalized_accuracy, and the accuracy of every task.

    Raises
    ------
    MergeloomError
        The results on the same images do not belong together, see
        `mergeloom.report.results.in_order`.
    """
    rows = []
    for images, found in groupby(results, key=_images):
        for result in in_order(found, tasks):
            rows.append(
                {
                    "images": images,
                    "merger": result["merger"]["name"],
                    "per_task": result["merger"]["per_task"],
                    "alpha": result["alpha"]["value"] if result["alpha"] else float("nan"),
                    "accuracy": result["average"]["accuracy"],
                    "normalized_accuracy": result["average"]["normalized_accuracy"],
                    **{task: result["tasks"][task]["accuracy"] for task in tasks},
                }
            )
    return pd.DataFrame(rows)


def _images(result: Result) -> str:
    on = result.get("evaluated_on")
    return f"{on['corruption']}{on['severity']}" if on else CLEAN


def markdown(frame: pd.DataFrame) -> str:
    """Write average accuracies in percent, a row per merger, a column per kind of images.

    The last column is the mean over corruptions.
    """
    kinds = list(dict.fromkeys(frame["images"]))
    columns = [*kinds, "mean of corrupted"]
    lines = [f"| merger | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for _, rows in frame.groupby("merger", sort=False):
        accuracies = dict(zip(rows["images"], rows["accuracy"], strict=True))
        corrupted = [accuracies[kind] for kind in kinds if kind != CLEAN]
        cells = [accuracies[kind] for kind in kinds] + [sum(corrupted) / len(corrupted)]
        lines.append(
            f"| {marked(rows.iloc[0])} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |"
        )
    if (frame["per_task"] & (frame["merger"] != "finetuned")).any():
        lines += ["", "\\* one model per task, which is told its task"]
    return "\n".join(lines) + "\n"
