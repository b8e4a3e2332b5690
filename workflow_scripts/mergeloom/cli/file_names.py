"""Names of files in a record, which says nothing of where they lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def shortest_names(paths: Sequence[Path]) -> Mapping[Path, str]:
    """The ends of paths that tell them apart: their names, with as many folders as that takes."""
    parts = {path: path.absolute().parts[1:] for path in paths}
    for depth in range(1, max(map(len, parts.values())) + 1):
        names = {path: "/".join(part[-depth:]) for path, part in parts.items()}
        if len(set(names.values())) == len(set(parts.values())):
            break
    return names
