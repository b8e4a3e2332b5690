"""Whether models agree on which inputs are close to each other."""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.linalg.products import times_transpose
from mergeloom.similarity.features import Features
from mergeloom.similarity.measure import measure


@measure("mutual_knn", arxiv="2405.07987", limits={"k": "[1, inf)"})
def mutual_knn(features: Features, *, k: int = 10) -> Tensor:
    """Share of the k nearest neighbours, by cosine, that two models have in common.

    The mean over rows of |N(i) ∩ N'(i)| / k; a row is no neighbour of its own (Huh et al. 2024).

    Parameters
    ----------
    features : of M models.
    k : neighbours of each row.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        If there are not more than k rows.
    """
    n = features.n
    if k >= n:
        raise MergeloomError(
            f"k is {k}, but {features.paths[0]} has {n} rows, and a row has {n - 1} others. Take a "
            "smaller k."
        )

    def neighbours(model: int) -> Tensor:
        x = features.read(model)
        x /= torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)
        found = torch.empty(n, k, dtype=torch.int64)
        for rows in torch.arange(n, device=x.device).split(features.tile[0]):
            cosines = times_transpose(x[rows], x, out=features.empty(len(rows), n))
            cosines[torch.arange(len(rows), device=x.device), rows] = -torch.inf
            found[rows.cpu()] = cosines.topk(k, sorted=False).indices.cpu()
        return found

    with features.threads() as threads:
        found = threads.each(neighbours, range(len(features)))
    # A row per model, a column per ordered pair of rows: what two have in common is their product.
    ends = np.arange(len(features) + 1) * n * k
    entries = np.concatenate([(f + n * torch.arange(n)[:, None]).numpy().ravel() for f in found])
    members = csr_array((np.ones(len(entries)), entries, ends), shape=(len(features), n * n))
    common = (members[features.known :] @ members.T).toarray()
    return torch.from_numpy(common / (n * k))
