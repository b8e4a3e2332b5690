"""Fisher merging, RegMean and RegMean++ against their formulas, of given statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_data import Measured, gram, maps_of, options_for, random_fisher, random_inputs, save
from study import BLOCK, ELEMENTWISE, Model, Study, assert_agree
from variants import assert_neither_workers_nor_runs_matter, wide

from mergeloom.errors import MergeloomError

METHODS = ("fisher", "regmean", "regmean_plus_plus")


def options(study: Study, method: str) -> dict[str, Any]:
    return options_for(method, study.base, study.task_vectors, study.shapes, maps_of(study.shapes))


def fisher_of(study: Study) -> list[Model]:
    return [
        {key: np.float64(value) for key, value in random_fisher(study.shapes, task).items()}
        for task in range(study.tasks)
    ]


def grams_of(study: Study) -> list[Model]:
    maps = maps_of(study.shapes)
    return [
        {key: np.float64(gram(x)) for key, x in random_inputs(study.shapes, maps, task).items()}
        for task in range(study.tasks)
    ]


def fisher_average(study: Study, normalize: bool = True, floor: float = 1e-6) -> Model:
    fisher, deltas = fisher_of(study), study.deltas
    norms = [np.sqrt(sum((f**2).sum() for f in model.values())) for model in fisher]
    scales = [1 / (norm + floor) if normalize else 1.0 for norm in norms]
    merged = {}
    for key in deltas:
        weights = [c * (model[key] + floor) for c, model in zip(scales, fisher, strict=True)]
        merged[key] = sum(w * d for w, d in zip(weights, deltas[key], strict=True)) / sum(weights)
    return merged


def regmean(study: Study, off_diagonal: float = 0.95) -> Model:
    """On whole weights, not on task vectors."""
    grams, maps, start = grams_of(study), maps_of(study.shapes), study.weights
    merged = {key: deltas.mean(0) for key, deltas in study.deltas.items()}
    for key, dim in maps.items():
        shrunk = [g[key] * (off_diagonal + (1 - off_diagonal) * np.eye(len(g[key]))) for g in grams]
        weights = [start[key] + delta for delta in study.deltas[key]]
        sides = weights if dim == 0 else [w.T for w in weights]
        solved = np.linalg.solve(
            sum(shrunk), sum(g @ w for g, w in zip(shrunk, sides, strict=True))
        )
        merged[key] = (solved if dim == 0 else solved.T) - start[key]
    return merged


@pytest.mark.parametrize("given", [{}, {"normalize": False}, {"floor": 1e-3}, {"floor": 1e-12}])
def test_fisher_averages_weights_by_the_fisher_information(
    study: Study, given: dict[str, Any]
) -> None:
    merged = study.merge("fisher", given, **options(study, "fisher"))
    assert_agree(merged, fisher_average(study, **given), ELEMENTWISE)


@pytest.mark.parametrize("method", ["regmean", "regmean_plus_plus"])
@pytest.mark.parametrize("off_diagonal", [0.95, 0.5, 0.0])
def test_regmean_solves_the_normal_equations_of_all_tasks(
    study: Study, method: str, off_diagonal: float
) -> None:
    """RegMean++ here measures what RegMean reads from files: only the way there differs."""
    merged = study.merge(method, {"off_diagonal": off_diagonal}, **options(study, method))
    assert_agree(merged, regmean(study, off_diagonal), ELEMENTWISE)


def test_regmean_answers_to_the_inputs_of_all_tasks_as_least_squares_do(study: Study) -> None:
    """Without shrinking, Σ_t ‖X_t W − X_t W_t‖² / n_t has no smaller value."""
    merged = study.merge("regmean", {"off_diagonal": 1.0}, **options(study, "regmean"))
    maps, start = maps_of(study.shapes), study.weights
    fed = [random_inputs(study.shapes, maps, task) for task in range(study.tasks)]
    for key, dim in maps.items():
        rows = [np.float64(x[key]) / np.sqrt(len(x[key])) for x in fed]
        sides = [w if dim == 0 else w.T for w in start[key] + study.deltas[key]]
        goals = [x @ w for x, w in zip(rows, sides, strict=True)]
        best = np.linalg.lstsq(np.vstack(rows), np.vstack(goals), rcond=None)[0]
        found = start[key] + merged[key]
        found = found if dim == 0 else found.T

        def off(w: np.ndarray) -> float:
            return sum(((x @ w - y) ** 2).sum() for x, y in zip(rows, goals, strict=True))  # noqa: B023

        assert off(found) <= off(best) * (1 + 1e-6), key
        mean = np.mean(sides, axis=0)
        assert off(found) < 0.99 * off(mean), key


@pytest.mark.parametrize("method", METHODS)
def test_permuting_tasks_changes_nothing(study: Study, method: str) -> None:
    given = options(study, method)
    expected = study.merge(method, **given)
    if "propagation" in given:
        reverse = {"propagation": Measured(grams_as_measured(study)[::-1], maps_of(study.shapes))}
    else:
        reverse = {name: files[::-1] for name, files in given.items()}
    result = study.merge(method, experts=study.task_vectors[::-1], **reverse)
    assert_agree(result, expected, 1e-6)


def grams_as_measured(study: Study) -> list[dict[str, np.ndarray]]:
    return [{key: np.float32(g) for key, g in model.items()} for model in grams_of(study)]


@pytest.mark.parametrize("method", METHODS)
def test_neither_workers_nor_runs_matter(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = wide(folder)
    assert_neither_workers_nor_runs_matter(study, method, monkeypatch, **options(study, method))


@pytest.mark.parametrize("method", METHODS)
def test_one_expert_is_that_expert(folder: Path, method: str) -> None:
    study = Study(folder, tasks=1)
    merged = study.merge(method, **options(study, method))
    assert_agree(merged, {key: deltas[0] for key, deltas in study.deltas.items()}, 1e-6)


def test_equal_fisher_information_gives_the_mean(study: Study, tmp_path: Path) -> None:
    same = random_fisher(study.shapes, 0)
    files = [
        save(tmp_path / f"{task}", same, [study.base, path])
        for task, path in enumerate(study.task_vectors)
    ]
    merged = study.merge("fisher", fisher=files)
    assert_agree(merged, {key: d.mean(0) for key, d in study.deltas.items()}, ELEMENTWISE)


@pytest.mark.parametrize("off_diagonal", [1.0, 0.95])
@pytest.mark.parametrize("identity", [True, False])
def test_equal_gram_matrices_give_the_mean(
    study: Study, tmp_path: Path, off_diagonal: float, identity: bool
) -> None:
    maps = maps_of(study.shapes)
    same = {
        f"{key}.{maps[key]}": np.eye(x.shape[1]) if identity else gram(x)
        for key, x in random_inputs(study.shapes, maps, 0).items()
    }
    files = [
        save(tmp_path / f"{task}", same, [study.base, path])
        for task, path in enumerate(study.task_vectors)
    ]
    merged = study.merge("regmean", {"off_diagonal": off_diagonal}, gram=files)
    assert_agree(merged, {key: d.mean(0) for key, d in study.deltas.items()}, ELEMENTWISE)


def test_where_no_input_reaches_regmean_is_the_mean(study: Study, tmp_path: Path) -> None:
    """Three inputs a task in 32 dimensions: a minimum of the squares, and the mean beside them."""
    key = BLOCK.format(0) + "mlp.c_fc.weight"
    rng = np.random.default_rng(3)
    fed = [rng.standard_normal((3, 32)) for _ in study.task_vectors]
    files = [
        save(tmp_path / f"{task}", {f"{key}.1": gram(x)}, [study.base, path])
        for task, (path, x) in enumerate(zip(study.task_vectors, fed, strict=True))
    ]
    merged = study.merge("regmean", {"off_diagonal": 1.0}, gram=files)
    deltas = study.deltas
    rows, goals = (
        np.vstack(fed),
        np.vstack([x @ d.T for x, d in zip(fed, deltas[key], strict=True)]),
    )
    mean = deltas[key].mean(0)
    assert np.linalg.matrix_rank(rows) == 12
    # Fewer rows than dimensions: all of them are met.
    np.testing.assert_allclose(rows @ merged[key].T, goals, atol=1e-4 * np.abs(goals).max())
    beside = np.linalg.svd(rows)[2][12:]
    change, step = beside @ (merged[key] - mean).T, merged[key] - mean
    assert np.linalg.norm(change) < 2e-2 * np.linalg.norm(step)
    del merged[key], deltas[key]
    assert_agree(merged, {k: d.mean(0) for k, d in deltas.items()}, ELEMENTWISE)


@pytest.mark.parametrize("off_diagonal", [1.0, 0.95])
def test_an_input_that_is_always_zero_leaves_its_column_to_the_mean(
    study: Study, tmp_path: Path, off_diagonal: float
) -> None:
    key = BLOCK.format(1) + "attn.out_proj.weight"
    files = []
    for task, path in enumerate(study.task_vectors):
        x = random_inputs(study.shapes, {key: 1}, task)[key]
        x[:, 5] = 0
        files.append(save(tmp_path / f"{task}", {f"{key}.1": gram(x)}, [study.base, path]))
    merged = study.merge("regmean", {"off_diagonal": off_diagonal}, gram=files)[key]
    mean = study.deltas[key].mean(0)
    np.testing.assert_allclose(merged[:, 5], mean[:, 5], rtol=1e-6)
    assert np.abs(merged - mean).max() > 1e-3


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("fisher", "the Fisher information of each expert"),
        ("regmean", "the Gram matrices of what the layers of each expert are fed"),
        ("regmean_plus_plus", "each task's images"),
    ],
)
def test_without_statistics_the_error_names_the_workflow_target(
    study: Study, method: str, what: str
) -> None:
    with pytest.raises(MergeloomError) as caught:
        study.merge(method)
    assert f"{method} needs {what}" in str(caught.value)
    target = f"results/{{encoder}}/{{experts}}/{{benchmark}}/{method}.json"
    assert target in str(caught.value)


@pytest.mark.parametrize(("method", "name"), [("fisher", "fisher"), ("regmean", "gram")])
def test_statistics_of_other_task_vectors_are_refused(study: Study, method: str, name: str) -> None:
    files = options(study, method)[name]
    with pytest.raises(MergeloomError, match=r"was not computed from what .*task0.* holds now"):
        study.merge(method, **{name: [files[1], files[0], *files[2:]]})
    with pytest.raises(MergeloomError, match="4 task vectors were given, but 3"):
        study.merge(method, **{name: files[:3]})


def test_statistics_that_do_not_fit_are_named(study: Study, tmp_path: Path) -> None:
    made_of = [study.base, study.task_vectors[0]]
    fisher = options(study, "fisher")["fisher"]
    some = random_fisher({"visual.proj": (32, 24)}, 0)
    short = save(tmp_path / "short", some, made_of)
    with pytest.raises(MergeloomError, match="short: its tensors are not those of"):
        study.merge("fisher", fisher=[short, *fisher[1:]])
    wrong = random_fisher(study.shapes, 0)
    wrong["visual.proj"][3, 4] = np.nan
    with pytest.raises(MergeloomError, match=r"nan: tensor visual.proj has 1 values that are NaN"):
        study.merge("fisher", fisher=[save(tmp_path / "nan", wrong, made_of), *fisher[1:]])
    grams = options(study, "regmean")["gram"]
    other = save(tmp_path / "other", {"visual.proj.0": np.eye(32)}, made_of)
    with pytest.raises(MergeloomError, match="of other maps than those of"):
        study.merge("regmean", gram=[other, *grams[1:]])
