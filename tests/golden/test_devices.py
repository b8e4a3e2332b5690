"""The same merge on a GPU, where there is one."""

import pytest
import torch
from given_data import maps_of, options_for
from study import SPECTRAL, Study, assert_agree

from mergeloom.merging.method import methods

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_gpu_gives_what_the_processor_gives(study: Study, method: str) -> None:
    experts = study.task_vectors[:2] if method == "slerp" else study.task_vectors
    given = options_for(method, study.base, experts, study.shapes, maps_of(study.shapes))
    expected = study.merge(method, experts=experts, **given)
    result = study.merge(method, experts=experts, device="cuda", **given)
    assert_agree(result, expected, SPECTRAL)
