"""The summary of a benchmark: a row per merger, absolute and normalized accuracies, and alpha."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mergeloom.io.atomic import atomic_path
from mergeloom.report.published import Figure, lookup
from mergeloom.report.results import Result, in_order

PUBLISHED_COLUMNS = ("published_accuracy", "published_normalized_accuracy", "published_source")
METRICS = ("top5", "mean_class_recall", "ece")  # on request


def summary(
    results: Iterable[Result],
    tasks: Sequence[str] | None = None,
    published: Iterable[Figure] = (),
) -> pd.DataFrame:
    """Put the results of one benchmark into a table.

    Parameters
    ----------
    results : contents of the result JSONs; zero-shot and fine-tuned stand anywhere.
    tasks : order of the task columns; default: as in the first result.
    published : published figures; only those of the results' own encoder, experts and benchmark are
        taken.

    Returns
    -------
    DataFrame with the rows zeroshot, the mergers in the order given, finetuned, and the columns
    merger, per_task (one model per task, told which it is), alpha (NaN for finetuned), alpha_how
    (search, table, fixed or empty), accuracy and normalized_accuracy (averages over tasks), then
    `<task>` and `<task>_normalized` per task. Accuracies are fractions: 1 is all right; normalized,
    1 is as good as the fine-tuned model. Where a merger's average is published, the columns
    published_accuracy, published_normalized_accuracy (NaN where not published) and published_source
    stand before those of the tasks; where an accuracy on a task is, `<task>_published` stands after
    `<task>_normalized`. Metrics on request follow where the results have them: `<metric>`, the
    average, and `<task>_<metric>`.

    Raises
    ------
    MergeloomError
        The results do not belong together, see `mergeloom.report.results.in_order`.
    """
    ordered = in_order(results, tasks)
    first = ordered[0]
    known = lookup(published, first["encoder"], first["benchmark"], first["experts"])
    tasks = tasks or list(first["tasks"])
    frame = pd.DataFrame([_row(r, tasks, known.get(r["merger"]["name"], {})) for r in ordered])
    empty = [f"{task}_published" for task in tasks if frame[f"{task}_published"].isna().all()]
    if (frame["published_source"] == "").all():
        empty += PUBLISHED_COLUMNS
    return frame.drop(columns=empty)


def _row(
    result: Result, tasks: Sequence[str], published: Mapping[str, Figure]
) -> dict[str, str | float | bool]:
    alpha = result["alpha"] or {"value": None, "how": ""}
    row: dict[str, str | float | bool] = {
        "merger": result["merger"]["name"],
        "per_task": result["merger"]["per_task"],
        "alpha": np.nan if alpha["value"] is None else float(alpha["value"]),
        "alpha_how": alpha["how"],
        "accuracy": result["average"]["accuracy"],
        "normalized_accuracy": result["average"]["normalized_accuracy"],
    }
    average = published.get("")
    normalized = None if average is None else average.normalized_accuracy
    row["published_accuracy"] = np.nan if average is None else average.accuracy
    row["published_normalized_accuracy"] = np.nan if normalized is None else normalized
    row["published_source"] = "" if average is None else average.source
    for task in tasks:
        row[task] = result["tasks"][task]["accuracy"]
        row[f"{task}_normalized"] = result["tasks"][task]["normalized_accuracy"]
        row[f"{task}_published"] = published[task].accuracy if task in published else np.nan
    for metric in METRICS:
        if metric in result["average"]:
            row[metric] = result["average"][metric]
            row |= {f"{task}_{metric}": result["tasks"][task][metric] for task in tasks}
    return row


def tasks_of(frame: pd.DataFrame) -> list[str]:
    """Tasks of a summary, in its order."""
    return [column for column in frame.columns if f"{column}_normalized" in frame.columns]


def mergers_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a summary that are neither zero-shot nor fine-tuned, numbered from 0."""
    return frame[~frame["merger"].isin(["zeroshot", "finetuned"])].reset_index(drop=True)


def reference(frame: pd.DataFrame, merger: str) -> pd.Series | None:
    """Row of `merger` ("zeroshot" or "finetuned") in a summary, or None."""
    rows = frame[frame["merger"] == merger]
    return None if rows.empty else rows.iloc[0]


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, atomically, with six decimals and an empty field for NaN."""
    with atomic_path(Path(path)) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what `write_csv` wrote of a summary."""
    words = ["merger", "alpha_how", "published_source"]
    frame = pd.read_csv(path, dtype=dict.fromkeys(words, str))
    return frame.fillna(dict.fromkeys(words, ""))


def markdown(frame: pd.DataFrame) -> str:
    """Write a summary as a Markdown table in percent, "absolute (normalized)", with one decimal.

    The best merged model of a column is bold; zero-shot, fine-tuned and mergers that give one model
    per task do not compete. The latter are marked. Published averages have a column beside ours,
    and their sources stand below.
    """
    columns = {"average": "accuracy"} | {task: task for task in tasks_of(frame)}
    competing = mergers_of(frame).query("not per_task")
    best = competing[list(columns.values())].round(3).max()
    published = "published_accuracy" in frame.columns
    titles = [*columns]
    if published:
        titles.insert(1, "published")
    lines = [
        f"| merger | α | {' | '.join(titles)} |",
        f"|---|---:|{'---:|' * len(titles)}",
    ]
    for _, row in frame.iterrows():
        competes = row["merger"] in set(competing["merger"])
        cells = [marked(row), "" if pd.isna(row["alpha"]) else f"{row['alpha']:g}"]
        for column in columns.values():
            relative = "normalized_accuracy" if column == "accuracy" else f"{column}_normalized"
            cell = _cell(row[column], row[relative])
            wins = competes and round(row[column], 3) == best[column]
            cells.append(f"**{cell}**" if wins else cell)
        if published:
            cells.insert(3, _cell(row["published_accuracy"], row["published_normalized_accuracy"]))
        lines.append(f"| {' | '.join(cells)} |")
    if mergers_of(frame)["per_task"].any():
        lines += ["", "\\* one model per task, which is told its task"]
    if published:
        lines += ["", "Published:", ""]
        shown = frame[frame["published_source"] != ""]
        lines += [f"- {row['merger']}: {row['published_source']}" for _, row in shown.iterrows()]
    return "\n".join(lines) + "\n"


def _cell(accuracy: float, normalized: float) -> str:
    """Two fractions in percent, "absolute (normalized)", without what is NaN."""
    if np.isnan(accuracy):
        return ""
    return f"{100 * accuracy:.1f}" + ("" if np.isnan(normalized) else f" ({100 * normalized:.1f})")


def marked(row: pd.Series) -> str:
    """Name of a row's merger, with a star if it gives one model per task."""
    starred = row["per_task"] and row["merger"] != "finetuned"
    return f"{row['merger']} \\*" if starred else str(row["merger"])
