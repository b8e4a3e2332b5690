"""Parameters of methods: names, types, ranges, and what an error says."""

from typing import Any

import pytest

from mergeloom.errors import MergeloomError
from mergeloom.merging.method import methods, modifiers
from mergeloom.merging.parameters import check_parameters

DEFAULTS = {"density": 0.2, "count": 2, "scope": "model", "exact": True, "rank": None, "shares": ()}
LIMITS = {
    "density": "(0, 1]",
    "count": "[1, inf)",
    "scope": ("model", "tensor"),
    "rank": "[1, inf)",
    "shares": "(0, inf)",
}


def checked(**given: Any) -> dict[str, Any]:
    return check_parameters("ties", DEFAULTS, LIMITS, given)


def test_what_is_not_given_has_its_default() -> None:
    assert checked() == DEFAULTS
    assert checked(count=3, rank=4) == DEFAULTS | {"count": 3, "rank": 4}


def test_a_whole_number_stands_for_the_fraction_of_the_same_value() -> None:
    value = checked(density=1)["density"]
    assert value == 1
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"density": 0}, r"density is 0, expected a number in \(0, 1\]"),
        ({"density": 1.01}, r"density is 1.01, expected a number in \(0, 1\]"),
        ({"density": "0.1"}, "density is '0.1', expected a number"),
        ({"density": True}, "density is True, expected a number"),
        ({"density": float("nan")}, "density is nan"),
        ({"count": 0}, r"count is 0, expected a whole number in \[1, inf\)"),
        ({"count": 2.0}, "count is 2.0, expected a whole number"),
        ({"count": float("inf")}, "count is inf"),
        ({"scope": "layer"}, "scope is 'layer', expected one of model, tensor"),
        ({"exact": 1}, "exact is 1, expected true or false"),
        ({"rank": 0}, "rank is 0, expected none, or a whole number in"),
        (
            {"shares": [1, 0]},
            r"shares is \[1, 0\], expected a list of numbers, .* in \(0, inf\)",
        ),
        ({"shares": 1}, "shares is 1, expected a list of numbers"),
        ({"densty": 1, "scop": 2}, "ties has no parameter densty, scop. It has: density .default"),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_is_expected(given: dict, message: str) -> None:
    with pytest.raises(MergeloomError, match=message):
        checked(**given)


def test_all_defaults_are_within_their_limits() -> None:
    for method in [*methods().values(), *modifiers().values()]:
        check_parameters(method.name, method.parameters, method.limits, method.parameters)
