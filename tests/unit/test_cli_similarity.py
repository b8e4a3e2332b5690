"""`mergeloom similarity`: through its entry point."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from mergeloom.cli import app as cli
from mergeloom.io.checksums import sha256
from mergeloom.similarity.matrix import read_matrix
from mergeloom.similarity.measure import measures

ROWS = 40


@dataclass
class Done:
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def similarity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run the command in this process, in a folder with features of models a, b and c."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((ROWS, 6))
    np.save("a.npy", shared @ rng.standard_normal((6, 8)))
    np.save("b.npy", np.float16(shared + rng.standard_normal((ROWS, 6))))
    save_file({"features": np.float32(rng.standard_normal((ROWS, 12)))}, "c.safetensors")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["mergeloom", "similarity", *map(str, arguments)])
        code = 0
        try:
            cli.run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


FILES = ("a.npy", "b.npy", "c.safetensors")


def asked(*more: object, measure: str = "cka_linear", out: str = "m.parquet") -> list[object]:
    return ["--measure", measure, "--features", *FILES, "--out", out, *more]


@pytest.mark.parametrize("measure", sorted(measures()))
def test_every_measure_writes_its_matrix_and_says_what_it_found(
    similarity: Command, measure: str
) -> None:
    done = similarity(*asked(measure=measure))
    assert done.code == 0, done.err
    matrix = read_matrix(Path("m.parquet"))
    assert matrix.models == ("a", "b", "c")
    assert matrix.measure == measure
    assert matrix.normalised
    assert matrix.values[0, 1] > matrix.values[0, 2]
    assert f"{matrix.values[0, 1]:.4f}" in done.out
    assert "most alike: a and b" in done.out
    assert f"of 3 models on {ROWS} rows, 3 pairs" in done.out
    assert done.out.splitlines()[-1] == "m.parquet"


def test_options_are_those_of_the_measure(similarity: Command) -> None:
    def parameters(*more: object) -> dict[str, object]:
        done = similarity(*asked(*more, "--overwrite", measure="cka_rbf"))
        assert done.code == 0, done.err
        return dict(read_matrix(Path("m.parquet")).parameters)

    default = {"sigma": 0.4, "sigma_of_median": 0.0, "biased": False}
    assert parameters() == default
    assert parameters("--sigma", 0.2, "--biased") == default | {"sigma": 0.2, "biased": True}
    assert parameters("--param", "sigma_of_median=0.5") == default | {"sigma_of_median": 0.5}


def test_rows_may_keep_their_length(similarity: Command) -> None:
    similarity(*asked())
    similarity(*asked("--raw", out="raw.parquet"))
    unit, raw = read_matrix(Path("m.parquet")), read_matrix(Path("raw.parquet"))
    assert not raw.normalised
    assert abs(unit.values - raw.values).max() > 1e-3


def test_models_are_named_as_asked(similarity: Command) -> None:
    similarity(*asked("--names", "x", "y", "z"))
    assert pq.read_table("m.parquet").column_names == ["model", "x", "y", "z"]


def test_a_matrix_is_extended_as_it_was_made(similarity: Command) -> None:
    similarity("--measure", "cka_rbf", "--sigma", 0.7, "--raw", "--features", *FILES[:2], "--out",
               "two.parquet")  # fmt: skip
    done = similarity("--add-to", "two.parquet", "--features", *FILES, "--out", "three.parquet")
    assert done.code == 0, done.err
    assert "2 models were known, 1 are new" in done.err
    similarity(*asked("--sigma", 0.7, "--raw", measure="cka_rbf"))
    whole, three = read_matrix(Path("m.parquet")), read_matrix(Path("three.parquet"))
    assert (three.models, three.parameters) == (whole.models, whole.parameters)
    np.testing.assert_allclose(three.values, whole.values, atol=1e-12)
    done = similarity(*asked("--add-to", "two.parquet", out="other.parquet"))
    assert done.code == 1
    assert "its measure: cka_rbf, now cka_linear" in done.err


def test_the_record_names_inputs_and_what_was_done(similarity: Command) -> None:
    similarity(*asked("--biased"))
    content = json.loads(pq.read_schema("m.parquet").metadata[b"mergeloom"])
    assert content["rule"] == "mergeloom similarity"
    assert content["inputs"] == {name: sha256(name) for name in FILES}
    assert content["params"]["measure"] == "cka_linear"
    assert content["params"]["parameters"] == {"biased": True}
    assert content["params"]["models"] == ["a", "b", "c"]


def test_equal_runs_give_equal_bytes(similarity: Command) -> None:
    similarity(*asked())
    similarity(*asked(out="again.parquet"))
    assert sha256("m.parquet") == sha256("again.parquet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "a.npy"], "--measure, --out is missing"),
        (["--measure", "cka_linear", "--out", "m.parquet"], "--features is missing"),
        (asked(measure="cka"), "no measure of similarity 'cka'. There are: cka_"),
        (asked("--sigma", 1), "--sigma is no parameter of cka_linear"),
        (asked("--sigma", 0, measure="cka_rbf"), "sigma is 0.0, expected a number in (0, inf)"),
        (asked("--biased", "--param", "biased=true"), "--biased and --param biased=… were given"),
        (asked("--param", "k"), "--param k: expected name=value"),
        (asked(out="m.csv"), "--out m.csv: expected a name that ends with .parquet"),
        (asked("--names", "x"), "1 names of models (x) for 3 files"),
        (asked("--add-to", "none.parquet"), "none.parquet: no such file"),
        (["--measure", "svcca", "--features", "a.npy", "no.npy", "--out", "m.parquet"],
         "no.npy: no such file"),
        (["--measure", "svcca", "--features", "a.npy", "a.npy", "--out", "m.parquet"],
         "Two models are named a"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_no_file(
    similarity: Command, arguments: list[object], message: str
) -> None:
    done = similarity(*arguments)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not Path("m.parquet").exists()


def test_a_file_that_exists_is_not_overwritten_unasked(similarity: Command) -> None:
    similarity(*asked())
    done = similarity(*asked())
    assert done.code == 1
    assert "--out m.parquet: exists already" in done.err
    assert similarity(*asked("--overwrite")).code == 0
    done = similarity(*asked("--add-to", "m.parquet", "--overwrite"))
    assert "is the input m.parquet, which would be lost" in done.err


def test_the_list_shows_every_measure_with_its_parameters(similarity: Command) -> None:
    done = similarity("--list")
    assert done.code == 0
    assert all(name in done.out for name in measures())
    assert "sigma = 0.4" in done.out
