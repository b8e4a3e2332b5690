"""Task vectors, SVD caches and cosines as files, against numpy in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from vit import TEXT_SHAPES, VIT_SHAPES, VitFiles

from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.tensors import TensorFile
from mergeloom.merging.caches import SOURCE
from mergeloom.merging.diagnosis import cosine_matrix
from mergeloom.merging.sources import Differences, TaskVectorFiles
from mergeloom.merging.task_vector import read_factors, write_svd_cache, write_task_vector
from mergeloom.models.naming import naming

MATRICES = sorted(key for key, shape in VIT_SHAPES.items() if len(shape) == 2)
METADATA = {"mergeloom": "{}"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "file.safetensors"


def changed(vit_files: VitFiles, changes: dict[str, np.ndarray | None]) -> Path:
    """The first checkpoint with some tensors replaced, or left out where they are None."""
    tensors = vit_files.load(vit_files.checkpoints[0]) | changes
    path = vit_files.base.parent / "changed.safetensors"
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    return path


def expect_error(out: Path, words: str, *arguments: object) -> str:
    """Write a task vector, which must fail saying `words` and leave nothing."""
    with pytest.raises(MergeloomError, match=words) as caught:
        write_task_vector(*arguments, out, "clip")  # type: ignore[arg-type]
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    return str(caught.value)


def test_a_task_vector_is_the_difference_of_what_is_trained(vit_files: VitFiles, out: Path) -> None:
    write_task_vector(vit_files.base, vit_files.checkpoints[1], out, "clip", METADATA)
    with TensorFile(out) as file:
        assert file.keys() == sorted(VIT_SHAPES)
        assert file.metadata == METADATA
        for key in file:
            assert file.dtype(key) == torch.float32
            np.testing.assert_allclose(file[key], vit_files.deltas(key)[1], atol=1e-7)


def test_frozen_parameters_of_a_checkpoint_are_not_looked_at(
    vit_files: VitFiles, out: Path
) -> None:
    base = vit_files.load(vit_files.base)
    whole = changed(vit_files, {key: base[key] for key in TEXT_SHAPES})
    write_task_vector(vit_files.base, whole, out, "clip")
    assert TensorFile(out).keys() == sorted(VIT_SHAPES)


def test_what_was_not_trained_costs_nothing(vit_files: VitFiles, out: Path) -> None:
    write_task_vector(vit_files.base, vit_files.base, out, "clip")
    with TensorFile(out) as file:
        assert file.keys() == sorted(VIT_SHAPES)
        assert all(file.is_zero(key) for key in file)
    payload = sum(4 * int(np.prod(shape)) for shape in VIT_SHAPES.values())
    assert out.stat().st_size < payload / 4


def test_half_precision_checkpoints_are_subtracted_in_float32(
    vit_files: VitFiles, out: Path
) -> None:
    tensors = vit_files.load(vit_files.checkpoints[0])
    half = changed(vit_files, {key: np.float16(tensor) for key, tensor in tensors.items()})
    write_task_vector(vit_files.base, half, out, "clip")
    base = vit_files.load(vit_files.base)
    for key in MATRICES:
        expected = np.float32(np.float16(tensors[key])) - base[key]
        np.testing.assert_array_equal(TensorFile(out)[key], expected)


def test_writing_again_gives_the_same_bytes(vit_files: VitFiles, out: Path) -> None:
    task_vector, svd = out, out.with_name("svd.safetensors")
    written = []
    for _ in range(2):
        write_task_vector(vit_files.base, vit_files.checkpoints[0], task_vector, "clip", METADATA)
        write_svd_cache([task_vector], svd, "clip", 0.5, "cpu", METADATA)
        written.append((task_vector.read_bytes(), svd.read_bytes()))
    assert written[0] == written[1]


def test_other_keys_and_shapes_are_an_error_that_names_the_first_five(
    vit_files: VitFiles, out: Path
) -> None:
    block = "visual.transformer.resblocks"
    bad = changed(
        vit_files,
        {
            "visual.proj": np.zeros((24, 12), np.float32),
            "visual.class_embedding": None,
            "visual.extra": np.zeros(3, np.float32),
            f"{block}.0.attn.in_proj_bias": None,
            f"{block}.1.attn.in_proj_bias": np.zeros(3, np.float32),
            f"{block}.1.attn.in_proj_weight": np.zeros(3, np.float32),
            f"{block}.2.attn.in_proj_weight": np.zeros(3, np.float32),
        },
    )
    message = expect_error(out, "changed.safetensors", vit_files.base, bad)
    assert str(vit_files.base) in message
    assert "visual.class_embedding is missing" in message
    assert "visual.extra is not in" in message
    assert "visual.proj has shape [24, 12], but [24, 16]" in message
    assert f"{block}.0.attn.in_proj_bias is missing" in message
    assert f"{block}.1.attn.in_proj_bias is not in" in message
    assert f"{block}.1.attn.in_proj_weight" not in message
    assert "and 2 more" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["checkpoint", "base"])
def test_a_value_that_is_not_finite_is_an_error_that_names_file_and_tensor(
    vit_files: VitFiles, out: Path, value: float, which: str
) -> None:
    tensors = vit_files.load(vit_files.base if which == "base" else vit_files.checkpoints[0])
    bad = tensors["visual.proj"].copy()
    bad[3, 5] = value
    path = vit_files.base.parent / "bad.safetensors"
    save_file(tensors | {"visual.proj": bad}, path)
    pair = (path, vit_files.checkpoints[0]) if which == "base" else (vit_files.base, path)
    message = expect_error(out, r"bad\.safetensors: tensor visual\.proj has 1 values", *pair)
    assert "[3, 5]" in message


def test_bad_files_are_errors_that_name_them(vit_files: VitFiles, out: Path) -> None:
    pickled = out.parent.parent / "pickle.safetensors"
    torch.save({"visual.proj": torch.ones(2)}, pickled)
    expect_error(out, r"pickle\.safetensors: is a pickle", vit_files.base, pickled)
    cut = out.parent.parent / "cut.safetensors"
    cut.write_bytes(vit_files.checkpoints[0].read_bytes()[:-100])
    expect_error(out, r"cut\.safetensors: is cut short", vit_files.base, cut)
    save_file({"encoder.weight": np.ones(3, np.float32)}, cut)
    expect_error(out, r"no parameter that this family trains", cut, vit_files.checkpoints[0])


def test_both_sources_give_the_same_task_vectors(vit_files: VitFiles) -> None:
    with (
        TensorFile(vit_files.base) as base,
        Differences(base, vit_files.checkpoints, naming("clip")) as differences,
        TaskVectorFiles(vit_files.task_vectors) as files,
    ):
        assert list(differences.shapes) == list(files.shapes) == sorted(VIT_SHAPES)
        assert len(differences) == len(files) == 3
        for key, shape in VIT_SHAPES.items():
            assert differences.shapes[key] == files.shapes[key] == shape
            assert differences.stack(key).dtype == files.stack(key).dtype == torch.float32
            np.testing.assert_array_equal(differences.stack(key), files.stack(key))
            np.testing.assert_array_equal(differences.total(key), files.total(key))
            np.testing.assert_array_equal(files.stack(key, 2, 7), files.stack(key)[:, 2:7])
            np.testing.assert_array_equal(files.one(key, 1), files.stack(key)[1])
            expected = vit_files.deltas(key)
            np.testing.assert_allclose(files.stack(key).view(3, *shape), expected, atol=1e-7)
            np.testing.assert_allclose(files.total(key).view(shape), expected.sum(0), atol=1e-7)
        assert differences.identities() == files.identities()
        assert len(set(files.identities())) == 3


def test_merging_nothing_is_an_error() -> None:
    with pytest.raises(MergeloomError, match="nothing to merge"):
        TaskVectorFiles([])


@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
def test_an_svd_cache_holds_all_values_and_the_leading_vectors_of_every_matrix(
    vit_files: VitFiles, out: Path, fraction: float
) -> None:
    write_svd_cache([vit_files.task_vectors[0]], out, "clip", fraction, "cpu", METADATA)
    with TensorFile(out) as file:
        assert file.metadata == {**METADATA, SOURCE: sha256(vit_files.task_vectors[0])}
        assert file.keys() == sorted(
            f"{key}.{part}" for key in MATRICES for part in ("U", "S", "Vt")
        )
        for key in MATRICES:
            matrix = vit_files.deltas(key)[0]
            rank = min(matrix.shape)
            kept = int(np.ceil(fraction * rank))
            U, S, Vt = (np.float64(file[f"{key}.{part}"]) for part in ("U", "S", "Vt"))
            left, values, right = np.linalg.svd(matrix, full_matrices=False)
            assert U.shape == (matrix.shape[0], kept)
            assert Vt.shape == (kept, matrix.shape[1])
            np.testing.assert_allclose(S, values, atol=1e-6 * values[0])
            expected = (left[:, :kept] * values[:kept]) @ right[:kept]
            error = np.linalg.norm((U * S[:kept]) @ Vt - expected)
            assert error < 1e-4 * np.linalg.norm(expected)


def test_the_svd_of_what_was_not_trained_costs_nothing(vit_files: VitFiles, out: Path) -> None:
    write_task_vector(vit_files.base, vit_files.base, out, "clip")
    svd = out.with_name("svd.safetensors")
    write_svd_cache([out], svd, "clip", 1.0, "cpu")
    with TensorFile(svd) as file:
        assert all(file.is_zero(key) for key in file)
        assert file.shape("visual.proj.U") == (24, 16)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_fraction_out_of_range_is_an_error(
    vit_files: VitFiles, out: Path, fraction: float
) -> None:
    with pytest.raises(MergeloomError, match=str(fraction)):
        write_svd_cache([vit_files.task_vectors[0]], out, "clip", fraction, "cpu")
    assert not out.exists()


def test_factors_are_read_by_slicing_the_cache(vit_files: VitFiles, tmp_path: Path) -> None:
    paths = [tmp_path / f"svd{task}.safetensors" for task in range(3)]
    for path, task_vector in zip(paths, vit_files.task_vectors, strict=True):
        write_svd_cache([task_vector], path, "clip", 0.5, "cpu")
    files = [TensorFile(path) for path in paths]
    factors = read_factors(files, "visual.proj", 5)
    assert factors.U.shape == (3, 24, 5)
    assert factors.S.shape == (3, 5)
    assert factors.Vt.shape == (3, 5, 16)
    for task, delta in enumerate(vit_files.deltas("visual.proj")):
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        product = (factors.U[task] * factors.S[task]) @ factors.Vt[task]
        expected = (left[:, :5] * values[:5]) @ right[:5]
        np.testing.assert_allclose(product, expected, atol=1e-4 * values[0])
    with pytest.raises(MergeloomError, match=r"svd0.*keeps 8 of the 16.*visual\.proj.*0\.562"):
        read_factors(files, "visual.proj", 9)
    with pytest.raises(MergeloomError, match=r"svd0.*no tensor visual\.conv1\.weight"):
        read_factors(files, "visual.conv1.weight", 1)


def test_cosines_are_those_of_the_flattened_task_vectors(vit_files: VitFiles) -> None:
    flat = np.concatenate([vit_files.deltas(key).reshape(3, -1) for key in VIT_SHAPES], axis=1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = cosine_matrix(vit_files.task_vectors, "clip")
    assert cosines.dtype == np.float64
    assert (cosines == cosines.T).all()
    np.testing.assert_allclose(cosines, unit @ unit.T, atol=1e-6)
    assert (cosines.diagonal() == 1).all()


def test_a_task_vector_of_zero_is_similar_to_none(vit_files: VitFiles, out: Path) -> None:
    write_task_vector(vit_files.base, vit_files.base, out, "clip")
    cosines = cosine_matrix([vit_files.task_vectors[0], out], "clip")
    np.testing.assert_array_equal(cosines, np.eye(2))


def test_checkpoints_in_float64_are_subtracted_before_they_are_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start, step = 1 + rng.random(100), 1e-9 * rng.standard_normal(100)
    save_file({"weight": start}, tmp_path / "base.safetensors")
    save_file({"weight": start + step}, tmp_path / "expert.safetensors")
    with (
        TensorFile(tmp_path / "base.safetensors") as base,
        Differences(base, [tmp_path / "expert.safetensors"], naming("generic")) as source,
    ):
        assert source.one("weight", 0).dtype == torch.float32
        np.testing.assert_allclose(source.one("weight", 0), step, atol=1e-15)
        np.testing.assert_allclose(source.total("weight"), step, atol=1e-15)


def test_task_vectors_that_differ_anywhere_are_told_apart_and_so_are_twins(tmp_path: Path) -> None:
    one = np.ones(1000, np.float32)
    other = one.copy()
    other[700] = 2
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, values in zip(paths, (one, other, one), strict=True):
        save_file({"weight": values}, path)
    with TaskVectorFiles(paths) as files, TaskVectorFiles(paths[::-1]) as turned:
        assert len(set(files.identities())) == 3
        assert set(turned.identities()) == set(files.identities())
