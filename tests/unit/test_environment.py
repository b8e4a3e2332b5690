"""One set of pins: conda environment and container definition agree with the lock."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

from mergeloom.errors import MergeloomError
from mergeloom.provenance.environment import environment_digest, locked_versions

ENVS = Path(__file__).parents[2] / "envs"


@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("render", ENVS / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["environment.yaml", "Containerfile"])
def test_the_committed_file_is_what_the_lock_renders_to(render, name):
    assert (ENVS / name).read_text() == render.render()[name]


@pytest.mark.parametrize("name", ["environment.yaml", "Containerfile"])
def test_every_pin_of_the_lock_stands_in_it(render, name):
    text = (ENVS / name).read_text()
    pins = render.pins(ENVS / "requirements.txt")
    assert len(pins) > 50
    assert [pin for pin in pins if f" {pin}\n" not in text and f" {pin} \\" not in text] == []


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_lock_holds_every_direct_dependency_at_its_version(name):
    locked = locked_versions(ENVS / f"{name}.txt")
    direct = locked_versions(ENVS / f"{name}.in")
    assert {k: locked.get(k) for k in direct} == direct


def test_every_dependency_of_the_package_is_locked():
    project = tomllib.loads((ENVS.parent / "pyproject.toml").read_text())["project"]
    names = [n.lower() for n in project["dependencies"]]
    locked = locked_versions(ENVS / "requirements.txt")
    assert [name for name in names if name not in locked] == []


def test_the_digest_changes_with_a_version_that_it_covers_and_with_no_other(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("torch==1.0\nnumpy==2.0\nrich==3.0\n")
    before = environment_digest(lock, ("torch", "numpy"))
    lock.write_text("torch==1.0\nnumpy==2.0\nrich==4.0\n")
    assert environment_digest(lock, ("torch", "numpy")) == before
    lock.write_text("torch==1.1\nnumpy==2.0\nrich==4.0\n")
    assert environment_digest(lock, ("torch", "numpy")) != before


def test_a_package_that_is_not_locked_is_an_error(tmp_path):
    (tmp_path / "lock.txt").write_text("torch==1.0\n")
    with pytest.raises(MergeloomError, match="no pin for numpy"):
        environment_digest(tmp_path / "lock.txt", ("torch", "numpy"))
