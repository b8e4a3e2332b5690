"""What a diagnosis says of a merge, against float64 numpy and its singular value decomposition."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from safetensors.numpy import save_file
from study import BLOCK, Model, Study, vit_shapes

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.diagnosis import diagnosis, read_diagnosis
from mergeloom.io.jsonfile import write_json
from mergeloom.merging import diagnosis as module
from mergeloom.merging.diagnosis import cosine_matrix, diagnose
from mergeloom.merging.task_vector import write_svd_cache

SCHEMA = Path(__file__).parents[2] / "config" / "schema" / "diagnosis.schema.json"
FC = BLOCK.format(1) + "mlp.c_fc.weight"
PROVENANCE = {
    "rule": "diagnose_merge", "inputs": {"models/a": "0" * 64}, "params": {}, "code": "0" * 16,
    "versions": {}, "device": "cpu", "seed": 0,
}  # fmt: skip


def caches_of(study: Study, fraction: float = 0.25) -> list[Path]:
    """SVD caches of the study's task vectors, made once."""
    paths = [path.with_suffix(f".svd{fraction}") for path in study.task_vectors]
    for task_vector, path in zip(study.task_vectors, paths, strict=True):
        if not path.exists():
            write_svd_cache([task_vector], path, "clip", fraction, "cpu")
    return paths


def write_merged(study: Study, merged: Model, **header: str) -> Path:
    """A merged task vector as a file."""
    path = study.folder / "merged.safetensors"
    save_file({k: value.astype(np.float32) for k, value in merged.items()}, path, header)
    return path


def made(study: Study, method: str, **parameters: Any) -> Path:
    """The file of what a method makes of the study's task vectors."""
    study.merge(method, parameters)
    return study.folder / "out" / "merged.safetensors"


def look(study: Study, merged: Path, fraction: float = 0.25, **options: Any) -> dict[str, Any]:
    caches = caches_of(study, fraction)
    return diagnose(study.task_vectors, merged, caches, "clip", **options)


def flat(deltas: Model) -> np.ndarray:
    """Task vectors [T, n] of whole models."""
    return np.concatenate([value.reshape(len(value), -1) for value in deltas.values()], axis=1)


def expected_sti(deltas: np.ndarray) -> tuple[float, float]:
    """‖(UᵀU - I) Σ (VᵀV - I)‖₁ of task vectors [T, m, n], and the same over the trace of Σ."""
    kept = min(deltas.shape[1:]) // len(deltas)
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = np.hstack([u[:, :kept] for u, _, _ in parts])
    right = np.hstack([vt[:kept].T for _, _, vt in parts])
    values = np.diag(np.hstack([s[:kept] for _, s, _ in parts]))
    one = np.eye(len(values))
    sti = np.abs((left.T @ left - one) @ values @ (right.T @ right - one)).sum()
    return sti, sti / np.trace(values)


def expected_sar(delta: np.ndarray, merged: np.ndarray) -> tuple[float, int]:
    """‖ΠΔ‖ / ‖Δ‖ with the smallest projection that loses at most 5% of the merged matrix."""
    left = np.linalg.svd(merged)[0]
    for rank in range(len(left) + 1):
        projection = left[:, :rank] @ left[:, :rank].T
        if np.linalg.norm(merged - projection @ merged) <= 0.05 * np.linalg.norm(merged):
            break
    return np.linalg.norm(projection @ delta) / np.linalg.norm(delta), rank


def expected_ranks(matrix: np.ndarray) -> tuple[float, float]:
    """Effective and stable rank."""
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values / values.sum()
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    return math.exp(entropy), (matrix**2).sum() / values[0] ** 2


def expected_signs(delta: np.ndarray, merged: np.ndarray) -> tuple[float, float]:
    """Shares of the task's elements at which the merged ones have its sign, and the other."""
    there = delta != 0
    same = (np.sign(delta) == np.sign(merged)) & there
    opposite = (np.sign(delta) == -np.sign(merged)) & there
    return same.sum() / there.sum(), opposite.sum() / there.sum()


def expected_unanimity(deltas: np.ndarray) -> float:
    """Share of the elements that any task changes whose changes have one sign."""
    signs = np.sign(deltas.reshape(len(deltas), -1)).T
    sets = [set(element) - {0} for element in signs]
    return sum(len(found) == 1 for found in sets) / sum(len(found) > 0 for found in sets)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.fixture(scope="module")
def sparse(study: Study) -> Model:
    """A merged model with zeros: the sum where it is large, elsewhere nothing."""
    total = {key: np.float32(deltas.sum(0)) for key, deltas in study.deltas.items()}
    return {key: np.where(abs(x) > np.median(abs(x)), x, 0) for key, x in total.items()}


@pytest.fixture(scope="module")
def found(study: Study, sparse: Model) -> dict[str, Any]:
    return look(study, write_merged(study, sparse))


def test_every_matrix_and_no_other_parameter_is_measured(found: dict[str, Any]) -> None:
    matrices = {key: list(shape) for key, shape in vit_shapes().items() if len(shape) == 2}
    assert {key: entry["shape"] for key, entry in found["matrices"].items()} == matrices
    assert found["matrices"][FC]["block"] == 1
    assert found["matrices"]["visual.proj"]["block"] is None


def test_interference_is_its_formula(study: Study, found: dict[str, Any]) -> None:
    for key, entry in found["matrices"].items():
        sti, normalized = expected_sti(study.deltas[key])
        assert entry["sti"] == pytest.approx(sti, rel=1e-4), key
        assert entry["sti_normalized"] == pytest.approx(normalized, rel=1e-4), key


def test_alignment_is_its_formula(study: Study, sparse: Model, found: dict[str, Any]) -> None:
    for key, entry in found["matrices"].items():
        pairs = [expected_sar(delta, sparse[key]) for delta in study.deltas[key]]
        assert entry["sar"] == pytest.approx([ratio for ratio, _ in pairs], rel=1e-5), key
        assert entry["sar_rank"] == [pairs[0][1]], key


def test_ranks_are_their_formulas(study: Study, sparse: Model, found: dict[str, Any]) -> None:
    for key, entry in found["matrices"].items():
        effective, stable = zip(*map(expected_ranks, study.deltas[key]), strict=True)
        assert entry["effective_rank"] == pytest.approx(effective, rel=1e-5), key
        assert entry["stable_rank"] == pytest.approx(stable, rel=1e-5), key
        effective_rank, stable_rank = expected_ranks(np.float64(sparse[key]))
        assert entry["merged_effective_rank"] == pytest.approx([effective_rank], rel=1e-5), key
        assert entry["merged_stable_rank"] == pytest.approx([stable_rank], rel=1e-5), key


def test_cosines_are_those_of_whole_models(
    study: Study, sparse: Model, found: dict[str, Any]
) -> None:
    vectors = flat(study.deltas)
    merged = flat({key: np.float64(value)[None] for key, value in sparse.items()})[0]
    between = [[cosine(one, other) for other in vectors] for one in vectors]
    np.testing.assert_allclose(found["model"]["cosine"], between, atol=1e-12)
    np.testing.assert_allclose(found["model"]["cosine"], cosine_matrix(study.task_vectors, "clip"))
    with_merged = [cosine(one, merged) for one in vectors]
    np.testing.assert_allclose(found["model"]["cosine_with_merged"], with_merged, rtol=1e-12)
    expected = [cosine(delta, sparse[FC]) for delta in study.deltas[FC]]
    np.testing.assert_allclose(found["matrices"][FC]["cosine_with_merged"], expected, rtol=1e-6)


def test_signs_are_counted_exactly(study: Study, sparse: Model, found: dict[str, Any]) -> None:
    whole = flat(study.deltas), flat({key: value[None] for key, value in sparse.items()})[0]
    for (deltas, merged), entry in (
        (whole, found["model"]),
        ((study.deltas[FC], sparse[FC]), found["matrices"][FC]),
    ):
        same, opposite = zip(*(expected_signs(delta, merged) for delta in deltas), strict=True)
        assert entry["sign_agreement"] == pytest.approx(same, rel=1e-12)
        assert entry["sign_opposition"] == pytest.approx(opposite, rel=1e-12)
        assert entry["sign_unanimity"] == pytest.approx(expected_unanimity(deltas), rel=1e-12)
        assert max(np.add(same, opposite)) < 0.6  # half of the merged elements are zero


def test_averages_are_means_over_matrices_and_over_blocks(found: dict[str, Any]) -> None:
    entries = found["matrices"].values()
    kind = BLOCK + "mlp.c_fc.weight"
    stacked = [entry for entry in entries if entry["kind"] == kind]
    assert found["kinds"][kind]["matrices"] == len(stacked) == 3
    assert found["kinds"]["visual.proj"]["matrices"] == 1
    for name in found["average"]:
        mean = np.mean([entry[name] for entry in entries], axis=0)
        np.testing.assert_allclose(found["average"][name], mean, rtol=1e-12)
        mean = np.mean([entry[name] for entry in stacked], axis=0)
        np.testing.assert_allclose(found["kinds"][kind][name], mean, rtol=1e-12)


def test_neither_workers_nor_runs_change_a_diagnosis(
    study: Study, sparse: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One parameter is longer than a run's granularity and so is taken apart.
    long = Study(study.folder / "long", tasks=2, shapes={"visual.a": (300, 300), "visual.b": (3,)})
    merged = write_merged(long, {key: deltas.sum(0) for key, deltas in long.deltas.items()})
    one = look(long, merged, 0.5, workers=1)
    assert look(long, merged, 0.5, workers=2) == one
    calls: list[int] = []
    add = module._added
    monkeypatch.setattr(module, "_added", lambda a, b: calls.append(1) or add(a, b))
    monkeypatch.setattr("mergeloom.merging.group._ELEMENTS", 1)
    apart = look(long, merged, 0.5)
    assert len(calls) == 2 + 1 + 1  # two runs and one, and the total of two parameters
    np.testing.assert_allclose(apart["model"]["cosine"], one["model"]["cosine"], rtol=1e-12)
    assert apart["model"]["sign_agreement"] == one["model"]["sign_agreement"]
    assert apart["matrices"]["visual.a"]["sar"] == one["matrices"]["visual.a"]["sar"]


def test_permuting_tasks_permutes_a_diagnosis(study: Study, found: dict[str, Any]) -> None:
    merged = study.folder / "merged.safetensors"
    there = diagnose(study.task_vectors[::-1], merged, caches_of(study)[::-1], "clip")
    for key, entry in found["matrices"].items():
        assert there["matrices"][key]["sar"] == pytest.approx(entry["sar"][::-1], rel=1e-12)
        assert there["matrices"][key]["sti"] == pytest.approx(entry["sti"], rel=1e-9)


def test_interference_is_of_the_tasks_and_not_of_the_merge(
    study: Study, found: dict[str, Any]
) -> None:
    other = look(study, made(study, "task_arithmetic"))
    assert other["average"]["sti"] == found["average"]["sti"]
    assert other["average"]["sar"] != found["average"]["sar"]


def test_tasks_in_orthogonal_subspaces_do_not_interfere(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={"visual.proj": (6, 6)})
    blocks = np.zeros((2, 6, 6), np.float32)
    blocks[0, :3, :3], blocks[1, 3:, 3:] = np.diag([3, 2, 1]), np.diag([3, 2, 1])
    for path, delta in zip(study.task_vectors, blocks, strict=True):
        save_file({"visual.proj": delta}, path)
    entry = look(study, made(study, "task_arithmetic"), 0.5)["matrices"]["visual.proj"]
    assert entry["sti"] == pytest.approx(0, abs=1e-6)
    assert entry["sar"] == pytest.approx([1, 1])
    assert entry["sar_rank"] == [6]
    assert entry["stable_rank"] == pytest.approx([14 / 9, 14 / 9])
    assert entry["sign_agreement"] == [1, 1]
    assert entry["sign_unanimity"] == 1


def test_the_isotropic_merge_has_full_effective_rank(study: Study) -> None:
    there = look(study, made(study, "isotropic"))
    for entry in there["matrices"].values():
        assert entry["merged_effective_rank"] == pytest.approx([min(entry["shape"])], rel=1e-4)
        assert entry["merged_stable_rank"] == pytest.approx([min(entry["shape"])], rel=1e-4)


def test_caches_that_keep_too_little_are_done_without(study: Study, found: dict[str, Any]) -> None:
    merged = study.folder / "merged.safetensors"
    there = look(study, merged, 0.1)
    assert there["average"]["sti"] == pytest.approx(found["average"]["sti"], rel=1e-5)


def test_a_merged_model_of_zero_has_neither_directions_nor_signs(study: Study) -> None:
    there = look(study, made(study, "zeroshot"))
    none = [None] * 4
    for entry in (there["model"], there["average"], *there["matrices"].values()):
        assert entry["cosine_with_merged"] == none
        assert entry["sign_agreement"] == entry["sign_opposition"] == none
        assert entry["sign_unanimity"] is not None
    for entry in (there["average"], *there["matrices"].values(), *there["kinds"].values()):
        assert entry["sar"] == none
        assert entry["sar_rank"] == entry["merged_effective_rank"] == [None]
        assert None not in entry["effective_rank"]
        assert entry["sti"] > 0
    validate(there)


def test_an_expert_equal_to_its_base_is_left_out_of_what_it_has_no_part_in(folder: Path) -> None:
    study = Study(folder, tasks=3)
    save_file(
        {key: np.zeros(shape, np.float32) for key, shape in study.shapes.items()},
        study.task_vectors[1],
    )
    there = look(study, made(study, "task_arithmetic"), 0.4)
    assert there["model"]["cosine"][1] == [None] * 3
    assert there["model"]["cosine"][0][0] == 1
    for entry in (there["average"], *there["matrices"].values()):
        defined = [value is not None for value in entry["sar"]]
        assert defined == [True, False, True]
        for name in ("effective_rank", "stable_rank", "cosine_with_merged", "sign_agreement"):
            assert [value is not None for value in entry[name]] == defined, name
    others = [delta for index, delta in enumerate(study.deltas[FC]) if index != 1]
    assert there["matrices"][FC]["sign_unanimity"] == expected_unanimity(np.stack(others))
    validate(there)


def test_a_matrix_of_zero_does_not_count_in_averages(folder: Path) -> None:
    study = Study(folder, tasks=2)
    merged = {key: deltas.sum(0) for key, deltas in study.deltas.items()}
    merged[FC] = np.zeros_like(merged[FC])
    there = look(study, write_merged(study, merged), 0.5)
    assert there["matrices"][FC]["sar"] == [None, None]
    others = [entry["sar"] for key, entry in there["matrices"].items() if key != FC]
    np.testing.assert_allclose(there["average"]["sar"], np.mean(others, axis=0), rtol=1e-12)


def test_more_tasks_than_singular_values_have_no_interference_to_speak_of(folder: Path) -> None:
    study = Study(folder, tasks=4, shapes={"visual.proj": (3, 5), "visual.big": (8, 8)})
    there = look(study, made(study, "task_arithmetic"))
    assert there["matrices"]["visual.proj"]["sti"] is None
    assert there["matrices"]["visual.proj"]["sti_normalized"] is None
    assert there["average"]["sti"] == there["matrices"]["visual.big"]["sti"]
    validate(there)


def test_one_task_does_not_interfere_and_is_its_own_merge(folder: Path) -> None:
    study = Study(folder, tasks=1)
    there = look(study, made(study, "task_arithmetic"), 1.0)
    assert there["model"]["cosine"] == [[1]]
    assert there["model"]["cosine_with_merged"] == pytest.approx([1], abs=1e-12)
    assert there["model"]["sign_agreement"] == [1]
    assert there["model"]["sign_unanimity"] == 1
    for entry in there["matrices"].values():
        assert entry["sti_normalized"] == pytest.approx(0, abs=1e-4)
        assert 0.95 < entry["sar"][0] <= 1
        assert entry["merged_effective_rank"] == pytest.approx(entry["effective_rank"], rel=1e-5)


def test_of_one_model_per_task_each_task_is_compared_with_its_own(study: Study) -> None:
    rng = np.random.default_rng(1)
    noisy = {
        key: np.float32(deltas + 0.02 * rng.standard_normal(deltas.shape))
        for key, deltas in study.deltas.items()
    }
    there = look(study, write_merged(study, noisy, per_task="4"))
    assert there["per_task"] is True
    for key in (FC, "visual.proj"):
        entry = there["matrices"][key]
        own = list(zip(study.deltas[key], np.float64(noisy[key]), strict=True))
        ratios, ranks = zip(*itertools.starmap(expected_sar, own), strict=True)
        assert entry["sar"] == pytest.approx(ratios, rel=1e-5)
        assert entry["sar_rank"] == list(ranks)
        effective = [expected_ranks(matrix)[0] for _, matrix in own]
        assert entry["merged_effective_rank"] == pytest.approx(effective, rel=1e-5)
        assert entry["cosine_with_merged"] == pytest.approx(
            list(itertools.starmap(cosine, own)), rel=1e-9
        )
        same = [expected_signs(*pair)[0] for pair in own]
        assert entry["sign_agreement"] == pytest.approx(same, rel=1e-12)
    validate(there)


def test_a_parameter_may_be_a_single_number(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={"visual.proj": (4, 4)})
    scales = np.float32([3, -2])
    for path, scale in zip(study.task_vectors, scales, strict=True):
        save_file({"visual.proj": np.eye(4, dtype=np.float32), "visual.s": np.array(scale)}, path)
    merged = {"visual.proj": np.eye(4), "visual.s": np.array(1.0)}
    there = look(study, write_merged(study, merged), 0.5)
    assert there["model"]["cosine"][0][1] == pytest.approx((4 - 6) / math.sqrt(13 * 8))
    assert there["model"]["cosine_with_merged"][1] == pytest.approx((4 - 2) / math.sqrt(8 * 5))
    assert there["model"]["sign_agreement"] == [1, 4 / 5]
    assert there["model"]["sign_unanimity"] == 4 / 5


def test_files_that_do_not_belong_together_are_named(study: Study, folder: Path) -> None:
    merged = made(study, "task_arithmetic")
    with pytest.raises(MergeloomError, match=r"task0.*svd.*was not computed from"):
        diagnose(study.task_vectors[::-1], merged, caches_of(study), "clip")
    wide = Study(folder, tasks=1, shapes={"visual.proj": (3, 3)})
    other = write_merged(wide, {"visual.proj": np.zeros((3, 4))})
    with pytest.raises(MergeloomError, match=r"merged.*\n.*visual\.proj has shape \[3, 4\]"):
        look(wide, other)
    vectors = Study(folder / "b", tasks=1, shapes={"visual.bias": (3,)})
    with pytest.raises(MergeloomError, match="has no matrix"):
        look(vectors, write_merged(vectors, {"visual.bias": np.ones(3)}))


def test_a_diagnosis_is_written_by_its_schema_and_read_back(
    study: Study, found: dict[str, Any], tmp_path: Path
) -> None:
    content = validate(found)
    path = tmp_path / "diagnosis.json"
    write_json(path, content)
    assert read_diagnosis(str(path)) == content
    write_json(path, {**content, "schema": "mergeloom/result/1"})
    with pytest.raises(MergeloomError, match="mergeloom/result/1"):
        read_diagnosis(str(path))


def validate(measured: dict[str, Any]) -> dict[str, Any]:
    """The whole JSON, which fits the schema."""
    tasks = [f"task{index}" for index in range(len(measured["model"]["cosine"]))]
    content = diagnosis(
        encoder="e", experts="x", benchmark="b", merger="m", tasks=tasks, measured=measured,
        provenance=PROVENANCE,
    )  # fmt: skip
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(content)
    return content
