"""A copy of the workflow in a folder of its own, to plan, run, edit and damage."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "workflow_scripts", "config", "envs", "profiles", "tests/workflow")
TINY = "tests/workflow/tiny.yaml"
RESULTS = "results/ViT-Tiny/finetuned/tiny"


class Workflow:
    """The workflow in a folder: commands, and what lies there."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.environment = {
            k: v
            for k, v in os.environ.items()
            if k not in ("DATA_PATH", "MODELS_PATH", "RESULTS_PATH", "CACHE_PATH")
        } | {"PYTHONPATH": str(self.folder / "workflow_scripts"), "WANDB_MODE": "offline"}

    def command(self, *arguments, configfile=TINY):
        # Targets first: options with several values would swallow them.
        return [sys.executable, "-m", "snakemake", *arguments, "--configfile", configfile]

    def run(self, *arguments, configfile=TINY, check=True, **environment):
        done = subprocess.run(
            self.command(*arguments, configfile=configfile),
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        if check and done.returncode:
            pytest.fail(
                f"snakemake {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}"
            )
        return done

    def planned(self, *arguments, **options):
        """The rules that a dry run plans, and how many jobs of each."""
        text = self.run(*arguments, "-n", **options).stdout
        if "Job stats:" not in text:
            assert "Nothing to be done" in text, text
            return {}
        table = text.split("Job stats:")[1].split("\n\n")[0].splitlines()
        counts = dict(line.split() for line in table if line.split()[-1:] and line[-1:].isdigit())
        counts.pop("total")
        return {rule: int(count) for rule, count in counts.items()}

    def read(self, path):
        return (self.folder / path).read_text()

    def digests(self):
        """SHA-256 of every artifact below the roots."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for root in ("data", "cache", "models", "results")
            for path in sorted((self.folder / root).rglob("*"))
            if path.is_file()
        }

    def edit(self, path, old, new):
        """Replace a text that stands once in a file."""
        text = self.read(path)
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        (self.folder / path).write_text(text.replace(old, new))


def copy_workflow(folder):
    for part in PARTS:
        source, target = REPOSITORY / part, Path(folder) / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return Workflow(folder)
