"""Whether splits of a task share examples, and which training examples validate."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mergeloom.data.hold_out import hold_out
from mergeloom.errors import MergeloomError

SHOWN = 5  # pairs of equal examples in a message
LISTED = 100  # and in the file


def compare_splits(
    contents: Mapping[str, Sequence[bytes]],
    places: Mapping[str, Sequence[str]],
    kind: tuple[str, str],
    seed: int,
    allow_overlap: bool,
    title: str,
) -> dict[str, Any]:
    """Compare the splits of a task, and choose the validation examples where no split is for them.

    Validation is then min(10 %, 5000) of train, drawn as by `hold_out` among the examples whose
    content occurs once in train and not in test. So no example is ever both trained on and
    validated with.

    Parameters
    ----------
    contents : of the examples of `train`, `test`, and perhaps `val`, 32 bytes each.
    places : where each of them lies, for messages.
    kind : what examples are called, and how equal ones are, for messages.
    title : the task, for messages.

    Returns
    -------
    By split: how many there are, under the name of their kind; `repeated`, how many occur more than
    once in their split; `content`, SHA-256 of the contents in order. `overlap`: a list of {splits,
    how many of each, first pairs}; `validation`: sorted indices into train, or null if there is a
    split for it; `excluded`: sorted indices of those that may not validate, likewise; `training`:
    null, all that do not validate.

    Raises
    ------
    MergeloomError – splits that share examples, unless allowed, with the numbers and first pairs;
    a train split too small to draw from.
    """
    overlaps = [
        overlap
        for a, b in itertools.combinations(contents, 2)
        if (overlap := _overlap(a, b, contents, places, kind[0]))
    ]
    if overlaps and not allow_overlap:
        raise MergeloomError(_leak(title, kind, overlaps, places))
    validation = excluded = None
    if "val" not in contents:
        excluded = not_to_validate(contents["train"], set(contents["test"]))
        _, drawn = hold_out(len(contents["train"]), seed, excluded, title)
        validation = sorted(drawn.tolist())
    return {
        kind[0]: {split: len(found) for split, found in contents.items()},
        "content": {
            s: hashlib.sha256(b"".join(found)).hexdigest() for s, found in contents.items()
        },
        "repeated": {
            split: sum(n for n in Counter(found).values() if n > 1)
            for split, found in contents.items()
        },
        "overlap": overlaps,
        "training": None,
        "validation": validation,
        "excluded": excluded,
    }


def not_to_validate(train: Sequence[bytes], test: set[bytes]) -> list[int]:
    """Indices of the training examples that occur more than once in train, or in test; sorted.

    Parameters
    ----------
    train, test : contents.
    """
    count = Counter(train)
    return [i for i, content in enumerate(train) if count[content] > 1 or content in test]


def _overlap(
    a: str,
    b: str,
    contents: Mapping[str, Sequence[bytes]],
    places: Mapping[str, Sequence[str]],
    things: str,
) -> dict[str, Any] | None:
    """The examples that two splits share; None if there are none."""
    first: dict[bytes, int] = {}
    for index, content in enumerate(contents[a]):
        first.setdefault(content, index)
    shared = [(first[c], index) for index, c in enumerate(contents[b]) if c in first]
    if not shared:
        return None
    within_b = set(contents[b])
    return {
        "splits": [a, b],
        things: [sum(content in within_b for content in contents[a]), len(shared)],
        "first": [[places[a][i], places[b][j]] for i, j in shared[:LISTED]],
    }


def _leak(
    title: str,
    kind: tuple[str, str],
    overlaps: Sequence[Mapping[str, Any]],
    places: Mapping[str, Sequence[str]],
) -> str:
    things, how = kind
    lines = [f"{title}: splits share {things}, {how}."]
    for overlap in overlaps:
        (a, b), (in_a, in_b) = overlap["splits"], overlap[things]
        pairs = ", ".join(" = ".join(pair) for pair in overlap["first"][:SHOWN])
        lines.append(
            f"{in_a} of the {len(places[a])} {things} of {a} and {in_b} of the {len(places[b])} of "
            f"{b} are the same, for instance: {pairs}."
        )
    lines.append(
        f"A model that has seen the test {things} is measured on its memory: take another revision "
        "or split of the data set. If these splits are what you want, set `allow_overlap: true` in "
        "the task's preset, or name the task under `allow_overlap` in the configuration."
    )
    return "\n".join(lines)
