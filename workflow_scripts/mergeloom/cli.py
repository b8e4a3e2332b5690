"""The command `mergeloom`, for files at hand and for artifacts of the workflow."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mergeloom import __version__
from mergeloom.errors import MergeloomError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Weave fine-tuned models into one, and say what any artifact was made from."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def trace(
    file: Annotated[
        Path, typer.Argument(help="a checkpoint, merged model, result, table or figure")
    ],
    workdir: Annotated[Path, typer.Option(help="where the workflow runs")] = Path("."),
    configfile: Annotated[
        list[Path] | None, typer.Option(help="as given to snakemake, if it sets roots")
    ] = None,
) -> None:
    """Print the tree of what FILE was made from, down to data and base weights."""
    from mergeloom.config.presets import read_yaml
    from mergeloom.io.roots import resolve_roots
    from mergeloom.provenance import trace as tracing

    configured: dict[str, str] = {}
    default = workdir / "config" / "config.yaml"
    for path in [*([default] if default.exists() else []), *(configfile or [])]:
        configured |= read_yaml(path).get("roots", {})
    roots = {k: str(workdir / v) for k, v in resolve_roots(configured, workdir).items()}
    # A terminal wraps lines within the tree; a pipe gets them whole.
    width = None if sys.stdout.isatty() else 500
    Console(highlight=False, width=width).print(tracing.trace(file, roots))


def run() -> None:
    """Entry point: a MergeloomError is one line for the user, not a traceback."""
    try:
        app()
    except MergeloomError as error:
        print(f"mergeloom: {error}", file=sys.stderr)
        sys.exit(1)
