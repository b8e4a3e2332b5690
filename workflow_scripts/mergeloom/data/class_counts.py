"""How many images each class of a task has."""

from collections.abc import Sequence

import numpy as np

from mergeloom.errors import MergeloomError

SHOWN = 5  # classes in a message


def count_classes(labels: np.ndarray, classnames: Sequence[str], title: str) -> np.ndarray:
    """Images per class, int64 [classes], each at least 1.

    Parameters
    ----------
    labels : int64 [n], each below the number of classes.
    classnames : what classes are called in messages.
    title : the task, for messages.

    Raises
    ------
    MergeloomError – a class without an image: a training set cannot be balanced then.
    """
    counts = np.bincount(labels, minlength=len(classnames))
    empty = [classnames[label] for label in np.flatnonzero(counts == 0).tolist()]
    if empty:
        named = ", ".join(empty[:SHOWN]) + (", …" if len(empty) > SHOWN else "")
        raise MergeloomError(
            f"{title}: {len(empty)} of the {len(classnames)} classes have no training image "
            f"({named}), so that the classes cannot be balanced. Set `balancing: none` in the "
            "recipe, or give the task a list of the classes that it has."
        )
    return counts
