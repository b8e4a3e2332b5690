"""The look of the figures, and how they are saved: equal data and provenance give equal bytes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path

STYLE: Final = Path(__file__).with_name("mergeloom.mplstyle")
SUFFIXES: Final = (".png", ".svg")
MUTED: Final = "#6b6b6b"
"""Colour of what explains and does not show data."""
WARNING: Final = "#B2182B"
"""Colour of what went wrong, which no series has."""

ZEROSHOT: Final[dict[str, Any]] = {"color": "#8a8a8a", "linestyle": "-", "linewidth": 1.4}
FINETUNED: Final[dict[str, Any]] = {"color": "#111111", "linestyle": "-", "linewidth": 1.4}

# Read once, so that a series looks the same inside and outside of a figure's block.
_COLOURS: Final = mpl.rc_params_from_file(STYLE, use_default_template=False)[
    "axes.prop_cycle"
].by_key()["color"]
DASHES: Final = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS: Final = ("o", "s", "^", "D")
_DUBLIN_CORE: Final = "{http://purl.org/dc/elements/1.1/}"


@contextmanager
def figure(width: float, height: float, heading: str = "", subject: str = "") -> Iterator[Figure]:
    """Make a figure of `width` × `height` inches and draw into it under the project's style.

    `heading` says what the figure shows; `subject`, in grey below it, of what (encoder, experts,
    benchmark). pyplot is not involved: nothing global remembers the figure.
    """
    with style.context(STYLE, after_reset=True):
        fig = Figure(figsize=(width, height))
        if heading:
            _head(fig, heading, subject)
        yield fig
        _settle(fig)


def _head(fig: Figure, heading: str, subject: str) -> None:
    # The layout makes room for the suptitle only: its empty second line is where the subject goes.
    left = 0.1 / fig.get_figwidth()
    fig.suptitle(heading + ("\n" if subject else ""), x=left, ha="left", linespacing=1.35)
    below = ScaledTranslation(0, -27 / 72, fig.dpi_scale_trans)
    text = fig.text(left, 1, subject, ha="left", va="top", color=MUTED, fontsize=9.5)
    text.set_transform(fig.transFigure + below)
    text.set_in_layout(False)
    # Names may be long, and are then written smaller, not cut off.
    room = 0.98 * (1 - 2 * left) * fig.bbox.width
    wide = max(1, text.get_window_extent().width / room)
    text.set_fontsize(round(9.5 / wide, 2))


def _settle(fig: Figure) -> None:
    """Lay the figure out, once and for all.

    The layout's solver orders its constraints by memory address, so that positions differ in the
    last bit from run to run, and with them the ids in an SVG, which are hashes of positions.
    """
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for part in fig.subfigs:
        box = part.bbox_relative
        box.p0, box.p1 = np.round(box.p0, 6), np.round(box.p1, 6)
    for axes in fig.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6).tolist())


def save(fig: Figure, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a figure atomically, as SVG (text as text) or PNG (200 dpi), by the suffix of `path`.

    The file's Description becomes ``metadata["mergeloom"]``, the JSON text of the provenance, as
    in the header of our safetensors files. No date and no version is written, so the bytes are a
    function of the figure and the metadata.

    Raises
    ------
    MergeloomError
        The suffix is neither .svg nor .png.
    """
    path = Path(path)
    _check_suffix(path)
    fields: dict[str, Any] = (
        {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    )
    if metadata and "mergeloom" in metadata:
        fields["Description"] = metadata["mergeloom"]
    # The style again: fonts and the salt of the ids are read when a figure is drawn, not when made.
    with style.context(STYLE, after_reset=True), atomic_path(path) as temporary:
        fig.savefig(temporary, format=path.suffix[1:], metadata=fields)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read back what `save` wrote: ``{"mergeloom": provenance}``, or ``{}`` where there is none.

    Raises
    ------
    MergeloomError
        The file is missing, is neither .svg nor .png, or cannot be read as what its suffix says.
    """
    path = Path(path)
    _check_suffix(path)
    try:
        if path.suffix == ".svg":
            text = ElementTree.parse(path).getroot().findtext(f".//{_DUBLIN_CORE}description")
        else:
            with Image.open(path) as image:
                text = image.info.get("Description")
    except (OSError, SyntaxError) as error:  # ElementTree.ParseError is a SyntaxError
        raise MergeloomError(
            f"{path}: not readable as a {path.suffix} figure ({error}).\n"
            "Delete it and run the rule that draws it."
        ) from error
    return {} if text is None else {"mergeloom": text}


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise MergeloomError(
            f"{path}: the suffix is {path.suffix!r}, but figures are written as "
            f"{' or '.join(SUFFIXES)}.\n"
            "Change the suffix of the path."
        )


def series(index: int) -> dict[str, Any]:
    """Colour, dash and marker of the `index`-th merger or task; 24 differ, then they repeat."""
    repeat = turn(index)
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": DASHES[repeat],
        "marker": MARKERS[repeat],
    }


def turn(index: int) -> int:
    """How often the palette was used up before the `index`-th series: 0 to 3."""
    return index // len(_COLOURS) % len(DASHES)


def label(merger: str) -> str:
    """Write the name of a merger as a person would: ``task_arithmetic`` → ``task arithmetic``."""
    names = {"zeroshot": "zero-shot", "finetuned": "fine-tuned"}
    return names.get(merger, merger.replace("_", " "))


def percent() -> FuncFormatter:
    """Fractions at ticks in percent, with the decimals that they have: 35%, 37.5%."""
    return FuncFormatter(lambda fraction, _: f"{100 * fraction:g}%".replace("-", "−"))


def title(axes: Axes, title: str, note: str, warning: str = "") -> None:
    """Head a panel: a title, below it a note in grey, which may have several lines, and a warning
    of one line in red."""
    raised = 11 * bool(warning)
    pad = 8 + 11 * (note.count("\n") + bool(note)) + raised
    axes.set_title(title, pad=pad, fontweight="bold")
    for words, color, height in ((note, MUTED, raised), (warning, WARNING, 0)):
        axes.annotate(
            words,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 5 + height),
            textcoords="offset points",
            fontsize=8,
            color=color,
            annotation_clip=False,
        )


def say(fig: Figure, words: str) -> Figure:
    """Write into an empty figure why it is empty."""
    axes = fig.subplots()
    axes.set_axis_off()
    axes.annotate(words, (0, 0.5), xycoords="axes fraction", va="center", color=MUTED)
    return fig


def grid(count: int, columns: int) -> tuple[int, int]:
    """Rows and columns of `count` small multiples, at most `columns` wide and without a ragged end
    where another width avoids it: 8 → 2×4, 20 → 4×5, 14 → 3×5."""
    widths = range(min(count, columns), 0, -1)
    wide = min(widths, key=lambda width: (-(-count // width), -(-count // width) * width - count))
    return -(-count // wide), wide
