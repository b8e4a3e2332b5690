"""Fixtures shared by the unit tests."""

from pathlib import Path

import pytest
from vit import VitFiles, write_vit_files


@pytest.fixture
def vit_files(tmp_path: Path) -> VitFiles:
    """Three experts: with tasks vectors of decaying spectra, written by the safetensors library."""
    return write_vit_files(tmp_path)
