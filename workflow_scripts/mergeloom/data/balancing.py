"""Class balancing by undersampling: as many training images of every class as the smallest has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergeloom.data.class_counts import count_classes
from mergeloom.data.hold_out import hold_out


def balance_task(
    labels: np.ndarray,
    classnames: Sequence[str],
    splits: Mapping[str, Any] | None,
    seed: int,
    title: str,
) -> dict[str, Any]:
    """Draw the balanced training set of a task, and what of it validates.

    The order is that of the public study of training conditions: the whole training set is
    balanced, and then validation is split off, where the task has no split for it. (That study
    drew anew for every use, so that images validated what they had trained; this is drawn once.)

    Parameters
    ----------
    labels : int64 [n], of the whole training set in the order of its shards.
    classnames : in the order of labels.
    splits : the task's record of splits; None if it has a split for validation.
    seed : of both draws.
    title : the task, for messages.

    Returns
    -------
    `training` and `validation`, sorted indices into the training shards (`validation` null if
    there is a split for it); `images` by split, as in a record of splits; `counts` of each class
    `before` and `after`; `seed`.

    Raises
    ------
    MergeloomError – a class without a training image, or too few images to validate.
    """
    balanced = undersample(labels, classnames, seed, title)
    training, validation = balanced, None
    if splits is not None and splits["validation"] is not None:
        excluded = np.flatnonzero(np.isin(balanced, splits["excluded"]))
        parts = hold_out(len(balanced), seed, excluded.tolist(), title)
        training, validation = (np.sort(balanced[part]) for part in parts)
    counts = {"before": labels, "after": labels[balanced]}
    return {
        "seed": seed,
        "images": {"train": len(labels)},
        "counts": {when: np.bincount(found).tolist() for when, found in counts.items()},
        "training": training.tolist(),
        "validation": None if validation is None else validation.tolist(),
    }


def undersample(labels: np.ndarray, classnames: Sequence[str], seed: int, title: str) -> np.ndarray:
    """Indices of as many images of every class as the smallest has, int64, sorted.

    Every class has a random stream of its own.
    """
    size = count_classes(labels, classnames, title).min()
    drawn = [
        np.random.default_rng([seed, label]).choice(
            np.flatnonzero(labels == label), size, replace=False
        )
        for label in range(len(classnames))
    ]
    return np.sort(np.concatenate(drawn))
