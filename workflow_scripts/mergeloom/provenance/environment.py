"""The software that numbers depend on, as locked and as installed."""

import hashlib
import platform
import re
from importlib import metadata
from pathlib import Path

from mergeloom.errors import MergeloomError


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def locked_versions(lock: Path) -> dict[str, str]:
    """Package name (canonical) -> version, of a `name==version` lock file."""
    pins = (line.strip().split("==") for line in lock.read_text().splitlines() if "==" in line)
    return {_canonical(name): version for name, version in pins}


def environment_digest(lock: Path, packages: tuple[str, ...]) -> str:
    """Digest of the locked versions of `packages`: 16 hexadecimal digits of a SHA-256.

    Raises MergeloomError when the lock does not hold one of them.
    """
    versions = locked_versions(lock)
    missing = [package for package in packages if _canonical(package) not in versions]
    if missing:
        raise MergeloomError(f"{lock}: no pin for {', '.join(missing)}; run `make lock`")
    text = "\n".join(f"{p}=={versions[_canonical(p)]}" for p in sorted(packages))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def installed_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed version of Python and of each package, for the record in an artifact."""
    versions = {package: metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **versions}
