"""The scripts of a study of adapters write what the library makes of the rules' files."""

import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import adapters_study as made
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from mergeloom.report.style import read_metadata

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"
PLACE = {"encoder": "ViT-Micro", "experts": "finetuned", "benchmark": "demo", "study": "mine"}
METADATA = {"mergeloom": "{}"}
FIGURES = ("cost", "curves", "coefficients", "layers")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a script on inputs, for outputs by name; returns their paths."""

    def run(script, given, **outputs):
        found = {name: str(tmp_path / file) for name, file in outputs.items()}
        sidecars = []
        stub = SimpleNamespace(
            input=SimpleNamespace(**given),
            output=SimpleNamespace(**found),
            params=SimpleNamespace(tasks=made.DEMO.tasks, family="clip", published=[]),
            wildcards=SimpleNamespace(**PLACE),
            metadata=lambda: METADATA,
            write_sidecar=sidecars.append,
        )

        @contextmanager
        def job(snakemake):
            yield snakemake

        monkeypatch.setitem(sys.modules, "rule", SimpleNamespace(job=job))
        runpy.run_path(str(SCRIPTS / script), init_globals={"snakemake": stub})
        assert sidecars == [path for path in found.values() if path.endswith(".csv")]
        return {name: Path(path) for name, path in found.items()}

    return run


def test_tables_and_figures_of_a_study_are_written(run, tmp_path):
    files = made.write(tmp_path)
    base = str(tmp_path / "base.safetensors")
    save_file({"visual.proj": np.zeros((2, 3), np.float32)}, base)
    given = {"mergers": files.mergers, "adapters": files.adapters, "base": base}
    tables = run("tabulate_adaptive.py", given, csv="summary.csv", markdown="summary.md")
    assert "ViT-Micro, finetuned, demo, mine" in tables["markdown"].read_text()
    rows = pd.read_csv(tables["csv"]).set_index("model")
    assert rows.loc["finetuned", "stored_parameters"] == 6 * len(made.DEMO.tasks)

    given = {
        "summary": str(tables["csv"]), "results": files.adapters, "times": files.times,
        "times_of_adaptation": files.times_of_adaptation,
    }  # fmt: skip
    costs = pd.read_csv(run("tabulate_cost.py", given, csv="cost.csv")["csv"])
    assert list(costs["model"]) == list(rows.index)

    given = {
        "summary": str(tables["csv"]), "results": files.adapters,
        "coefficients": files.coefficients, "curves": files.curves,
    }  # fmt: skip
    drawn = run("plot_adaptive.py", given, **{name: f"{name}.png" for name in FIGURES})
    for path in drawn.values():
        assert read_metadata(path) == read_metadata(path.with_suffix(".svg")) == METADATA
    svg = drawn["curves"].with_suffix(".svg").read_text()
    assert "dawe task wise" in svg
    assert "ViT-Micro, finetuned, demo, mine" in svg


def test_the_comparison_on_corrupted_images_is_written(run, tmp_path):
    files = made.write(tmp_path, corruptions=("motion_blur2",))
    written = run(
        "compare_on_corrupted.py", {"results": files.corrupted},
        csv="corrupted.csv", markdown="corrupted.md", png="corrupted.png", svg="corrupted.svg",
    )  # fmt: skip
    assert set(pd.read_csv(written["csv"])["images"]) == {"clean", "motion_blur2"}
    assert "## motion blur, severity 2" in written["markdown"].read_text()
    assert read_metadata(written["png"]) == read_metadata(written["svg"]) == METADATA
