"""Which training examples validate a probe: the same share of every class."""

import numpy as np

from mergeloom.errors import MergeloomError


def hold_out_stratified(
    labels: np.ndarray, share: float, seed: int, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples into those that train and those that validate, class by class.

    As the study of consistent similarities (arXiv 2411.05561) has it, which examples validate is
    scikit-learn's `train_test_split(stratify=labels, random_state=seed)`; unlike there, both parts
    are sorted, so that batches depend on the probe's own generator alone.

    Parameters
    ----------
    labels : whole numbers [n].
    share : of the examples that validates, rounded up to a whole number of them.
    title : of the split, for messages.

    Returns
    -------
    int64 [n − v] and int64 [v].

    Raises
    ------
    MergeloomError – fewer than two classes, a class with one example, or parts with fewer examples
    than there are classes.
    """
    from sklearn.model_selection import train_test_split

    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise MergeloomError(
            f"{title}: all {len(labels)} examples are of class {names[0]}: a probe needs at least "
            "two classes, so leave this data set out, or give its other classes"
        )
    if counts.min() < 2:
        raise MergeloomError(
            f"{title}: class {names[counts.argmin()]} has a single example, which cannot both "
            "train and validate: give each class at least 2, or leave the class out"
        )
    validating = int(np.ceil(share * len(labels)))
    if min(validating, len(labels) - validating) < len(names):
        raise MergeloomError(
            f"{title}: {share:g} of {len(labels)} examples are {validating}, but each of the "
            f"{len(names)} classes must have one that trains and one that validates: give more "
            "examples, or another share"
        )
    parts = train_test_split(
        np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed
    )
    train, validation = (np.sort(part).astype(np.int64) for part in parts)
    return train, validation
