"""What tests look at in a figure, and what holds for every figure and table."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from mergeloom.report import style


def texts(fig: Figure) -> list[str]:
    """Everything that is written into a figure."""
    found = fig.findobj(lambda artist: hasattr(artist, "get_text"))
    return [text for text in (artist.get_text() for artist in found) if text]


def text_of(fig: Figure) -> str:
    """The same, line by line."""
    return "\n".join(texts(fig))


def check_fits(fig: Figure, name: str) -> None:
    """Nothing of a figure reaches over the edge of its canvas."""
    with style.style.context(style.STYLE, after_reset=True):
        box = fig.get_tightbbox()
    width, height = fig.get_size_inches()
    assert box.x0 > 0, name
    assert box.x1 < width, name
    assert box.y0 > 0, name
    assert box.y1 < height, name


def check_same_bytes(one: Path, two: Path, count: int) -> None:
    """Two folders have the same `count` files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == count
    assert names == sorted(path.name for path in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def loaded(modules: Iterable[str], heavy: set[str]) -> set[str]:
    """Which of the heavy modules a fresh Python loads with `modules`."""
    program = "import sys\n" + "".join(f"import {name}\n" for name in modules)
    program += "print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True
    )
    return heavy & set(run.stdout.split())
