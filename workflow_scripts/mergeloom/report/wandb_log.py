"""Optional logging of a benchmark's results to Weights & Biases."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mergeloom.errors import MergeloomError
from mergeloom.report.tables import tasks_of, write_csv


def log_summary(
    frame: pd.DataFrame,
    radar_png: str | Path,
    mode: Literal["offline", "online"],
    project: str,
    name: str,
    directory: str | Path,
    config: Mapping[str, Any],
) -> None:
    """Log a summary (see `mergeloom.report.tables.summary`) as one W&B run.

    The run holds the metrics `{merger}/accuracy`, `{merger}/normalized_accuracy` and
    `{merger}/tasks/{task}`, the radar chart, the table, and an artifact with `summary.csv`.

    Parameters
    ----------
    mode : "offline" writes below `directory` and contacts nothing (`wandb sync` sends it later);
        "online" needs `wandb login` or WANDB_API_KEY.
    name : of the run, for instance ViT-B-32-finetuned-N8; the artifact is `{name}-summary`.
    directory : where W&B keeps its files, in a folder `wandb`; made if it does not exist.
    config : what the run's page shows as its configuration.

    Raises
    ------
    MergeloomError
        The package wandb is not installed, `mode` is another, or the radar chart does not exist.
    """
    if mode not in ("offline", "online"):
        raise MergeloomError(f"wandb: the mode is {mode!r}, but it must be offline or online.")
    if not Path(radar_png).is_file():
        raise MergeloomError(f"{radar_png}: missing. Draw the radar chart before logging it.")
    try:
        import wandb  # an optional package, and slow to import
    except ImportError as error:
        raise MergeloomError(
            "wandb is not installed, but logging to W&B is switched on.\n"
            "Install it (pip install wandb), or set wandb.mode to disabled in the config."
        ) from error
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
    )
    with ExitStack() as stack:
        stack.enter_context(_environment(mode, directory))
        # A finished run may still be in the memory of wandb's service, which writes it at its end.
        stack.callback(wandb.teardown)
        run = stack.enter_context(
            wandb.init(
                mode=mode,
                project=project,
                name=name,
                dir=str(directory),
                config=dict(config),
                settings=settings,
            )
        )
        run.log(
            {
                **_metrics(frame),
                "radar": wandb.Image(str(radar_png)),
                "summary": wandb.Table(dataframe=frame),
            }
        )
        table = Path(run.dir) / "summary.csv"
        write_csv(table, frame)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"{name}-summary"), type="results")
        artifact.add_file(str(table), name="summary.csv")
        run.log_artifact(artifact)


@contextmanager
def _environment(mode: str, directory: Path) -> Iterator[None]:
    # Artifacts are staged, and logs kept, in the home directory unless these say otherwise.
    folders = {"WANDB_CACHE_DIR": directory, "WANDB_DATA_DIR": directory / "wandb"}
    values = {key: os.environ.get(key, str(path.resolve())) for key, path in folders.items()}
    if mode == "offline":
        # Without this, wandb's service opens a connection of its own (telemetry) even offline.
        values["WANDB_ERROR_REPORTING"] = "false"
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _metrics(frame: pd.DataFrame) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for _, row in frame.iterrows():
        for column in ("accuracy", "normalized_accuracy"):
            metrics[f"{row['merger']}/{column}"] = float(row[column])
        for task in tasks_of(frame):
            metrics[f"{row['merger']}/tasks/{task}"] = float(row[task])
    return metrics
