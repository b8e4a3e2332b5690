"""Consistency of similarities: against scipy, and against resamples that are written out."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from mergeloom.errors import MergeloomError
from mergeloom.similarity.consistency import SimilarityMatrix, align, consistency
from mergeloom.similarity.gaps import gap_correlation
from mergeloom.similarity.model_sets import (
    Criterion,
    PairSet,
    all_pairs,
    anchor_pairs,
    category_pairs,
    choose_models,
    chosen_pairs,
)
from mergeloom.similarity.pair_correlation import Resampling, correlate_pairs

OBJECTIVES = ["Supervised"] * 30 + ["Self-Supervised"] * 20 + ["Image-Text"] * 14
QUICK = Resampling(resamples=50)
NONE = Resampling(resamples=0)


def make_table(objectives: list[str]) -> pd.DataFrame:
    """Models whose order has nothing to do with their categories."""
    mixed = np.random.default_rng(1).permutation(objectives)
    sizes = ["small", "large"] * (len(mixed) // 2) + ["small"] * (len(mixed) % 2)
    names = [f"model-{number}" for number in range(len(mixed))]
    return pd.DataFrame({"objective": mixed, "size": sizes}, index=names)


def make_matrices(
    models: list[str], data_sets: int, rounded: int | None = None
) -> dict[str, SimilarityMatrix]:
    """Similarities that hang together between data sets; rounded ones have ties."""
    rng = np.random.default_rng(2)
    count = len(models)
    common = rng.normal(size=(count, count))
    found = {}
    for number in range(data_sets):
        values = common + rng.normal(size=(count, count))
        values = (values + values.T) / 2
        values = values if rounded is None else values.round(rounded)
        np.fill_diagonal(values, 1)
        found[f"data-{number}"] = SimilarityMatrix(models, values)
    return found


STUDY = make_table(OBJECTIVES)


def test_the_studys_models_make_its_numbers_of_pairs() -> None:
    assert all_pairs(64).pairs().shape == (2, 2016)
    counts = {
        (each.name_1, each.name_2): each.pairs().shape[1]
        for each in category_pairs(STUDY, "objective")
    }
    assert counts == {
        ("Image-Text", "Image-Text"): 91,
        ("Self-Supervised", "Self-Supervised"): 190,
        ("Supervised", "Supervised"): 435,
        ("Self-Supervised", "Supervised"): 600,
        ("Image-Text", "Supervised"): 420,
        ("Image-Text", "Self-Supervised"): 280,
    }
    assert sum(counts.values()) == 2016


def test_23_data_sets_make_253_rows_of_a_set() -> None:
    table = make_table(OBJECTIVES[25:35])
    models = list(table.index)
    found = consistency("cka", make_matrices(models, 23), models, [all_pairs(10)], NONE)
    assert len(found) == 253
    assert len(found[["data_set_1", "data_set_2"]].drop_duplicates()) == 253
    assert (found["data_set_1"] != found["data_set_2"]).all()


def pairs_by_hand(one: list[str], other: list[str]) -> list[tuple[str, str]]:
    pairs = {tuple(sorted(pair)) for pair in itertools.product(one, other) if pair[0] != pair[1]}
    return sorted(pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("rounded", [None, 1])
def test_correlations_are_scipys_over_the_pairs_of_the_definition(rounded: int | None) -> None:
    table = make_table(OBJECTIVES)
    models = list(table.index)
    matrices = make_matrices(models, 3, rounded)
    members = {
        name: [m for m in models if table.loc[m, "objective"] == name] for name in set(OBJECTIVES)
    }
    members["all"] = models
    anchor = "model-5"
    members[anchor] = [anchor]
    sets = [
        all_pairs(64),
        *category_pairs(table, "objective"),
        *anchor_pairs(table, anchor, "objective"),
    ]
    found = consistency("rsa", matrices, models, sets, NONE)
    assert len(found) == 3 * (1 + 6 + 3)
    for row in found.itertuples():
        pairs = pairs_by_hand(members[row.set_1], members[row.set_2])
        assert row.pairs == len(pairs)
        x, y = (
            [matrices[d].values[models.index(a), models.index(b)] for a, b in pairs]
            for d in (row.data_set_1, row.data_set_2)
        )
        assert row.pearson == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
        assert row.spearman == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        assert row.measure == "rsa"
        assert np.isnan(row.low)


def test_an_anchor_is_compared_with_the_others_of_its_category() -> None:
    anchor = "model-5"
    counts = {
        each.name_2: each.pairs().shape[1] for each in anchor_pairs(STUDY, anchor, "objective")
    }
    own = STUDY.loc[anchor, "objective"]
    whole = {name: OBJECTIVES.count(name) for name in set(OBJECTIVES)}
    assert counts == whole | {own: whole[own] - 1}


@pytest.mark.parametrize(("models", "pairs", "there"), [(5, 10, True), (4, 6, False)])
def test_fewer_than_ten_pairs_give_their_number_and_nothing_else(
    models: int, pairs: int, there: bool
) -> None:
    names = [f"model-{number}" for number in range(models)]
    found = consistency("cka", make_matrices(names, 2), names, [all_pairs(models)], QUICK)
    numbers = found[["pearson", "low", "high", "spearman", "spearman_low", "spearman_high"]]
    assert found["pairs"].tolist() == [pairs]
    assert numbers.notna().all(axis=None) == there
    assert numbers.isna().all(axis=None) != there


def resample_by_hand(
    one: np.ndarray, other: np.ndarray, counts: np.ndarray, each: PairSet
) -> tuple[list[float], list[float]]:
    """Two lists of similarities, with every pair of two draws of different models."""
    x: list[float] = []
    y: list[float] = []
    for a, b in each.pairs().T:
        times = int(counts[a] * counts[b])
        x += [one[a, b]] * times
        y += [other[a, b]] * times
    return x, y


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("rounded", [None, 1])
def test_intervals_are_quantiles_of_resamples_of_models(
    place: int, rounded: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(OBJECTIVES[24:40])
    models = list(table.index)
    matrices = make_matrices(models, 2, rounded)
    sets = [all_pairs(16), *category_pairs(table, "objective")]
    each = [sets[0], sets[2], sets[3]][place]
    drawn: list[np.ndarray] = []

    from mergeloom.similarity import pair_correlation

    draw = pair_correlation._draw
    monkeypatch.setattr(
        pair_correlation, "_draw", lambda *given: drawn.append(draw(*given)) or drawn[-1]
    )
    monkeypatch.setattr(pair_correlation, "_TOGETHER", 1000)  # a few resamples at a time
    found = consistency("cka", matrices, models, [each], Resampling(fewest=6, resamples=60))
    first, second = (matrix.values for matrix in matrices.values())
    pearson, spearman = [], []
    for counts in drawn[0]:
        for mask in (each.first, each.second):
            assert counts[mask].sum() == mask.sum()
        x, y = resample_by_hand(first, second, counts, each)
        if sum(counts[a] * counts[b] > 0 for a, b in each.pairs().T) < 3:
            continue
        pearson.append(pearsonr(x, y).statistic)
        spearman.append(spearmanr(x, y).statistic)
    expected = [*np.quantile(pearson, [0.025, 0.975]), *np.quantile(spearman, [0.025, 0.975])]
    row = found.iloc[0]
    given = row[["low", "high", "spearman_low", "spearman_high"]].astype(float)
    np.testing.assert_allclose(given, expected, atol=1e-10)


def test_intervals_depend_on_the_seed_and_on_no_other_set() -> None:
    table = make_table(OBJECTIVES[20:40])
    models = list(table.index)
    matrices = make_matrices(models, 3)
    every, *categories = [all_pairs(20), *category_pairs(table, "objective")]
    alone = consistency("cka", matrices, models, [every], QUICK)
    among = consistency("cka", matrices, models, [*categories, every], QUICK)
    pd.testing.assert_frame_equal(alone, among.tail(3).reset_index(drop=True))
    other = consistency("cka", matrices, models, [every], QUICK._replace(seed=1))
    assert (other["low"] != alone["low"]).all()
    assert (other["pearson"] == alone["pearson"]).all()


def test_intervals_hold_the_correlation_of_many_models_and_narrow_with_their_number() -> None:
    widths = []
    for count in (12, 48):
        names = [f"model-{number}" for number in range(count)]
        found = consistency("cka", make_matrices(names, 2), names, [all_pairs(count)])
        assert (found["low"] < found["pearson"]).all()
        assert (found["pearson"] < found["high"]).all()
        widths.append(float((found["high"] - found["low"]).iloc[0]))
    assert widths[1] < 0.6 * widths[0]


def test_similarities_that_do_not_vary_have_no_correlation() -> None:
    values = np.stack([np.full(15, 0.3), np.arange(15.0), -np.arange(15.0)])
    pairs = all_pairs(6).pairs()
    found = correlate_pairs(values, pairs, all_pairs(6).strata(), QUICK, "")
    assert np.isnan(found.pearson[0]).all()
    assert np.isnan(found.spearman_interval[:, 0]).all()
    assert found.pearson[1, 2] == pytest.approx(-1)
    assert found.spearman_interval[:, 1, 2].tolist() == pytest.approx([-1, -1])


def test_criteria_add_and_take_away_models() -> None:
    image_text = STUDY["objective"] == "Image-Text"
    name = STUDY.index[image_text][0]
    found = choose_models(
        STUDY, [Criterion("+", "objective", "Image-Text"), Criterion("-", "model", name)]
    )
    assert list(STUDY.index[found]) == list(STUDY.index[image_text][1:])
    either = choose_models(
        STUDY,
        [Criterion("+", "objective", o) for o in ("Image-Text", "Supervised")]
        + [Criterion("+", "size", "small")],
    )
    assert (either == (STUDY["objective"].ne("Self-Supervised") & STUDY["size"].eq("small"))).all()
    sets = {
        "small": [Criterion("+", "size", "small")],
        "all but one": [Criterion("-", "model", name)],
    }
    within = chosen_pairs(STUDY, sets, "small", "small")
    assert (within.kind, within.pairs().shape[1]) == ("chosen", 32 * 31 // 2)
    # Sets that share models count a pair once: 32 of both with one another and with the rest.
    shared = 32 if STUDY.loc[name, "size"] == "large" else 31
    across = chosen_pairs(STUDY, sets, "small", "all but one").pairs()
    assert across.shape[1] == len(set(map(tuple, across.T)))
    assert across.shape[1] == 32 * 31 // 2 + 32 * (63 - shared)


def test_gaps_are_scipys_correlations_with_the_distance_of_accuracies() -> None:
    names = [f"model-{number}" for number in range(9)]
    matrices = make_matrices(names, 2)
    rng = np.random.default_rng(3)
    accuracies = {data: dict(zip(names, rng.random(9), strict=True)) for data in matrices}
    found = gap_correlation("cka", matrices, names, accuracies, QUICK)
    assert found["data_set"].tolist() == list(matrices)
    for row in found.itertuples():
        pairs = list(itertools.combinations(range(9), 2))
        own = [accuracies[row.data_set][name] for name in names]
        x = [matrices[row.data_set].values[pair] for pair in pairs]
        y = [abs(own[a] - own[b]) for a, b in pairs]
        assert row.pairs == 36
        assert row.pearson == pytest.approx(pearsonr(x, y).statistic)
        assert row.spearman == pytest.approx(spearmanr(x, y).statistic)
        assert row.low < row.pearson < row.high
        assert row.spearman_low < row.spearman < row.spearman_high


def test_matrices_are_put_in_the_order_asked_for() -> None:
    values = np.array([[1, 0.2, 0.4], [0.4, 1, 0.6], [0.4, 0.8, 1]])
    found = align({"d": SimilarityMatrix(["a", "b", "c"], values)}, ["c", "a"])
    np.testing.assert_allclose(found, [[[1, 0.4], [0.4, 1]]])
    (both,) = align({"d": SimilarityMatrix(["a", "b", "c"], values)}, ["a", "b", "c"])
    np.testing.assert_allclose(both[0, 1], 0.3)  # the mean of both directions


def test_what_cannot_be_compared_is_refused() -> None:
    names = list("abcdef")
    matrices = make_matrices(names, 2)
    every = [all_pairs(6)]
    with pytest.raises(MergeloomError, match="data-0: has no similarities of g, h"):
        align(matrices, ["a", "g", "h"])
    with pytest.raises(MergeloomError, match="data-0: the model a is there twice"):
        align({"data-0": SimilarityMatrix(["a", "a"], np.eye(2))}, ["a"])
    with pytest.raises(MergeloomError, match=r"similarities are \[3, 3\], but there are 2 models"):
        align({"data-0": SimilarityMatrix(["a", "b"], np.eye(3))}, ["a"])
    broken = matrices["data-1"].values.copy()
    broken[1, 3] = np.nan
    with pytest.raises(MergeloomError, match="data-1: the similarity of b and d is not finite"):
        align(matrices | {"data-1": SimilarityMatrix(names, broken)}, names)
    with pytest.raises(MergeloomError, match="similarities are of 1 data sets"):
        consistency("cka", {"data-0": matrices["data-0"]}, names, every)
    with pytest.raises(MergeloomError, match="data-0: there is no accuracy of b"):
        gap_correlation("cka", matrices, ["a", "b"], {"data-0": {"a": 0.5}})
    with pytest.raises(
        MergeloomError, match="no column 'objectives', columns are model, objective"
    ):
        category_pairs(STUDY, "objectives")
    with pytest.raises(MergeloomError, match="there is no model 'dino'"):
        anchor_pairs(STUDY, "dino", "objective")
    with pytest.raises(MergeloomError, match="the sign is '\\*'"):
        choose_models(STUDY, [Criterion("*", "objective", "Supervised")])
    with pytest.raises(MergeloomError, match="no model has 'Text' there"):
        choose_models(STUDY, [Criterion("+", "objective", "Text")])
    with pytest.raises(MergeloomError, match="no model fits them all"):
        choose_models(STUDY, [Criterion("+", "size", "small"), Criterion("-", "size", "small")])
