"""`mergeloom merge`: through its entry point, from files that other programs wrote."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from mergeloom.cli import app as cli
from mergeloom.io.checksums import sha256
from mergeloom.merging import method, task_vector
from mergeloom.merging.method import methods, modifiers

MERGELOOM = [sys.executable, "-c", "from mergeloom.cli.app import run; run()"]
Model = dict[str, np.ndarray]
BLOCK = "visual.transformer.resblocks.0."
SHAPES = {
    "visual.class_embedding": (12,),
    "visual.positional_embedding": (5, 12),
    BLOCK + "attn.in_proj_weight": (36, 12),
    BLOCK + "mlp.c_proj.weight": (12, 48),
    BLOCK + "mlp.c_proj.bias": (12,),
}


def random_model(seed: int, shapes: dict[str, tuple[int, ...]], scale: float) -> Model:
    rng = np.random.default_rng(seed)
    return {
        key: np.asarray(scale * rng.standard_normal(shape), np.float32)
        for key, shape in shapes.items()
    }


@dataclass
class Files:
    """A base and three experts in a folder, and their arrays."""

    folder: Path
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: SHAPES)

    def __post_init__(self) -> None:
        self.start = random_model(0, self.shapes, 1.0)
        self.other = {"token_ids": np.arange(4)}
        if any(key.startswith("visual.") for key in self.shapes):
            self.other["logit_scale"] = np.float32([4.6])
        self.base = self.folder / "base.safetensors"
        save_file(self.start | self.other, self.base)
        self.deltas = [random_model(task, self.shapes, 0.05) for task in (1, 2, 3)]
        self.experts = [self.folder / f"{name}.safetensors" for name in "abc"]
        for path, delta in zip(self.experts, self.deltas, strict=True):
            save_file({key: np.asarray(self.start[key] + delta[key]) for key in delta}, path)

    @property
    def out(self) -> Path:
        return self.folder / "out" / "merged.safetensors"

    def stack(self, key: str) -> np.ndarray:
        """Task vectors [T, *shape] as the files have them, float64."""
        start = np.float64(self.start[key])
        return np.stack([np.float64(load_file(path)[key]) - start for path in self.experts])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def mergeloom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run the entry point in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["mergeloom", *map(str, arguments)])
        code = 0
        try:
            cli.run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


Command = Callable[..., Done]


def arguments(files: Files, method: str = "weight_average", **changes: object) -> list[object]:
    """Of `mergeloom merge`: those of a merge that works, with changes."""
    options = {
        "method": method,
        "base": files.base,
        "experts": files.experts,
        "out": files.out,
        "family": "clip",
        "device": "cpu",
    } | changes
    typed: list[object] = ["merge"]
    for name, value in options.items():
        if value is not None:
            typed += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return typed


def one_line(text: str) -> str:
    """The only error on stderr."""
    lines = [line for line in text.splitlines() if line.startswith("mergeloom: ")]
    assert "Traceback" not in text
    return lines[-1]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def record_of(path: Path) -> dict:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["mergeloom"])


def polar(matrix: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def tsv(deltas: np.ndarray) -> np.ndarray:
    if deltas.ndim < 3:
        return deltas.mean(0)
    kept = min(deltas.shape[1:]) // len(deltas)
    left, values, right = np.linalg.svd(deltas, full_matrices=False)
    scaled = polar(np.hstack(left[:, :, :kept])) * np.concatenate(values[:, :kept])
    return scaled @ polar(np.vstack(right[:, :kept]))


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "weight_average": lambda deltas: deltas.mean(0),
    "task_arithmetic": lambda deltas: deltas.sum(0),
    "tsv": tsv,
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_the_output_is_base_plus_alpha_times_the_merged_task_vector(
    files: Files, mergeloom: Command, name: str, alpha: float
) -> None:
    done = mergeloom(*arguments(files, name, alpha=alpha))
    assert (done.code, done.out) == (0, f"{files.out}\n"), done.err
    merged = load_file(files.out)
    assert set(merged) == set(files.start) | set(files.other)
    for key in SHAPES:
        expected = files.start[key] + alpha * FORMULAS[name](files.stack(key))
        np.testing.assert_allclose(merged[key], expected, atol=2e-6)


def test_what_is_not_trained_is_the_base_s_own(files: Files, mergeloom: Command) -> None:
    assert mergeloom(*arguments(files)).code == 0
    merged = load_file(files.out)
    for key, tensor in files.other.items():
        assert merged[key].dtype == tensor.dtype
        np.testing.assert_array_equal(merged[key], tensor)


def test_experts_may_follow_one_option_or_have_one_each(files: Files, mergeloom: Command) -> None:
    a, b, c = files.experts
    outputs = []
    for number, typed in enumerate(
        (
            ["--experts", a, b, c],
            ["--experts", a, "--experts", b, "--experts", c],
            [f"--experts={a}", b, f"--experts={c}"],
            ["--experts", a, b, "--seed", "0", "--experts", c],
        )
    ):
        out = files.folder / f"{number}.safetensors"
        done = mergeloom(*arguments(files, experts=None, out=out), *typed)
        assert done.code == 0, done.err
        outputs.append(out.read_bytes())
    assert len(set(outputs)) == 1
    experts = record_of(files.folder / "0.safetensors")["params"]["experts"]
    assert experts == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_a_value_that_belongs_to_no_option_is_refused(files: Files, mergeloom: Command) -> None:
    done = mergeloom(*arguments(files), "cpu")
    assert done.code == 2
    assert left(files.out.parent) == []


def test_the_header_says_what_was_done(files: Files, mergeloom: Command) -> None:
    assert mergeloom(*arguments(files, "tsv", alpha=0.5, seed=7)).code == 0
    content = record_of(files.out)
    assert content["rule"] == "mergeloom merge"
    assert content["params"] == {
        "method": "tsv",
        "parameters": {},
        "modifiers": [],
        "alpha": 0.5,
        "family": "clip",
        "base": "base.safetensors",
        "experts": ["a.safetensors", "b.safetensors", "c.safetensors"],
    }
    assert content["inputs"] == {p.name: sha256(p) for p in [files.base, *files.experts]}
    assert (content["seed"], len(content["code"])) == (7, 16)
    assert content["versions"]["mergeloom"]


def test_equal_runs_give_equal_bytes_wherever_the_files_are(
    files: Files, mergeloom: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mergeloom(*arguments(files, "tsv", threads=1)).code == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in [files.base, *files.experts]:
        shutil.copy(path, moved)
    monkeypatch.chdir(moved)
    names = [path.name for path in files.experts]
    changes = {"base": "base.safetensors", "experts": names, "out": "m.safetensors", "threads": 2}
    assert mergeloom(*arguments(files, "tsv", **changes)).code == 0
    assert (moved / "m.safetensors").read_bytes() == files.out.read_bytes()
    assert str(tmp_path).encode() not in files.out.read_bytes()


def test_files_of_one_name_are_told_apart_by_their_folders(
    files: Files, mergeloom: Command
) -> None:
    experts = []
    for path in files.experts:
        (files.folder / path.stem).mkdir()
        experts.append(files.folder / path.stem / "model.safetensors")
        path.rename(experts[-1])
    assert mergeloom(*arguments(files, experts=experts)).code == 0
    content = record_of(files.out)
    assert content["params"]["experts"] == [f"{n}/model.safetensors" for n in "abc"]
    assert content["inputs"]["b/model.safetensors"] == sha256(experts[1])


def test_trace_shows_the_tree_of_the_merge(
    files: Files, mergeloom: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mergeloom(*arguments(files, "tsv")).code == 0
    monkeypatch.chdir(files.folder)
    done = mergeloom("trace", files.out)
    assert done.code == 0
    first, *below = done.out.splitlines()
    assert "by mergeloom merge (" in first
    assert "method=tsv" in first
    assert [line.split()[1] for line in below] == sorted(
        path.name for path in [files.base, *files.experts]
    )
    assert all("(given)" in line for line in below)
    monkeypatch.chdir(files.out.parent)
    done = mergeloom("trace", files.out)
    assert "records its inputs by name" in done.err


# What the user is told.


def test_the_alpha_that_was_not_given_is_the_method_s_and_is_said(
    files: Files, mergeloom: Command
) -> None:
    done = mergeloom(*arguments(files, "task_arithmetic"))
    assert "mergeloom: alpha 0.3, the default of task_arithmetic" in done.err
    assert record_of(files.out)["params"]["alpha"] == 0.3


@pytest.mark.parametrize(("prefix", "family"), [("visual.", "clip"), ("", "generic")])
def test_the_family_is_recognised_and_said(
    tmp_path: Path, mergeloom: Command, prefix: str, family: str
) -> None:
    files = Files(tmp_path, {prefix + "w": (4, 4)})
    done = mergeloom(*arguments(files, family=None))
    assert f"mergeloom: family {family}, recognised" in done.err
    assert record_of(files.out)["params"]["family"] == family


def test_one_expert_is_said_and_its_merge_at_alpha_1_is_that_expert(
    files: Files, mergeloom: Command
) -> None:
    done = mergeloom(*arguments(files, "task_arithmetic", experts=files.experts[:1], alpha=1))
    assert "only one expert (T = 1)" in done.err
    merged, expert = load_file(files.out), load_file(files.experts[0])
    for key in SHAPES:
        np.testing.assert_allclose(merged[key], expert[key], atol=2e-6)


def test_an_expert_equal_to_the_base_is_said_and_has_its_share(
    files: Files, mergeloom: Command
) -> None:
    save_file(files.start, files.experts[1])
    done = mergeloom(*arguments(files))
    assert f"mergeloom: {files.experts[1]} equals its base" in done.err
    key = BLOCK + "mlp.c_proj.bias"
    expected = files.start[key] + (files.stack(key)[0] + files.stack(key)[2]) / 3
    np.testing.assert_allclose(load_file(files.out)[key], expected, atol=2e-6)


def test_an_expert_given_twice_is_said(files: Files, mergeloom: Command) -> None:
    done = mergeloom(*arguments(files, experts=[files.experts[0]] * 2))
    assert "hold the same bytes" in done.err


def test_experts_of_bfloat16_are_merged_in_float32_into_the_type_of_the_base(
    files: Files, mergeloom: Command
) -> None:
    for path in files.experts[:2]:
        save_torch({k: v.to(torch.bfloat16) for k, v in load_torch(path).items()}, path)
    done = mergeloom(*arguments(files))
    names = ", ".join(map(str, files.experts[:2]))
    assert f"bfloat16 in {names}" in done.err
    assert "computed in float32" in done.err
    merged, loaded = load_torch(files.out), [load_torch(path) for path in files.experts]
    for key in SHAPES:
        expected = torch.stack([model[key].double() for model in loaded]).mean(0)
        assert merged[key].dtype == torch.float32
        torch.testing.assert_close(merged[key].double(), expected, atol=2e-6, rtol=0)


def test_a_base_of_bfloat16_keeps_its_type(files: Files, mergeloom: Command) -> None:
    for path in [files.base, *files.experts]:
        tensors = load_torch(path)
        save_torch(
            {k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors.items()}, path
        )
    done = mergeloom(*arguments(files))
    assert "types differ" not in done.err
    merged, loaded = load_torch(files.out), [load_torch(path) for path in files.experts]
    for key in SHAPES:
        expected = torch.stack([model[key].float() for model in loaded]).mean(0)
        assert merged[key].dtype == torch.bfloat16
        torch.testing.assert_close(merged[key].float(), expected, atol=1e-6, rtol=2**-7)


def test_no_digit_of_a_float64_base_is_lost(tmp_path: Path, mergeloom: Command) -> None:
    start = {"w": np.array([1 / 3, 2 / 3])}
    save_file(start, tmp_path / "base.safetensors")
    save_file(start, tmp_path / "a.safetensors")
    typed = ["--experts", tmp_path / "a.safetensors", "--out", tmp_path / "m.safetensors"]
    done = mergeloom("merge", "--method", "tsv", "--base", tmp_path / "base.safetensors", *typed)
    assert done.code == 0, done.err
    np.testing.assert_array_equal(load_file(tmp_path / "m.safetensors")["w"], start["w"])


def test_no_bar_is_drawn_where_there_is_no_terminal(files: Files, mergeloom: Command) -> None:
    assert mergeloom(*arguments(files)).err == "mergeloom: alpha 1, the default of weight_average\n"


# Families.


def test_any_state_dict_can_be_merged(tmp_path: Path, mergeloom: Command) -> None:
    shapes = {"net.0.weight": (8, 6), "net.0.bias": (8,), "net.2.weight": (3, 8), "scale": ()}
    files = Files(tmp_path, shapes)
    assert mergeloom(*arguments(files, "tsv", family="generic")).code == 0
    merged = load_file(files.out)
    for key in shapes:
        expected = files.start[key] + tsv(files.stack(key))
        np.testing.assert_allclose(merged[key], expected, atol=2e-6)


# Parameters, modifiers and methods that give one model per task, on methods of the test's own.


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method with parameters, one that gives a model per task, and a modifier."""
    methods()
    monkeypatch.setattr(method, "_MERGERS", dict(method._MERGERS))
    monkeypatch.setattr(method, "_MODIFIERS", dict(method._MODIFIERS))
    monkeypatch.setattr("mergeloom.cli.merge._code", lambda merge, family: "0" * 16)

    @method.merger("scaled", limits={"by": "(0, 10]", "how": ("mean", "sum")})
    def scaled(
        deltas: torch.Tensor, *, by: float = 1.0, how: str = "mean", flag: bool = False
    ) -> torch.Tensor:
        """Mean or sum, scaled."""
        return by * (deltas.sum(0) if how == "sum" else deltas.mean(0))

    @method.merger("each", per_task=True)
    def each(deltas: torch.Tensor) -> torch.Tensor:
        """The experts themselves."""
        return deltas

    @method.modifier("stretch", limits={"by": "[0, 5]"})
    def stretch(merged: torch.Tensor, *, by: float = 2.0) -> torch.Tensor:
        """Any method's result, scaled."""
        return by * merged


with_own_methods = pytest.mark.usefixtures("registered")


@with_own_methods
@pytest.mark.parametrize(
    ("params", "factor"),
    [
        ([], 2 / 3),
        (["by=2"], 4 / 3),
        (["by=5e-1"], 1 / 3),
        (["how=sum", "by=0.5", "stretch.by=3"], 1.5),
        (["stretch.by=0", "flag=true"], 0),
    ],
)
def test_parameters_go_to_the_method_and_to_modifiers(
    files: Files, mergeloom: Command, params: list[str], factor: float
) -> None:
    done = mergeloom(*arguments(files, "scaled", modify="stretch", param=params or None))
    assert done.code == 0, done.err
    key = BLOCK + "mlp.c_proj.bias"
    expected = files.start[key] + factor * files.stack(key).sum(0)
    np.testing.assert_allclose(load_file(files.out)[key], expected, atol=2e-6)


@with_own_methods
def test_parameters_stand_in_the_header_with_their_defaults(
    files: Files, mergeloom: Command
) -> None:
    done = mergeloom(*arguments(files, "scaled", modify="stretch", param="by=2"))
    assert done.code == 0, done.err
    params = record_of(files.out)["params"]
    assert params["parameters"] == {"by": 2.0, "how": "mean", "flag": False}
    assert params["modifiers"] == [{"stretch": {"by": 2.0}}]


@with_own_methods
@pytest.mark.parametrize("folders", [False, True])
def test_a_method_per_task_writes_a_file_for_every_expert(
    files: Files, mergeloom: Command, folders: bool
) -> None:
    experts = files.experts
    if folders:
        experts = [files.folder / path.stem / "model.safetensors" for path in files.experts]
        for old, new in zip(files.experts, experts, strict=True):
            new.parent.mkdir()
            old.rename(new)
    out = files.out.parent / "each"
    done = mergeloom(*arguments(files, "each", experts=experts, out=out))
    assert done.code == 0, done.err
    assert left(files.out.parent) == ["each"]
    assert left(out) == [f"{name}.safetensors" for name in "abc"]
    assert done.out.splitlines() == [str(out / f"{n}.safetensors") for n in "abc"]
    for index, (name, expert) in enumerate(zip("abc", experts, strict=True)):
        path = out / f"{name}.safetensors"
        merged, expected = load_file(path), load_file(expert)
        for key in SHAPES:
            np.testing.assert_allclose(merged[key], expected[key], atol=2e-6)
        with safe_open(path, "numpy") as file:
            assert file.metadata()["task"] == str(index)


@with_own_methods
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "each"}, r"expected a name of a folder: this method gives one model per task"),
        ({"out": "folder"}, r"folder: expected a name that ends with .safetensors"),
        ({"param": "bi=2"}, r"has no parameter bi. It has: by .*how .*flag"),
        ({"param": "by=11"}, r"by is 11, expected a number in \(0, 10\]"),
        ({"param": "by=many"}, r"by is 'many', expected a number"),
        ({"param": "by="}, r"by is None, expected a number"),
        ({"param": "by=[1"}, r"--param by=\[1: '\[1' is no YAML value"),
        ({"param": "by"}, r"--param by: expected name=value"),
        ({"param": ["by=1", "by=2"]}, r"--param by was given twice"),
        ({"param": "by=nan"}, r"by is 'nan', expected a number"),
        ({"param": "how=max"}, r"how is 'max', expected one of mean, sum"),
        ({"param": "flag=1"}, r"flag is 1, expected true or false"),
        ({"param": "stretch.by=1"}, r"stretch is not among the modifiers.*--modify stretch"),
        ({"modify": "stretch", "param": "stretch.bi=1"}, r"stretch has no parameter bi"),
        ({"modify": "stretch", "param": "stretch.by=6"}, r"stretch: by is 6"),
        ({"modify": ["stretch", "stretch"]}, r"--modify stretch was given twice"),
        ({"modify": "stretsch"}, r"no modifier 'stretsch'. There are: .*stretch"),
    ],
)
def test_a_wrong_parameter_or_modifier_is_one_clear_error(
    files: Files, mergeloom: Command, changes: dict[str, object], message: str
) -> None:
    assert_refused(files, mergeloom(*arguments(files, **({"method": "scaled"} | changes))), message)


@with_own_methods
def test_experts_that_names_do_not_tell_apart_need_others(files: Files, mergeloom: Command) -> None:
    experts = []
    for path in files.experts[:2]:
        experts.append(files.folder / path.stem / "best" / "model.safetensors")
        experts[-1].parent.mkdir(parents=True)
        path.rename(experts[-1])
    out = files.out.parent / "each"
    done = mergeloom(*arguments(files, "each", experts=experts, out=out))
    assert_refused(files, done, r"another expert has this name.*Rename the files")


# Bad input.


def assert_refused(files: Files, done: Done, message: str) -> None:
    """One clear error, code 1, and nothing left behind."""
    assert done.code == 1
    assert re.search(message, done.err.replace("\n", " ")), done.err
    assert one_line(done.err)
    assert done.out == ""
    assert left(files.out.parent) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "tvs"}, r"no merge method 'tvs'. There are: .*task_arithmetic, .*tsv"),
        ({"family": "clpi"}, r"unknown family 'clpi'; there is: clip, cnn, generic, t5"),
        ({"alpha": "nan"}, r"--alpha is nan, expected a finite number"),
        ({"alpha": "inf"}, r"--alpha is inf, expected a finite number"),
        ({"experts": None}, r"--experts is missing"),
        ({"base": None}, r"--base is missing"),
        ({"method": None}, r"--method is missing.*--list"),
        ({"out": None}, r"--out is missing"),
        ({"base": "nowhere.safetensors"}, r"nowhere.safetensors: no such file"),
        ({"experts": ["nowhere.safetensors"]}, r"nowhere.safetensors: no such file"),
        ({"out": "merged.pt"}, r"merged.pt: expected a name that ends with .safetensors"),
    ],
)
def test_a_wrong_option_is_one_clear_error(
    files: Files, mergeloom: Command, changes: dict[str, object], message: str
) -> None:
    assert_refused(files, mergeloom(*arguments(files, **changes)), message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["fisher", "regmean", "regmean_plus_plus"])
def test_a_method_that_needs_images_names_the_target_of_the_workflow(
    files: Files, mergeloom: Command, name: str
) -> None:
    done = mergeloom(*arguments(files, name))
    target = rf"{name}\.json"
    assert_refused(
        files, done, rf"{name} needs .* takes training images.*Let the workflow.*{target}"
    )


def test_a_device_that_is_not_there_is_refused(files: Files, mergeloom: Command) -> None:
    done = mergeloom(*arguments(files, device="cuda"))
    assert_refused(files, done, r"no CUDA device here. Use --device cpu")


def test_a_pickle_is_refused(files: Files, mergeloom: Command) -> None:
    torch.save({"w": torch.ones(2)}, files.experts[1])
    assert_refused(files, mergeloom(*arguments(files)), r"b.safetensors: is a pickle")


def test_a_file_of_something_else_is_refused(files: Files, mergeloom: Command) -> None:
    files.base.write_text("not a model at all")
    for family in ("auto", "clip"):
        done = mergeloom(*arguments(files, family=family))
        assert_refused(files, done, r"base.safetensors: is not a safetensors file")


def test_a_file_that_was_cut_short_is_refused(files: Files, mergeloom: Command) -> None:
    files.experts[2].write_bytes(files.experts[2].read_bytes()[:-8])
    assert_refused(files, mergeloom(*arguments(files)), r"c.safetensors: is cut short")


def test_the_first_five_tensors_that_differ_are_named(files: Files, mergeloom: Command) -> None:
    wrong = {f"visual.extra{i}": np.float32([1]) for i in range(4)}
    save_file(wrong | {"visual.class_embedding": np.zeros(13, np.float32)}, files.experts[1])
    done = mergeloom(*arguments(files))
    assert_refused(files, done, r"b.safetensors: its tensors are not those of .*base.safetensors")
    named = [line for line in done.err.splitlines() if line.startswith("  visual.")]
    assert named[0].startswith("  visual.class_embedding has shape [13], but [12]")
    assert len(named) == 5
    assert "and 4 more" in done.err


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("which", ["base", "expert"])
def test_a_value_that_is_not_finite_is_found(
    files: Files, mergeloom: Command, value: float, cached: bool, which: str
) -> None:
    path = files.base if which == "base" else files.experts[2]
    tensors = load_file(path)
    tensors[BLOCK + "attn.in_proj_weight"][3, 4] = value
    save_file(tensors, path)
    cache = files.folder / "cache" if cached else None
    done = mergeloom(*arguments(files, "tsv", cache=cache))
    message = rf"{path}: tensor {BLOCK}attn.in_proj_weight has 1 values that are NaN or infinite"
    assert_refused(files, done, message)


def test_a_quantised_expert_is_refused(files: Files, mergeloom: Command) -> None:
    tensors = load_file(files.experts[0])
    tensors["visual.class_embedding"] = np.int8(tensors["visual.class_embedding"])
    save_file(tensors, files.experts[0])
    done = mergeloom(*arguments(files))
    assert_refused(files, done, r"a.safetensors: tensor visual.class_embedding has the type int8")


def test_a_result_that_its_type_cannot_hold_is_refused(files: Files, mergeloom: Command) -> None:
    save_file({k: v.astype(np.float16) for k, v in files.start.items()}, files.base)
    done = mergeloom(*arguments(files, "task_arithmetic", alpha=1e7))
    assert_refused(files, done, r"exceeds what float16, its type in the base, can hold")


def test_a_disk_without_room_is_refused_before_anything_is_written(
    files: Files, mergeloom: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(files.folder)._replace(free=100)
    monkeypatch.setattr("mergeloom.merging.output.shutil.disk_usage", lambda folder: usage)
    assert_refused(files, mergeloom(*arguments(files)), r"its disk has 0 MiB left")


@pytest.mark.parametrize("room", [100, 2000])  # within what is not trained, and after it
def test_a_disk_that_fills_up_keeps_nothing(tmp_path: Path, mergeloom: Command, room: int) -> None:
    files = Files(tmp_path)
    files.other["token_ids"] = np.arange(100)
    save_file(files.start | files.other, files.base)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        done = mergeloom(*arguments(files))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_refused(files, done, r"not enough room to write it")


def test_an_output_that_exists_is_replaced_only_if_told(files: Files, mergeloom: Command) -> None:
    files.out.parent.mkdir()
    files.out.write_text("precious")
    done = mergeloom(*arguments(files))
    assert done.code == 1
    assert "exists already. Write to another place, or add --overwrite" in done.err
    assert files.out.read_text() == "precious"
    assert mergeloom(*arguments(files), "--overwrite").code == 0
    assert set(load_file(files.out)) == set(files.start) | set(files.other)


@pytest.mark.parametrize("link", [False, True])
def test_an_input_is_never_overwritten(files: Files, mergeloom: Command, link: bool) -> None:
    out = files.experts[1]
    if link:
        out = files.folder / "link.safetensors"
        out.symlink_to(files.experts[1])
    before = files.experts[1].read_bytes()
    done = mergeloom(*arguments(files, out=out), "--overwrite")
    assert_refused(files, done, r"is the input .*b.safetensors, which would be lost")
    assert files.experts[1].read_bytes() == before


def test_an_output_that_cannot_be_made_is_refused(files: Files, mergeloom: Command) -> None:
    done = mergeloom(*arguments(files, out=files.base / "m.safetensors"))
    assert_refused(files, done, r"cannot be made, as .*base.safetensors is a file")
    (files.folder / "d.safetensors").mkdir()
    done = mergeloom(*arguments(files, out=files.folder / "d.safetensors"))
    assert_refused(files, done, r"d.safetensors: is a folder, expected the name of a file")


def test_a_failed_merge_leaves_the_file_that_it_was_to_replace(
    files: Files, mergeloom: Command
) -> None:
    files.out.parent.mkdir()
    files.out.write_text("precious")
    tensors = load_file(files.experts[0])
    tensors["visual.class_embedding"][0] = np.nan
    save_file(tensors, files.experts[0])
    assert mergeloom(*arguments(files), "--overwrite").code == 1
    assert left(files.out.parent) == [files.out.name]
    assert files.out.read_text() == "precious"


# Caches.


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the matrices that are decomposed for caches."""
    shapes: list[tuple[int, ...]] = []
    original = task_vector.truncated_svd

    def counted(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, ...]:
        shapes.append(tuple(matrix.shape))
        return original(matrix, rank)

    monkeypatch.setattr(task_vector, "truncated_svd", counted)
    monkeypatch.setattr("mergeloom.merging.group.truncated_svd", counted)
    return shapes


MATRICES = [shape for shape in SHAPES.values() if len(shape) == 2]


@pytest.mark.parametrize(("name", "caches"), [("tsv", 3), ("isotropic", 1)])
def test_a_second_merge_takes_everything_from_the_cache(
    files: Files, mergeloom: Command, decomposed: list, name: str, caches: int
) -> None:
    cache = files.folder / "cache"
    assert mergeloom(*arguments(files, name, cache=cache)).code == 0
    assert sorted(decomposed) == sorted(MATRICES * caches)
    assert len(list(cache.glob("*.safetensors"))) == caches
    first = files.out.read_bytes()
    decomposed.clear()
    done = mergeloom(*arguments(files, name, cache=cache), "--overwrite")
    assert done.code == 0, done.err
    assert decomposed == []
    assert files.out.read_bytes() == first
    assert done.err.count("taken from") == caches


@pytest.mark.parametrize("name", ["tsv", "isotropic"])
def test_a_cache_changes_the_result_by_rounding_only(
    files: Files, mergeloom: Command, name: str
) -> None:
    assert mergeloom(*arguments(files, name)).code == 0
    without = load_file(files.out)
    assert mergeloom(*arguments(files, name, cache=files.folder / "c"), "--overwrite").code == 0
    for key, tensor in load_file(files.out).items():
        np.testing.assert_allclose(tensor, without[key], atol=2e-6)


def test_a_method_that_needs_no_decomposition_makes_no_cache(
    files: Files, mergeloom: Command
) -> None:
    assert mergeloom(*arguments(files, cache=files.folder / "cache")).code == 0
    assert not (files.folder / "cache").exists()


def test_more_experts_find_the_caches_of_fewer(
    files: Files, mergeloom: Command, decomposed: list
) -> None:
    cache = files.folder / "cache"
    assert mergeloom(*arguments(files, "tsv", cache=cache, experts=files.experts[:2])).code == 0
    assert len(decomposed) == 2 * len(MATRICES)
    assert mergeloom(*arguments(files, "tsv", cache=cache), "--overwrite").code == 0
    assert len(decomposed) == 3 * len(MATRICES)


def test_a_changed_expert_gets_a_cache_of_its_own(
    files: Files, mergeloom: Command, decomposed: list
) -> None:
    cache = files.folder / "cache"
    assert mergeloom(*arguments(files, "tsv", cache=cache)).code == 0
    decomposed.clear()
    files.deltas[1] = random_model(9, SHAPES, 0.05)
    save_file({k: files.start[k] + files.deltas[1][k] for k in SHAPES}, files.experts[1])
    assert mergeloom(*arguments(files, "tsv", cache=cache), "--overwrite").code == 0
    assert sorted(decomposed) == sorted(MATRICES)
    merged = load_file(files.out)
    for key in SHAPES:
        expected = files.start[key] + tsv(files.stack(key))
        np.testing.assert_allclose(merged[key], expected, atol=2e-6)


def test_another_base_gets_caches_of_its_own(
    files: Files, mergeloom: Command, decomposed: list
) -> None:
    cache = files.folder / "cache"
    assert mergeloom(*arguments(files, "tsv", cache=cache)).code == 0
    decomposed.clear()
    save_file({key: tensor * np.float32(1.01) for key, tensor in files.start.items()}, files.base)
    assert mergeloom(*arguments(files, "tsv", cache=cache), "--overwrite").code == 0
    assert len(decomposed) == 3 * len(MATRICES)


@pytest.mark.parametrize("harm", ["payload", "header", "cut", "empty", "seal"])
def test_a_damaged_cache_is_computed_again(
    files: Files, mergeloom: Command, decomposed: list, harm: str
) -> None:
    cache = files.folder / "cache"
    assert mergeloom(*arguments(files, "tsv", cache=cache)).code == 0
    first = files.out.read_bytes()
    decomposed.clear()
    victim = min(cache.glob("*.safetensors"))
    content = bytearray(victim.read_bytes())
    if harm == "seal":
        victim.with_name(victim.name + ".sha256").unlink()
    elif harm == "payload":
        content[-5] ^= 1
    elif harm == "header":
        content[20] ^= 1
    else:
        del content[len(content) // 2 if harm == "cut" else 0 :]
    if harm != "seal":
        victim.write_bytes(content)
    done = mergeloom(*arguments(files, "tsv", cache=cache), "--overwrite")
    assert f"{victim}: is damaged or was not finished, and is computed again" in done.err
    assert sorted(decomposed) == sorted(MATRICES)
    assert files.out.read_bytes() == first


def test_a_file_is_no_folder_for_caches(files: Files, mergeloom: Command) -> None:
    done = mergeloom(*arguments(files, "tsv", cache=files.base))
    assert_refused(files, done, r"base.safetensors: is a file, expected a folder for caches")


# The table.


def test_the_list_names_every_method_and_modifier(mergeloom: Command) -> None:
    done = mergeloom("merge", "--list")
    assert (done.code, done.err) == (0, "")
    for entry in [*methods().values(), *modifiers().values()]:
        assert f"│ {entry.name} " in done.out
        assert entry.arxiv is None or entry.arxiv in done.out
        for parameter in entry.parameters:
            assert f"{parameter} = " in done.out


@with_own_methods
def test_the_list_gives_defaults_and_ranges(mergeloom: Command) -> None:
    done = mergeloom("merge", "--list")
    assert "by = 1.0: in (0, 10]" in done.out
    assert "how = mean: one of mean, sum" in done.out
    assert "flag = false: true or false" in done.out
    assert "one per task" in done.out


# Processes of their own.


def test_the_command_is_one_of_the_shell(files: Files) -> None:
    command = [*MERGELOOM, *map(str, arguments(files))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{files.out}\n"), done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert one_line(again.stderr).endswith("add --overwrite.")


def test_the_command_does_not_load_torch_until_it_merges() -> None:
    code = "import sys, mergeloom.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_merges_where_it_lies_among_others(files: Files) -> None:
    package, installed = Path(cli.__file__).parents[1], files.folder / "site-packages"
    shutil.copytree(package, installed / "mergeloom", ignore=shutil.ignore_patterns("__pycache__"))
    (installed / "torch").symlink_to(Path(torch.__file__).parent)
    command = [*MERGELOOM, *map(str, arguments(files, "tsv", cache=files.folder / "cache"))]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(record_of(files.out)["code"]) == 16


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path, {f"layers.{i}.weight": (500, 500) for i in range(40)})
    command = [*MERGELOOM, *map(str, arguments(files, "tsv", family="generic", threads=1))]
    # What runs in the background of a script ignores this signal, and its children do.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed) as process:
        while process.poll() is None and not left(files.out.parent):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        assert process.wait() not in (0, None)
    assert left(files.out.parent) == []


def test_a_killed_merge_leaves_no_output_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    files = Files(tmp_path, {f"layers.{i}.weight": (500, 500) for i in range(40)})
    typed = arguments(files, "tsv", family="generic", threads=1)
    command = [*MERGELOOM, *map(str, typed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not left(files.out.parent):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    remains = left(files.out.parent)
    assert len(remains) == 1
    assert remains[0].startswith(".merged.")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert left(files.out.parent) == [files.out.name]
    merged = load_file(files.out)
    key = "layers.11.weight"
    np.testing.assert_allclose(merged[key], files.start[key] + tsv(files.stack(key)), atol=2e-5)


@pytest.mark.parametrize("moment", range(6))
def test_models_per_task_appear_together_at_whatever_rename_a_merge_is_killed(
    files: Files, moment: int
) -> None:
    """Three files and their folder are renamed: killed before any of these, nothing is there."""
    out = files.folder / "each"
    typed = [*map(str, arguments(files, "emr", out=out))]
    kill = (
        "import os, signal, sys; real, left = os.replace, [int(sys.argv.pop(1))]\n"
        "def replace(source, target):\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left[0] -= 1\n"
        "    real(source, target)\n"
        "os.replace = replace\n"
        "from mergeloom.cli.app import run; run()"
    )
    command = [sys.executable, "-c", kill, str(moment), *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (moment > 3), done.stderr
    assert out.exists() == (moment > 3)
    again = subprocess.run(
        [*MERGELOOM, *typed, "--overwrite"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert left(out) == [f"{name}.safetensors" for name in "abc"]
    assert [p.name for p in files.folder.iterdir() if p.name.startswith(".")] == []


def test_a_folder_is_replaced_only_if_told_and_if_merges_wrote_all_in_it(
    files: Files, mergeloom: Command
) -> None:
    out = files.folder / "each"
    assert mergeloom(*arguments(files, "emr", out=out)).code == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    refused = mergeloom(*arguments(files, "emr", out=out))
    assert refused.code == 1
    assert "exists already" in refused.err
    (out / "thesis.txt").write_text("precious")
    refused = mergeloom(*arguments(files, "emr", out=out), "--overwrite")
    assert refused.code == 1
    assert "holds thesis.txt" in refused.err
    (out / "thesis.txt").unlink()
    assert mergeloom(*arguments(files, "emr", out=out), "--overwrite").code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    refused = mergeloom(*arguments(files, "emr", out=files.folder), "--overwrite")
    assert refused.code == 1
    assert "holds the input" in refused.err
