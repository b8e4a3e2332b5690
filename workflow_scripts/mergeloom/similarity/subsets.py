"""Subsets of a split that have its classes alike, drawn from its labels alone."""

import hashlib
import math

import numpy as np

from mergeloom.errors import MergeloomError

FEWEST_ROWS = 4  # unbiased CKA divides by n (n − 3)


def draw_subset(
    labels: np.ndarray, rows: int, *, name: str, seed: int, exact: bool = False
) -> np.ndarray:
    """Draw rows of a split, without replacement, the same for every model.

    The rule of the study of consistent similarities (arXiv 2411.05561): all rows if they are at
    most `rows`; otherwise min(n_c, k) of each class, with k = ⌈rows / classes⌉, so that a few more
    than `rows` may come out (10128 instead of 10000 with 211 classes). The study draws for all data
    sets from one generator; here each has its own, of `seed` and `name`, and each class is shuffled
    before any is cut, so that the smaller of two subsets by this rule is part of the larger.

    Parameters
    ----------
    labels : [n], whole numbers; classes are those that occur.
    rows : wanted.
    name : of the data set: its generator is seeded with it, and messages name it.
    exact : draw exactly `rows`: classes as equal as their sizes allow, where one more of some
        classes is needed, of which ones is drawn, too.

    Returns
    -------
    int64 [m], sorted row numbers.

    Raises
    ------
    MergeloomError – labels that are no list of whole numbers; fewer than 4 rows, or than classes,
    are there or wanted; more rows are wanted exactly than there are.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (len(labels) and labels.dtype.kind not in "iu"):
        raise MergeloomError(
            f"{name}: labels are {labels.dtype} {list(labels.shape)}, expected a list of whole "
            "numbers, one for each row"
        )
    if len(labels) < FEWEST_ROWS:
        raise MergeloomError(
            f"{name}: has {len(labels)} rows, but similarities need at least {FEWEST_ROWS}: take a "
            "larger split, or leave this data set out"
        )
    _, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if rows < max(FEWEST_ROWS, len(sizes)):
        raise MergeloomError(
            f"{name}: a subset of {rows} rows is asked for, but it needs at least {FEWEST_ROWS}, "
            f"and one of each of the {len(sizes)} classes: ask for "
            f"{max(FEWEST_ROWS, len(sizes))} or more"
        )
    if exact and rows > len(labels):
        raise MergeloomError(
            f"{name}: exactly {rows} rows are asked for, but it has {len(labels)}: ask for at most "
            "as many, or for a subset that need not be exact"
        )
    if len(labels) <= rows:
        return np.arange(len(labels))
    generator = _generator(seed, name)
    order = np.argsort(places, kind="stable")
    shuffled = [generator.permutation(own) for own in np.split(order, np.cumsum(sizes)[:-1])]
    if exact:
        shares = _equal_shares(sizes, rows, generator)
    else:
        shares = np.minimum(sizes, math.ceil(rows / len(sizes)))
    drawn = [own[:share] for own, share in zip(shuffled, shares, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _equal_shares(sizes: np.ndarray, rows: int, generator: np.random.Generator) -> np.ndarray:
    """How many of each class make `rows` together, no two further apart than sizes force them."""
    # The least k with Σ min(n_c, k) ≥ rows; all have k − 1, as far as they go, and some have k.
    least, enough = 0, int(sizes.max())
    while enough - least > 1:
        middle = (least + enough) // 2
        if np.minimum(sizes, middle).sum() >= rows:
            enough = middle
        else:
            least = middle
    shares = np.minimum(sizes, enough - 1)
    larger = np.flatnonzero(sizes >= enough)
    shares[generator.permutation(larger)[: rows - shares.sum()]] += 1
    return shares


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))
