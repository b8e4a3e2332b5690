"""Fixtures of the golden tests."""

from pathlib import Path

import pytest
from study import Study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Four experts of a ViT of three blocks. Tests read it and do not change it."""
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a study of a test's own."""
    return tmp_path / "study"
