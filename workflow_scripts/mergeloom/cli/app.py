"""The command `mergeloom`, for files at hand and for artifacts of the workflow."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from mergeloom import __version__
from mergeloom.errors import MergeloomError

if TYPE_CHECKING:
    from mergeloom.cli.merge import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class SeveralValues(TyperCommand):
    """A command without arguments, whose repeatable options take several values at once.

    `--experts a b` is `--experts a --experts b`, which works, too.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such an option before each of its values."""
        several = {o for p in self.params if getattr(p, "multiple", False) for o in p.opts}
        repeated: list[str] = []
        option = None
        for arg in args:
            if arg.startswith("-"):
                option = arg.partition("=")[0]
                option = option if option in several else None
            elif option and repeated[-1] != option:
                repeated.append(option)
            repeated.append(arg)
        return super().parse_args(ctx, repeated)


@app.callback()
def main() -> None:
    """Weave fine-tuned models into one, and say what any artifact was made from."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command(cls=SeveralValues)
def merge(
    method: Annotated[
        str | None, typer.Option(help="how to merge, for instance tsv; --list shows all")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="safetensors file of the model before fine-tuning")
    ] = None,
    experts: Annotated[
        list[Path] | None,
        typer.Option(help="safetensors files of its fine-tuned models; several after one another"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="safetensors file to write; of methods that give one model per task, the folder "
            "to make, with a file named as each expert"
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="scale of the merged task vector; the method's own if not given"),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="parameter of the method, or MODIFIER.NAME=VALUE of a modifier; may be repeated",
        ),
    ] = None,
    modify: Annotated[
        list[str] | None,
        typer.Option(metavar="MODIFIER", help="change what the method made; may be repeated"),
    ] = None,
    family: Annotated[
        str,
        typer.Option(help="kind of model: clip, t5, cnn, generic, or auto to tell by the names"),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="of methods that draw random numbers")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="where to compute")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="how many parameters to work on at a time; all cores if not given"
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="keep singular vectors there, and take them from there"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what --out names")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="show all methods and modifiers, and do nothing else")
    ] = False,
) -> None:
    """Merge fine-tuned models into one (or one per task) and write it with a record of how."""
    if list_:
        from mergeloom.cli.listing import methods_table, modifiers_table

        # A pipe has no width of its own; this one keeps a line for most parameters.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
        console.print(methods_table(), modifiers_table())
        return
    if method is None or base is None or not experts or out is None:
        needed = {"--method": method, "--base": base, "--experts": experts, "--out": out}
        missing = ", ".join(name for name, value in needed.items() if not value)
        raise MergeloomError(
            f"{missing} is missing. `mergeloom merge --help` explains it, `mergeloom merge --list` "
            "shows the methods."
        )
    from mergeloom.cli.merge import Request, merge_checkpoints

    request = Request(
        base, experts, out, method, param or (), modify or (), alpha, family, seed, device,
        threads, cache, overwrite,
    )  # fmt: skip
    with _notes_and_progress() as progress:
        written = merge_checkpoints(request, progress)
    for path in written:
        print(path)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="file or folder of a checkpoint in any of these formats: transformers' "
            "CLIPVisionModel, CLIPVisionModelWithProjection or CLIPModel; a state dict of "
            "open_clip or of an ImageEncoder; a pickle of such a module; a LoRA adapter of PEFT; "
            "a merged model",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="what to write: a .safetensors file for merge, else the folder to make"),
    ],
    to: Annotated[
        Literal["merge", "transformers", "open_clip"],
        typer.Option(
            help="merge: a safetensors file with the image tower, as `mergeloom merge` and the "
            "workflow read it. transformers: a folder for CLIPVisionModel.from_pretrained, with or "
            "without projection. open_clip: a folder with the whole CLIP for "
            "open_clip.create_model. Both with a model card"
        ),
    ] = "merge",
    base: Annotated[
        Path | None,
        typer.Option(
            help="safetensors file of the model before fine-tuning. Needed where IN has no "
            "projection (a CLIPVisionModel), is a LoRA adapter, or goes to open_clip without a "
            "text tower; where given, IN is checked against it"
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="architecture by open_clip's name (OpenAI's CLIPs are those that end in "
            "-quickgelu: ViT-B-32-quickgelu), or the YAML file of an encoder's preset. If not "
            "given, it is the base's, or told by IN's config.json or its tensors",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what --out names")
    ] = False,
) -> None:
    """Convert a checkpoint of CLIP's image tower, for merging, transformers or open_clip.

    No code of a pickle is run. What is written gives the same image features as the source model,
    built by its own library, or nothing is written.
    """
    from mergeloom.cli.convert import Request, convert_checkpoint

    with _notes_and_progress():
        written = convert_checkpoint(Request(source, out, to, base, encoder, overwrite))
    print(written)


@app.command(cls=SeveralValues)
def similarity(
    measure: Annotated[
        str | None, typer.Option(help="how to compare, for instance cka_linear; --list shows all")
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            help="a .npy or .safetensors file per model with its features of the same inputs, a "
            "row each; several after one another"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help=".parquet file to write: a column `model`, then one per model in the order given"
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(help="names of the models; those of the files if not given"),
    ] = None,
    raw: Annotated[
        bool | None,
        typer.Option(
            "--raw/--normalised",
            help="leave rows as they are, or give them length 1",
            show_default="normalised",
        ),
    ] = None,
    biased: Annotated[
        bool | None,
        typer.Option("--biased/--unbiased", help="HSIC of CKA", show_default="unbiased"),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="width of the kernel of cka_rbf, in units of the features (0.4 if not given)"
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="parameter of the measure; may be repeated"),
    ] = None,
    add_to: Annotated[
        Path | None,
        typer.Option(
            metavar="PARQUET",
            help="a matrix that was written before, of some of these models: only the others are "
            "compared, with each other and with those",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="where to compute")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="how many models to work on at a time; all cores if not given"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what --out names")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="show all measures, and do nothing else")
    ] = False,
) -> None:
    """Compare what models make of the same inputs, all pairs at once, and write the matrix."""
    if list_:
        from mergeloom.cli.listing import measures_table

        console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
        console.print(measures_table())
        return
    if not features or out is None or (measure is None and add_to is None):
        needed = {"--measure": measure or add_to, "--features": features, "--out": out}
        missing = ", ".join(name for name, value in needed.items() if not value)
        raise MergeloomError(
            f"{missing} is missing. `mergeloom similarity --help` explains it, "
            "`mergeloom similarity --list` shows the measures."
        )
    from mergeloom.cli.similarity import Request, compare_files, summary

    own = {"biased": biased, "sigma": sigma}
    request = Request(
        features, out, measure, names or (), param or (),
        {name: value for name, value in own.items() if value is not None},
        raw, add_to, device, threads, overwrite,
    )  # fmt: skip
    with _notes_and_progress():
        matrix = compare_files(request)
    print(*summary(matrix), out, sep="\n")


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
    rule = str((tracing.read_record(file) or {}).get("rule"))
    if rule.startswith("mergeloom "):
        print(
            f"mergeloom: {file} was made by `{rule}`, which records its inputs by name "
            "and SHA-256, and not where they lie: run this in their folder to follow them.",
            file=sys.stderr,
        )


@contextmanager
def _notes_and_progress() -> "Iterator[Progress]":
    """Print what mergeloom logs, a line each, above a bar that only a terminal gets."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False)

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(f"mergeloom: {record.getMessage()}", markup=False, soft_wrap=True)

    logger, notes = logging.getLogger("mergeloom"), Notes()
    level, passes_on = logger.level, logger.propagate
    logger.addHandler(notes)
    logger.propagate = False  # libraries give the root logger a handler on the way
    logger.setLevel(logging.INFO)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, size: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=size)
        bars.update(tasks[what], completed=done)

    try:
        with bars:
            yield show
    finally:
        logger.removeHandler(notes)
        logger.propagate = passes_on
        logger.setLevel(level)


def run() -> None:
    """Entry point: a MergeloomError is one line for the user, not a traceback."""
    try:
        app()
    except (MergeloomError, PermissionError) as error:
        print(f"mergeloom: {error}", file=sys.stderr)
        sys.exit(1)
