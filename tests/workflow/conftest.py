"""The workflow with nothing built, and the DAG in miniature built once."""

import shutil
import subprocess

import pytest
from sandbox import copy_workflow


@pytest.fixture
def fresh(tmp_path):
    """The workflow with nothing built."""
    return copy_workflow(tmp_path)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    workflow = copy_workflow(tmp_path_factory.mktemp("built"))
    workflow.log = workflow.run().stdout
    return workflow


@pytest.fixture
def built(built_once):
    """The finished tree; edits to the workflow and its artifacts are undone after the test."""
    keep = built_once.folder.with_name("keep")
    if not keep.exists():
        # -a keeps times, which Snakemake looks at.
        subprocess.run(["cp", "-a", built_once.folder, keep], check=True)
    yield built_once
    shutil.rmtree(built_once.folder)
    subprocess.run(["cp", "-a", keep, built_once.folder], check=True)


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """A sweep of training conditions in miniature."""
    workflow = copy_workflow(tmp_path_factory.mktemp("swept"))
    workflow.run("tiny_sweep", "--cores", "2")
    return workflow
