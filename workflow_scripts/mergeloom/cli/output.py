"""The place that --out names: whether it may be written, and what would be lost."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mergeloom.errors import MergeloomError


def check_output(
    path: Path,
    inputs: Sequence[Path],
    *,
    folder: bool = False,
    why_folder: str = "",
    overwrite: bool,
    ours: Callable[[str], bool] = lambda name: False,
    suffix: str = ".safetensors",
) -> None:
    """Check --out before any work is done.

    Parameters
    ----------
    inputs : files and folders that must not be overwritten.
    folder : whether a folder will be made, else a file.
    why_folder : said to who gave the name of a file.
    ours : whether a file of this name in a folder to replace is one that we write.
    suffix : that the name of a file must have.

    Raises
    ------
    MergeloomError
        If --out is of the other kind, exists, holds an input or files that we did not write, or
        cannot be made.
    """
    if folder == (path.suffix == suffix):
        what = f"of a folder: {why_folder}" if folder else f"that ends with {suffix}"
        raise MergeloomError(f"--out {path}: expected a name {what}.")
    if path.exists():
        if path.is_dir() != folder:
            is_now, expected = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise MergeloomError(f"--out {path}: is a {is_now}, expected the name of a {expected}.")
        for given in inputs:
            if given.exists() and any(path.samefile(p) for p in (given, *given.resolve().parents)):
                verb = "holds" if path.is_dir() else "is"
                raise MergeloomError(
                    f"--out {path}: {verb} the input {given}, which would be lost. "
                    "Write to another place."
                )
        if not overwrite:
            raise MergeloomError(
                f"--out {path}: exists already. Write to another place, or add --overwrite."
            )
        other = [p.name for p in path.iterdir() if not ours(p.name)] if folder else []
        if other:
            raise MergeloomError(
                f"--out {path}: holds {other[0]}, which mergeloom has not written and --overwrite "
                "would remove. Write to another folder."
            )
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise MergeloomError(f"--out {path}: cannot be made, as {parent} is a file.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise MergeloomError(f"--out {path}: the folder {parent} may not be written to.")
