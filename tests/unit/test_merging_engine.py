"""The engine: merged files against float64 statements, bounded memory, and bad input."""

import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from vit import VIT_SHAPES, VitFiles

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.merging import engine, group
from mergeloom.merging.engine import Merge, merge_files, plan_merge
from mergeloom.merging.sources import TaskVectorFiles
from mergeloom.merging.task_vector import write_svd_cache
from mergeloom.models.weights import merged_weights

METHODS = ["zeroshot", "weight_average", "task_arithmetic", "tsv", "isotropic"]
METADATA = {"mergeloom": '{"made": "from"}'}


def polar(values: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(values, full_matrices=False)
    return left @ right


def tsv(deltas: np.ndarray) -> np.ndarray:
    kept = min(deltas.shape[1:]) // len(deltas)
    left, values, right = np.linalg.svd(deltas, full_matrices=False)
    return (
        polar(np.hstack(left[:, :, :kept])) * np.concatenate(values[:, :kept])
    ) @ polar(np.vstack(right[:, :kept]))  # fmt: skip


def isotropic(deltas: np.ndarray) -> np.ndarray:
    left, values, right = np.linalg.svd(deltas.sum(0), full_matrices=False)
    return values.mean() * left @ right


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zeroshot": lambda deltas: 0 * deltas[0],
    "weight_average": lambda deltas: deltas.mean(0),
    "task_arithmetic": lambda deltas: deltas.sum(0),
    "tsv": lambda deltas: tsv(deltas) if deltas.ndim == 3 else deltas.mean(0),
    "isotropic": lambda deltas: isotropic(deltas) if deltas.ndim == 3 else deltas.mean(0),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "merged" / "demo" / "merged.safetensors"


def merge(files: VitFiles, method: str, out: Path, **changes: object) -> TensorFile:
    arguments: dict = {
        "base": files.base,
        "experts": files.task_vectors,
        "family": "clip",
        "metadata": METADATA,
    }
    parameters = changes.pop("parameters", {})
    merge_files(merge=plan_merge(method, parameters), out=out, **(arguments | changes))
    return TensorFile(out)


def nothing_left(out: Path) -> bool:
    return not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
def test_the_merged_file_is_the_formula_of_every_parameter(
    vit_files: VitFiles, out: Path, method: str
) -> None:
    with merge(vit_files, method, out) as merged:
        assert merged.keys() == sorted(VIT_SHAPES)
        assert merged.metadata == METADATA
        for key in merged:
            expected = FORMULAS[method](vit_files.deltas(key))
            error = np.linalg.norm(merged[key].double().numpy() - expected)
            spectral = method in ("tsv", "isotropic") and expected.ndim == 2
            assert error <= (1e-4 if spectral else 1e-5) * np.linalg.norm(expected), key


def test_zero_shot_takes_no_room(vit_files: VitFiles, out: Path) -> None:
    with merge(vit_files, "zeroshot", out) as merged:
        assert all(merged.is_zero(key) for key in merged)


@pytest.mark.parametrize("method", METHODS)
def test_merging_again_gives_the_same_bytes(vit_files: VitFiles, out: Path, method: str) -> None:
    merge(vit_files, method, out)
    first = out.read_bytes()
    merge(vit_files, method, out)
    assert out.read_bytes() == first


@pytest.fixture
def caches(vit_files: VitFiles, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"svd{task}.safetensors" for task in range(3)]
    for task_vector, path in zip(vit_files.task_vectors, paths, strict=True):
        write_svd_cache([task_vector], path, "clip", 0.5, "cpu")
    return paths


def test_tsv_from_caches_is_tsv_without(vit_files: VitFiles, caches: list[Path], out: Path) -> None:
    cached = merge(vit_files, "tsv", out.with_name("cached.safetensors"), svd=caches)
    with merge(vit_files, "tsv", out) as merged:
        for key in merged:
            torch.testing.assert_close(cached[key], merged[key], rtol=1e-5, atol=1e-7)


def test_tsv_from_caches_does_not_read_the_matrices(
    vit_files: VitFiles, caches: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()

    class Watched(TaskVectorFiles):
        def _read(self, file: TensorFile, key: str, start: int, out: torch.Tensor, origin: None):
            if out.numel() > 16:  # a few values tell whether an expert equals its base
                asked.add(key)
            return super()._read(file, key, start, out, origin)

    monkeypatch.setattr(engine, "TaskVectorFiles", Watched)
    merge(vit_files, "tsv", out, svd=caches)
    vectors = {key for key, shape in VIT_SHAPES.items() if len(shape) != 2}
    assert asked == vectors


def test_a_cache_that_keeps_too_little_is_an_error(
    vit_files: VitFiles, caches: list[Path], out: Path
) -> None:
    write_svd_cache([vit_files.task_vectors[1]], caches[1], "clip", 0.25, "cpu")
    with pytest.raises(
        MergeloomError, match=r"svd1\.safetensors: keeps 4 of the 16.* 5 are needed"
    ):
        merge(vit_files, "tsv", out, svd=caches)
    assert nothing_left(out)


def test_a_cache_of_other_bytes_is_never_read(
    vit_files: VitFiles, caches: list[Path], out: Path
) -> None:
    """A task vector of the same name and shapes, even with the same time stamps, is another one."""
    path = vit_files.task_vectors[1]
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # a bit of a mantissa
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(MergeloomError, match=r"svd1\.safetensors: was not computed from what .*"):
        merge(vit_files, "tsv", out, svd=caches)
    with pytest.raises(MergeloomError, match="was not computed from what"):
        merge(vit_files, "tsv", out, svd=[caches[0], caches[2], caches[2]])
    assert nothing_left(out)


def test_as_many_caches_as_task_vectors_are_needed(
    vit_files: VitFiles, caches: list[Path], out: Path
) -> None:
    with pytest.raises(MergeloomError, match="3 task vectors were given, but 2 SVD caches"):
        merge(vit_files, "tsv", out, svd=caches[:2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cached", [False, True])
def test_no_more_than_one_parameter_of_all_tasks_is_held(
    vit_files: VitFiles,
    caches: list[Path],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    cached: bool,
) -> None:
    """For one worker: it works on one parameter while the two before it are written or wait."""
    held: list[weakref.ref] = []
    most = 0

    class Watched(TaskVectorFiles):
        def stack(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
            nonlocal most
            deltas = super().stack(key, start, stop)
            if deltas.numel() > 16 * len(self):
                held.append(weakref.ref(deltas))
            most = max(most, sum(ref() is not None for ref in held))
            return deltas

    read_factors = group.read_factors

    def watched_factors(*arguments: object) -> object:
        nonlocal most
        factors = read_factors(*arguments)  # type: ignore[arg-type]
        held.append(weakref.ref(factors.U))
        most = max(most, sum(ref() is not None for ref in held))
        return factors

    monkeypatch.setattr(engine, "TaskVectorFiles", Watched)
    monkeypatch.setattr(group, "read_factors", watched_factors)
    merge(vit_files, method, out, svd=caches if cached else None, workers=1)
    assert most <= 1


def test_a_matrix_with_fewer_singular_values_than_tasks_takes_the_mean_under_tsv(
    vit_files: VitFiles, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Six tasks, and a positional embedding of rank 5.
    key = "visual.positional_embedding"
    twice = vit_files.task_vectors * 2
    with (
        caplog.at_level(logging.WARNING),
        merge(vit_files, "tsv", out, experts=twice) as merged,
    ):
        np.testing.assert_allclose(merged[key], vit_files.deltas(key).mean(0), atol=1e-7)
    assert [record.args[0] for record in caplog.records if record.args] == [key]


def test_an_expert_equal_to_the_base_adds_nothing_to_tsv_but_its_share(
    vit_files: VitFiles, out: Path, tmp_path: Path
) -> None:
    idle = tmp_path / "idle.safetensors"
    write_tensors(idle, {k: torch.zeros(s) for k, s in VIT_SHAPES.items()}, {}, elide_zeros=True)
    key = "visual.proj"
    merged = merge(vit_files, "tsv", out, experts=[*vit_files.task_vectors, idle])
    left, values, right = np.linalg.svd(vit_files.deltas(key), full_matrices=False)
    expected = (
        polar(np.hstack(left[:, :, :4])) * np.concatenate(values[:, :4])
    ) @ polar(np.vstack(right[:, :4]))  # fmt: skip
    assert np.linalg.norm(merged[key].numpy() - expected) < 1e-4 * np.linalg.norm(expected)


# --- weights


@pytest.mark.parametrize("method", METHODS)
def test_at_alpha_0_the_merged_model_is_the_zero_shot_model(
    vit_files: VitFiles, out: Path, method: str
) -> None:
    merged = merge(vit_files, method, out)
    base = vit_files.load(vit_files.base)
    weights = dict(merged_weights(TensorFile(vit_files.base), merged, 0.0))
    assert sorted(weights) == sorted(VIT_SHAPES)
    for key, tensor in weights.items():
        np.testing.assert_array_equal(tensor, base[key])


@pytest.mark.parametrize("method", ["weight_average", "task_arithmetic", "tsv"])
def test_merging_one_expert_at_alpha_1_gives_the_expert(
    vit_files: VitFiles, out: Path, method: str
) -> None:
    merged = merge(vit_files, method, out, experts=vit_files.task_vectors[:1])
    expert = vit_files.load(vit_files.checkpoints[0])
    for key, tensor in merged_weights(TensorFile(vit_files.base), merged, 1.0):
        np.testing.assert_allclose(tensor, expert[key], atol=1e-6)


def test_merged_weights_are_base_plus_alpha_times_delta_in_the_dtype_of_the_base(
    tmp_path: Path,
) -> None:
    base = {
        "c": torch.ones(2).half(),
        "a": torch.tensor([1.0, 2.0]),
        "b": torch.ones(2).half(),
        "text": torch.ones(3),
    }
    delta = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor([0.0, 2.0]), "c": torch.zeros(2)}
    write_tensors(tmp_path / "base.safetensors", base, {})
    write_tensors(tmp_path / "delta.safetensors", delta, {}, elide_zeros=True)
    weights = dict(
        merged_weights(
            TensorFile(tmp_path / "base.safetensors"), TensorFile(tmp_path / "delta.safetensors"), 3
        )
    )
    assert sorted(weights) == ["a", "b", "c"]
    assert torch.equal(weights["a"], torch.tensor([2.5, -1.0]))
    assert torch.equal(weights["b"], torch.tensor([1.0, 7.0]).half())
    assert torch.equal(weights["c"], base["c"])
    assert {key: weights[key].dtype for key in weights} == {key: base[key].dtype for key in weights}


# --- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "tiess"}, "no merge method 'tiess'.*isotropic.*zeroshot"),
        ({"parameters": {"density": 1}}, "tsv has no parameter density"),
        ({"family": "clipp"}, "clipp"),
        ({"experts": []}, "nothing to merge"),
    ],
)
def test_a_bad_request_is_an_error_and_leaves_nothing(
    vit_files: VitFiles, out: Path, changes: dict, words: str
) -> None:
    with pytest.raises(MergeloomError, match=words):
        merge(vit_files, **({"method": "tsv", "out": out} | changes))
    assert nothing_left(out)


def damaged(vit_files: VitFiles, kind: str) -> str:
    """Damage the second task vector, and return what the error must say."""
    path = vit_files.task_vectors[1]
    tensors = vit_files.load(path)
    if kind == "pickle":
        torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, path)
        return "is a pickle"
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
        return "is cut short"
    if kind == "missing":
        path.unlink()
        return "no such file"
    if kind == "nan":
        tensors["visual.proj"][0, 0] = np.nan
        words = "tensor visual.proj has 1 values that are NaN or infinite"
    elif kind == "shape":
        tensors["visual.proj"] = np.zeros((3, 3), np.float32)
        words = "visual.proj has shape [3, 3], but [24, 16]"
    else:
        del tensors["visual.proj"]
        words = "visual.proj is missing"
    save_file(tensors, path)
    return words


@pytest.mark.parametrize("kind", ["pickle", "cut", "missing", "nan", "shape", "key"])
@pytest.mark.parametrize("method", ["task_arithmetic", "tsv"])
def test_a_bad_task_vector_is_an_error_that_names_it_and_leaves_nothing(
    vit_files: VitFiles, out: Path, kind: str, method: str
) -> None:
    words = damaged(vit_files, kind)
    with pytest.raises(MergeloomError) as caught:
        merge(vit_files, method, out)
    assert str(caught.value).startswith(f"{vit_files.task_vectors[1]}: ")
    assert words in str(caught.value)
    assert nothing_left(out)


def test_an_interrupted_merge_leaves_the_old_file_and_the_next_one_succeeds(
    vit_files: VitFiles, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(vit_files, "weight_average", out)
    before = out.read_bytes()
    merge_group = engine.merge_group

    def interrupted(group: engine.Group, merge: Merge) -> torch.Tensor:
        if group.place.key == "visual.proj":
            raise KeyboardInterrupt
        return merge_group(group, merge)

    monkeypatch.setattr(engine, "merge_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(vit_files, "task_arithmetic", out)
    monkeypatch.undo()
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    merge(vit_files, "task_arithmetic", out)
    assert out.read_bytes() != before
