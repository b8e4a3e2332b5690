"""Files of features and matrices of similarities: what is read, and what is refused and why."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from mergeloom.errors import MergeloomError
from mergeloom.similarity.feature_sets import open_feature_sets
from mergeloom.similarity.matrix import compare, read_matrix, write_matrix
from mergeloom.similarity.measure import get_measure, measures

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((8, 5))
OTHER = RNG.standard_normal((8, 3))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write an array to a .npy file, or tensors to a .safetensors file."""

    def write(name: str, content: Any, **metadata: str) -> Path:
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, content)
        else:
            tensors = content if isinstance(content, dict) else {"features": content}
            save_file(tensors, path, metadata)
        return path

    return write


Save = Callable[..., Path]


def refused(message: str) -> Any:
    return pytest.raises(MergeloomError, match=message)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_features_are_read_with_rows_of_length_one(save: Save, name: str, dtype: Any) -> None:
    if dtype == ">f4" and name != "a.npy":
        pytest.skip("safetensors are little-endian")
    values = FEATURES.astype(dtype)
    (found,) = open_feature_sets([save(name, values)])
    assert (found.model, found.n, found.d) == ("a", 8, 5)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(found.read(torch.float64, normalise=False), wide, atol=1e-12)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(found.read(torch.float64, normalise=True), expected, atol=1e-12)
    assert found.read(torch.float32, normalise=True).dtype == torch.float32


def test_files_are_left_as_they_are(save: Save) -> None:
    path = save("a.npy", FEATURES)
    before = path.read_bytes()
    compare(open_feature_sets([path, save("b.npy", OTHER)]), "cka_linear")
    assert path.read_bytes() == before


def test_columns_first_is_another_order_in_the_file_alone(save: Save) -> None:
    (found,) = open_feature_sets([save("a.npy", np.asfortranarray(FEATURES))])
    np.testing.assert_array_equal(found.read(torch.float64, normalise=False), FEATURES)


def test_the_only_matrix_of_a_file_is_the_features(save: Save) -> None:
    path = save("a.safetensors", {"out": FEATURES, "targets": np.arange(8)})
    assert open_feature_sets([path])[0].d == 5
    path = save("a.safetensors", {"out": FEATURES, "features": OTHER})
    assert open_feature_sets([path])[0].d == 3


def test_a_row_of_zeros_stays_one(save: Save) -> None:
    values = FEATURES.copy()
    values[2] = 0
    (found,) = open_feature_sets([save("a.npy", values)])
    assert not found.read(torch.float32, normalise=True)[2].any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((8, 2, 2)), r"a.npy: the features of a have shape \[8, 2, 2\]"),
        ("a.npy", np.zeros(8), r"shape \[8\], expected \[n, d\]"),
        ("a.npy", np.zeros((8, 0)), r"shape \[8, 0\], expected \[n, d\]"),
        ("a.npy", np.arange(16).reshape(8, 2), "are int64, expected one of float16"),
        ("a.npy", np.full((8, 2), "x"), "holds <U1, expected floating-point numbers"),
        ("a.npy", FEATURES[:3], "have 3 rows, but a similarity needs at least 4"),
        ("a.safetensors", {"out": FEATURES, "in": OTHER}, r"and 2 matrices .*\(in, out\)"),
        ("a.safetensors", {"out": np.zeros(3)}, r"and 0 matrices .*\(none\)"),
        ("a.npy", np.array([[None, 1]] * 8), "is no .npy file of numbers"),
    ],
)
def test_what_is_no_matrix_of_features_is_refused(
    save: Save, name: str, content: Any, message: str
) -> None:
    with refused(message):
        open_feature_sets([save(name, content)])


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with refused("none.npy: no such file"):
        open_feature_sets([tmp_path / "none.npy"])
    (tmp_path / "a.pt").write_bytes(b"PK")
    with refused("a.pt: is neither a .npy nor a .safetensors file"):
        open_feature_sets([tmp_path / "a.pt"])
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with refused("a.npy: is no .npy file of numbers"):
        open_feature_sets([tmp_path / "a.npy"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(save: Save, value: float) -> None:
    values = FEATURES.copy()
    values[5, 1] = value
    (found,) = open_feature_sets([save("a.npy", values)])
    with refused(r"a.npy: row 5 \(counted from 0\) of the features of a has a NaN or infinite"):
        found.read(torch.float32, normalise=True)


@pytest.mark.parametrize("values", [np.ones((8, 3)), np.zeros((8, 3))])
def test_constant_features_are_refused(save: Save, values: np.ndarray) -> None:
    (found,) = open_feature_sets([save("a.npy", values)])
    with refused("a.npy: the features of a are constant: all 8 rows are alike"):
        found.read(torch.float32, normalise=False)


def test_rows_that_differ_in_length_alone_are_constant_once_that_is_one(save: Save) -> None:
    (found,) = open_feature_sets([save("a.npy", np.outer(np.arange(1, 9), [1.0, 2, 3]))])
    found.read(torch.float32, normalise=False)
    with refused("are constant"):
        found.read(torch.float32, normalise=True)


def test_another_number_of_rows_is_refused_with_both_files(save: Save) -> None:
    paths = [save("a.npy", FEATURES), save("b.npy", FEATURES[:7])]
    with refused(r"a\.npy has 8 rows and .*b\.npy has 7"):
        open_feature_sets(paths)


def test_another_order_of_rows_is_refused_where_files_tell_it(save: Save) -> None:
    a = save("a.safetensors", FEATURES, rows="1" * 64)
    unmarked = save("b.npy", FEATURES)
    same = save("c.safetensors", FEATURES, rows="1" * 64)
    other = save("d.safetensors", FEATURES, rows="2" * 64)
    rows = [found.rows for found in open_feature_sets([a, unmarked, same])]
    assert rows == ["1" * 64, None, "1" * 64]
    with refused(r"a\.safetensors and .*d\.safetensors were made of other rows"):
        open_feature_sets([a, unmarked, other])


def test_names_are_those_given_or_the_files(save: Save, tmp_path: Path) -> None:
    a, b = save("a.npy", FEATURES), save("b.npy", OTHER)
    assert [f.model for f in open_feature_sets([a, b])] == ["a", "b"]
    assert [f.model for f in open_feature_sets([a, b], ["x", "y"])] == ["x", "y"]
    with refused(r"1 names of models \(x\) for 2 files"):
        open_feature_sets([a, b], ["x"])
    with refused(r"Two models are named x: .*a\.npy and .*b\.npy"):
        open_feature_sets([a, b], ["x", "x"])
    with refused("'model' cannot be a model's name"):
        open_feature_sets([a, b], ["x", "model"])


def test_one_model_has_nothing_to_be_compared_with(save: Save) -> None:
    with refused("There is nothing to compare with a"):
        compare(open_feature_sets([save("a.npy", FEATURES)]), "cka_linear")


def test_an_unknown_measure_is_refused_with_near_names_first() -> None:
    with refused(r"no measure of similarity 'cka_liner'. There are: cka_linear, "):
        get_measure("cka_liner")
    with refused("rsa_spearman"):
        get_measure("nothing")


@pytest.mark.parametrize(
    ("measure", "parameters", "message"),
    [
        ("cka_rbf", {"sgima": 1}, r"cka_rbf has no parameter sgima. It has: sigma \(default 0.4\)"),
        ("cka_rbf", {"sigma": 0}, r"sigma is 0, expected a number in \(0, inf\)"),
        ("cka_linear", {"biased": 1}, "biased is 1, expected true or false"),
        ("mutual_knn", {"k": 0}, r"k is 0, expected a whole number in \[1, inf\)"),
        ("mutual_knn", {"k": 8}, "k is 8, but .*a.npy has 8 rows"),
        ("svcca", {"variance": 1.5}, r"variance is 1.5, expected a number in \(0, 1\]"),
        ("svcca", {"variance": 1}, "have 7 directions on 8 rows"),
        ("cka_rbf", {"sigma": 1e-3}, "the kernel of a is constant"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    save: Save, measure: str, parameters: dict[str, Any], message: str
) -> None:
    sets = open_feature_sets([save("a.npy", RNG.standard_normal((8, 9))), save("b.npy", OTHER)])
    with refused(message):
        compare(sets, measure, parameters)


@pytest.mark.parametrize("measure", ["rsa_pearson", "rsa_spearman"])
def test_rsa_refuses_what_has_no_correlation(save: Save, measure: str) -> None:
    flat = FEATURES.copy()
    flat[3] = 0.25
    sets = open_feature_sets([save("a.npy", FEATURES), save("b.npy", flat)])
    with refused(r"b\.npy: row 3 .* of the features of b has the same value everywhere"):
        compare(sets, measure)
    sets = open_feature_sets([save("a.npy", FEATURES), save("b.npy", np.eye(8))])
    with refused("all distances between rows of b are the same"):
        compare(sets, measure)


def test_pwcca_refuses_models_that_correlate_with_any(save: Save) -> None:
    sets = open_feature_sets([save("a.npy", OTHER), save("b.npy", RNG.standard_normal((8, 20)))])
    with refused(r"b\.npy: the features of b have 7 directions on 8 rows"):
        compare(sets, "pwcca")


def test_every_measure_says_what_it_does_and_gives_its_paper() -> None:
    names = "cka_linear cka_rbf rsa_pearson rsa_spearman procrustes mutual_knn svcca pwcca"
    assert set(measures()) == set(names.split())
    for measure in measures().values():
        assert measure.summary.endswith(".")
        assert measure.arxiv is None or re.fullmatch(r"\d{4}\.\d{5}", measure.arxiv)


@pytest.fixture
def matrix(save: Save) -> Any:
    sets = open_feature_sets([save("zeta.npy", FEATURES), save("alpha.npy", OTHER)])
    return compare(sets, "cka_rbf", {"sigma": 0.7}, normalise=False)


def test_a_matrix_is_a_table_of_models_in_the_order_given(matrix: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_matrix(path, matrix, {"more": "text"})
    table = pq.read_table(path)
    assert table.column_names == ["model", "zeta", "alpha"]
    assert table["model"].to_pylist() == ["zeta", "alpha"]
    assert table["zeta"].type == pa.float64()
    assert table["alpha"].to_pylist()[0] == matrix.values[0, 1]
    assert table.schema.metadata[b"more"] == b"text"
    again = read_matrix(path)
    np.testing.assert_array_equal(again.values, matrix.values)
    assert again.models == matrix.models
    assert (again.measure, again.normalised, again.n) == ("cka_rbf", False, 8)
    assert again.parameters == {"sigma": 0.7, "sigma_of_median": 0.0, "biased": False}


def test_what_is_no_matrix_is_refused(matrix: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with refused("m.parquet: no such file"):
        read_matrix(path)
    path.write_text("model")
    with refused("is no Parquet file"):
        read_matrix(path)
    pq.write_table(pa.table({"model": ["a"]}), path)
    with refused("is no matrix of similarities"):
        read_matrix(path)
    write_matrix(path, matrix, {})
    table = pq.read_table(path)
    pq.write_table(table.select(["model", "alpha", "zeta"]), path)
    with refused("do not name the models of its rows"):
        read_matrix(path)
    changed = table.set_column(2, "alpha", pa.array([0.5, 1.0]))
    pq.write_table(changed, path)
    with refused("are not those of a symmetric matrix"):
        read_matrix(path)


def test_a_matrix_is_extended_only_by_what_was_compared_alike(save: Save, tmp_path: Path) -> None:
    paths = [save(f"{name}.npy", RNG.standard_normal((8, 4))) for name in "abc"]
    sets = open_feature_sets(paths)
    known = compare(sets[:2], "cka_linear")
    for changes, message in [
        ({"measure": "cka_rbf"}, "its measure: cka_linear, now cka_rbf"),
        ({"parameters": {"biased": True}}, "its parameters: "),
        ({"normalise": False}, "its normalised rows: True, now False"),
        ({"sets": sets[1:]}, "The matrix has a, of which no features are given"),
    ]:
        options = {"sets": sets, "measure": "cka_linear", "known": known, **changes}
        with refused(message):
            compare(options.pop("sets"), options.pop("measure"), **options)
    longer = [save(f"{name}.npy", RNG.standard_normal((9, 4))) for name in "abc"]
    with refused("its number of rows: 8, now 9"):
        compare(open_feature_sets(longer), "cka_linear", known=known)


def test_a_matrix_is_not_extended_by_other_rows(save: Save) -> None:
    def marked(rows: str) -> Any:
        content = RNG.standard_normal((8, 4))
        return open_feature_sets([save(f"{m}.safetensors", content, rows=rows) for m in "ab"])

    known = compare(marked("1" * 64), "cka_linear")
    with refused("its digest of rows: 111"):
        compare(marked("2" * 64), "cka_linear", known=known)
