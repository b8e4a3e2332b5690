"""The roots of the tree: where data, models, results and caches lie on this machine.

An artifact has one *logical* name (`models/ViT-B-32/base.safetensors`) wherever its root lies;
records of provenance hold logical names, so that moving a root changes no byte of any artifact.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

VARIABLES = {
    "data": "DATA_PATH",
    "models": "MODELS_PATH",
    "results": "RESULTS_PATH",
    "cache": "CACHE_PATH",
}


def resolve_roots(configured: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Each root's path: from the environment, else `{folder}/.env`, else the configuration."""
    settings = {**dotenv_values(folder / ".env"), **os.environ}
    return {
        name: os.path.expanduser(settings.get(variable) or configured.get(name) or name).rstrip("/")
        for name, variable in VARIABLES.items()
    }


def logical(path: str | Path, roots: Mapping[str, str]) -> str:
    """The logical name of a file: its root's name and the path below it."""
    absolute = Path(os.path.abspath(path))
    # One root may lie in another: the innermost is the file's.
    folders = sorted(((os.path.abspath(r), n) for n, r in roots.items()), key=lambda f: -len(f[0]))
    for folder, name in folders:
        if absolute.is_relative_to(folder):
            return f"{name}/{absolute.relative_to(folder)}"
    return str(path)


def physical(name: str, roots: Mapping[str, str]) -> Path:
    """The file behind a logical name."""
    root, _, rest = name.partition("/")
    return Path(roots[root], rest) if root in roots and rest else Path(name)
