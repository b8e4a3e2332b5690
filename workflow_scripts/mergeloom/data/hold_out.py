"""Which training examples validate, where no split is for them."""

from collections.abc import Sequence

import numpy as np

from mergeloom.errors import MergeloomError


def hold_out(
    count: int, seed: int, excluded: Sequence[int], title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Divide training examples into those that train and min(10 %, 5000) that validate.

    This is what public code of task arithmetic (arXiv 2212.04089, 2412.00081) does with
    `torch.utils.data.random_split([N - n, n], generator=manual_seed(seed))`: the last n of a
    permutation validate. Where `excluded` has some of them, those before them take their places.

    Parameters
    ----------
    count : N.
    seed : of a generator of its own; the public code has 0.
    excluded : indices of examples that must not validate.
    title : the task, for messages.

    Returns
    -------
    int64 [N - n] and int64 [n], those that train and those that validate, in the order drawn.

    Raises
    ------
    MergeloomError – a tenth of the examples is none, or more than may validate.
    """
    import torch  # here, since most that have to do with splits do without it

    wanted = min(count // 10, 5000)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    free = np.flatnonzero(~np.isin(order, np.asarray(excluded, np.int64)))
    if len(free) < max(wanted, 1) or not wanted:
        raise MergeloomError(
            f"{title}: validation needs a tenth of the {count} training examples, but only "
            f"{min(len(free), wanted)} of them can be drawn (those that occur once, and not in "
            "test). Give the task a split `val`."
        )
    drawn = free[-wanted:]
    return np.delete(order, drawn), order[drawn]
