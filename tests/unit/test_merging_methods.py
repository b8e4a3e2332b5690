"""The register of merge methods and modifiers. Their formulas are held in tests/golden."""

import pytest
import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.merging.method import (
    Factors,
    describe,
    get_method,
    get_modifier,
    merger,
    methods,
    modifier,
    modifiers,
)
from mergeloom.merging.parameters import check_parameters


def test_published_scales() -> None:
    names = ("zeroshot", "weight_average", "task_arithmetic", "tsv", "isotropic", "wudi")
    assert [get_method(n).alpha for n in names] == [0.0, 1.0, 0.3, 1.0, 1.0, 1.0]


def test_spectral_methods_of_the_papers_are_for_matrices_and_averages_for_all() -> None:
    matrices = ("tsv", "tsv_c", "isotropic", "iso_cts", "knots", "wudi")
    assert {get_method(n).on for n in matrices} == {"matrices"}
    everything = ("weight_average", "task_arithmetic", "slerp", "karcher", "model_stock")
    assert {get_method(n).on for n in everything} == {"all"}
    # Convolutions are maps to them, although no matrices.
    assert {get_method(n).on for n in ("dual", "dual_cts")} == {"all"}
    assert [get_modifier(n).on for n in ("svc", "lines")] == ["matrices", "all"]


def test_methods_that_work_on_the_spectrum_of_the_sum_take_it_from_a_cache() -> None:
    for name in ("isotropic", "iso_cts", "dual", "dual_cts"):
        assert "summed" in get_method(name).inputs
    for name in ("isotropic", "dual"):
        assert "deltas" not in get_method(name).inputs


def test_every_method_says_in_a_line_what_it_does() -> None:
    for method in [*methods().values(), *modifiers().values()]:
        assert method.summary.endswith("."), method.name
        assert len(method.summary) <= 100


def test_an_unknown_method_is_an_error_that_lists_those_that_exist() -> None:
    with pytest.raises(MergeloomError, match=r"tsvm.*isotropic.*task_arithmetic.*tsv") as caught:
        get_method("tsvm")
    assert "'tsvm'" in str(caught.value)
    with pytest.raises(MergeloomError, match=r"no modifier 'line'.*lines, svc"):
        get_modifier("line")


def test_inputs_and_parameters_are_read_from_the_signature() -> None:
    def function(deltas: Tensor, svd: Factors, *, density: float = 0.2) -> Tensor:
        return deltas[0]

    limits = {"density": "(0, 1]"}
    method = describe(
        function, "example", arxiv="1234.56789", alpha=0.5, on="matrices", limits=limits
    )
    assert method.inputs == ("deltas", "svd")
    assert method.parameters == {"density": 0.2}
    assert method.limits == limits

    def check(given: dict[str, object]) -> dict[str, object]:
        return check_parameters(method.name, method.parameters, method.limits, given)

    assert check({}) == {"density": 0.2}
    assert check({"density": 0.4}) == {"density": 0.4}
    with pytest.raises(MergeloomError, match=r"no parameter densty.*density \(default 0\.2\)"):
        check({"densty": 0.4})
    with pytest.raises(MergeloomError, match=r"density is 0, expected a number in \(0, 1\]"):
        check({"density": 0})


def test_a_method_without_parameters_says_so() -> None:
    tsv = get_method("tsv")
    with pytest.raises(MergeloomError, match="It has: none"):
        check_parameters(tsv.name, tsv.parameters, tsv.limits, {"density": 0.4})


def test_a_method_with_unknown_inputs_or_parameters_without_default_is_a_programming_error() -> (
    None
):
    with pytest.raises(TypeError, match="gradients"):
        describe(lambda gradients: gradients, "example")
    with pytest.raises(TypeError, match="density"):
        describe(lambda deltas, *, density: deltas, "example")
    with pytest.raises(TypeError, match="limits of density"):
        describe(lambda deltas: deltas, "example", limits={"density": "(0, 1]"})
    with pytest.raises(TypeError, match="takes neither `merged` nor `spectrum`"):
        modifier("example")(lambda deltas: deltas)
    get_method("tsv")
    with pytest.raises(ValueError, match="tsv"):
        merger("tsv")(lambda deltas: deltas)


def test_methods_do_not_change_what_they_are_given() -> None:
    # A modifier gets the same task vectors after them.
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(9, 6, generator=generator)
    for name, method in methods().items():
        if not set(method.inputs) <= {"deltas", "total", "base", "tasks"}:
            continue
        deltas = torch.randn(2, 9, 6, generator=generator)
        given = {"deltas": deltas, "total": deltas.sum(0), "base": base, "tasks": 2}
        before = {key: value.clone() for key, value in given.items() if key != "tasks"}
        method.function(*(given[i] for i in method.inputs), **method.parameters)
        for key, value in before.items():
            assert torch.equal(given[key], value), (name, key)
