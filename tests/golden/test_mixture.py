"""Weights mixed by input, against the plain per-row sum in float64."""

import numpy as np
import pytest
import torch
from small_clip import ENCODER, TASKS, Files

from mergeloom.adaptive.mixture import Mixture
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.models import MergedModel
from mergeloom.evaluation.precision import computing_in
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.linalg import mixed
from mergeloom.linalg.mixed import mixed_product
from mergeloom.merging.engine import merge_files, plan_merge
from mergeloom.merging.task_vector import write_svd_cache
from mergeloom.models.family import get_family
from mergeloom.models.module_supply import supply_modules


@pytest.fixture
def study(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def files(study):
    return study.base, study.vectors


@pytest.fixture
def mixture(files):
    return Mixture(ENCODER, *files, "cpu", centre=0.0)


@pytest.fixture
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def naive(study, images, coefficients):
    """One merged float64 model per row; coefficients [n, K], or [n, K, L] by sorted keys."""
    outputs = []
    for image, row in zip(images, coefficients.double(), strict=True):
        weights = {}
        for place, key in enumerate(sorted(study.deltas)):
            factors = row if row.ndim == 1 else row[:, place]
            step = sum(f * t for f, t in zip(factors, study.deltas[key], strict=True))
            weights[key] = study.start[key] + step
        outputs.append(study.features(weights, image[None]))
    return torch.cat(outputs).detach()


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_batched_mixing_is_the_naive_merge_of_every_row(study, mixture, images, groups, layers):
    shape = (groups, TASKS, len(mixture.keys)) if layers else (groups, TASKS)
    coefficients = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    with mixture.mixed(coefficients), torch.no_grad():
        found = mixture.tower(images)
    expected = naive(study, images, coefficients.repeat_interleave(12 // groups, dim=0))
    np.testing.assert_allclose(found.double(), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("tile", [1, 64, 2**20])
def test_tiles_of_any_size_give_the_same_product(tile, monkeypatch):
    monkeypatch.setattr(mixed, "TILE", tile)
    g = torch.Generator().manual_seed(0)
    inputs, base = torch.randn(4, 5, 6, generator=g), torch.randn(7, 6, generator=g)
    stack, factors = torch.randn(3, 7, 6, generator=g), torch.randn(4, 3, generator=g)
    weights = base + torch.einsum("gk,koi->goi", factors, stack)
    expected = torch.einsum("gmi,goi->gmo", inputs, weights)
    torch.testing.assert_close(mixed_product(inputs, base, stack, factors), expected)


def test_tiles_are_larger_where_there_are_no_caches_of_a_processor_to_fill():
    spans = {}
    for device in ("cpu", "meta"):
        base, stack = torch.zeros(512, 768, device=device), torch.zeros(2, 512, 768, device=device)
        found = mixed._tiles(base, stack, torch.zeros(8, 2, device=device), torch.float32)
        spans[device] = [span for span, _ in found]
    assert len(spans["cpu"]) > 1
    assert len(spans["meta"]) == 1


@pytest.mark.parametrize("rows", [1, 4])
def test_gradients_are_those_of_finite_differences(rows):
    g = torch.Generator().manual_seed(0)
    inputs, base, stack, factors = (
        torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((3, rows, 4), (5, 4), (2, 5, 4), (3, 2))
    )
    inputs.requires_grad_()
    factors.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, c: mixed_product(x, base, stack, c), (inputs, factors)
    )


@pytest.mark.parametrize("rows", [1, 4])
def test_under_autocast_the_product_and_its_gradients_are_those_of_float32_rounded(rows):
    g = torch.Generator().manual_seed(0)
    inputs, base, stack, factors, slope = (
        torch.randn(*shape, generator=g)
        for shape in ((3, rows, 40), (50, 40), (2, 50, 40), (3, 2), (3, rows, 50))
    )
    found = {}
    for precision in ("float32", "bfloat16"):
        x, c = inputs.clone().requires_grad_(), factors.clone().requires_grad_()
        with computing_in(precision, "cpu"):
            outputs = mixed_product(x, base, stack, c)
        assert outputs.dtype == getattr(torch, precision)
        outputs.backward(slope.to(outputs.dtype))
        found[precision] = [outputs.detach().float(), x.grad, c.grad]
    for exact, rounded in zip(*found.values(), strict=True):
        assert rounded.dtype == torch.float32
        np.testing.assert_allclose(rounded, exact, atol=0.02 * float(exact.abs().max()))


@pytest.mark.parametrize("rank", [None, 64])
def test_under_autocast_the_tower_is_that_of_float32_but_for_rounding(mixture, images, rank):
    if rank:
        mixture.low_rank(rank)
    coefficients = torch.rand(6, TASKS, generator=torch.Generator().manual_seed(2))
    found = []
    for precision in ("float32", "bfloat16"):
        with torch.no_grad(), mixture.mixed(coefficients), computing_in(precision, "cpu"):
            found.append(mixture.tower(images).float())
    assert not torch.equal(*found)
    np.testing.assert_allclose(found[1], found[0], atol=0.03 * float(found[0].abs().max()))


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize(
    ("key", "like"),
    [("visual.ln_post.weight", (3, 16)), ("visual.positional_embedding", (3, 5, 16))],
)
def test_under_autocast_entries_are_those_of_float32_to_the_bit(mixture, key, like, low_rank):
    if low_rank:
        mixture.low_rank(3)
    found = []
    for precision in ("float32", "bfloat16"):
        shared = mixture.mixed(torch.full((3, TASKS), 0.37))
        with torch.no_grad(), shared, computing_in(precision, "cpu"):
            found.append(mixture.entries(key, torch.empty(like)))
    assert found[1].dtype == torch.float32
    assert torch.equal(*found)


def test_under_autocast_lines_of_a_low_rank_table_are_those_of_float32_to_the_bit(mixture):
    mixture.low_rank(3)
    found = []
    for precision in ("float32", "bfloat16"):
        shared = mixture.mixed(torch.full((1, TASKS), 0.37))
        with torch.no_grad(), shared, computing_in(precision, "cpu"):
            indices = torch.tensor([[0, 4], [2, 1]])
            found.append(mixture.looked_up("visual.positional_embedding", indices))
    assert torch.equal(*found)


def test_the_gradient_of_coefficients_is_that_through_merged_weights(study, mixture, images):
    coefficients = torch.rand(4, TASKS, requires_grad=True)
    with mixture.mixed(coefficients):
        mixture.tower(images).square().sum().backward()
    step = 1e-3
    for place in ((0, 0), (2, 1), (3, 2)):
        ends = []
        for sign in (-1, 1):
            moved = coefficients.detach().double().clone()
            moved[place] += sign * step
            rows = moved.repeat_interleave(3, dim=0)
            ends.append(float(naive(study, images, rows).square().sum()))
        expected = (ends[1] - ends[0]) / (2 * step)
        assert float(coefficients.grad[place]) == pytest.approx(expected, rel=1e-3)


def test_at_the_centre_the_tower_is_task_arithmetic_to_the_bit(files, images, tmp_path):
    out = tmp_path / "merged.safetensors"
    merge_files(*files, plan_merge("task_arithmetic", {}, []), out, "clip")
    merged = MergedModel(ENCODER, files[0], out, "cpu")
    [(tower, _)] = merged.at(0.3, ["a"])
    mixture = Mixture(ENCODER, *files, "cpu", centre=0.3)
    weights = get_family("clip").tower_weights(tower)
    assert all(torch.equal(weights[key], mixture.base[key]) for key in weights)
    with mixture.mixed(torch.full((12, TASKS), 0.3)), torch.no_grad():
        found = mixture.tower(images)
    with torch.no_grad():
        torch.testing.assert_close(found, tower(images), rtol=1e-5, atol=1e-5)


def test_a_unit_coefficient_is_that_expert_and_zero_the_base(files, study, images):
    mixture = Mixture(ENCODER, *files, "cpu", centre=0.3)
    for coefficients in (torch.eye(TASKS)[[1]], torch.zeros(1, TASKS)):
        with mixture.mixed(coefficients), torch.no_grad():
            found = mixture.tower(images)
        expected = naive(study, images, coefficients.repeat(12, 1))
        np.testing.assert_allclose(found.double(), expected, atol=1e-4 * expected.abs().max())


def test_equal_columns_of_layers_are_coefficients_of_tasks(mixture, images):
    by_task = torch.rand(4, TASKS)
    by_layer = by_task[:, :, None].expand(-1, -1, len(mixture.keys))
    with torch.no_grad(), mixture.mixed(by_task):
        expected = mixture.tower(images)
    with torch.no_grad(), mixture.mixed(by_layer):
        assert torch.equal(mixture.tower(images), expected)


def test_the_order_of_the_experts_is_that_of_the_coefficients(files, images):
    order = [2, 0, 1]
    coefficients = torch.rand(4, TASKS)
    found = []
    for which in (range(TASKS), order):
        mixture = Mixture(ENCODER, files[0], [files[1][k] for k in which], "cpu", centre=0.0)
        with torch.no_grad(), mixture.mixed(coefficients[:, list(which)]):
            found.append(mixture.tower(images))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_a_full_rank_form_is_exact_and_a_low_one_says_its_error(files, mixture, images):
    coefficients = torch.rand(6, TASKS)
    with torch.no_grad(), mixture.mixed(coefficients):
        exact = mixture.tower(images)
    vectors = {key: stack.double().numpy() for key, stack in mixture.stacks.items()}
    full = Mixture(ENCODER, *files, "cpu", centre=0.0)
    assert full.low_rank(64) < 1e-6
    with torch.no_grad(), full.mixed(coefficients):
        torch.testing.assert_close(full.tower(images), exact, rtol=1e-4, atol=1e-4)
    low = Mixture(ENCODER, *files, "cpu", centre=0.0)
    error = low.low_rank(4)
    matrices = [
        v for k, v in vectors.items() if get_family("clip").kind(k, v.shape[1:]) == "matrix"
    ]
    spectra = [np.linalg.svd(v, compute_uv=False) for v in matrices]
    lost = sum((s[:, 4:] ** 2).sum() for s in spectra)
    assert error == pytest.approx(np.sqrt(lost / sum((s**2).sum() for s in spectra)), rel=1e-4)
    with torch.no_grad(), low.mixed(coefficients):
        assert not torch.allclose(low.tower(images), exact, rtol=1e-3)


def test_lines_of_a_low_rank_table_are_those_of_the_whole_one(mixture):
    key = "visual.positional_embedding"
    mixture.low_rank(3)
    indices = torch.tensor([[0, 4], [2, 2], [1, 0]])
    with torch.no_grad(), mixture.mixed(torch.rand(3, TASKS)):
        tables = mixture.entries(key, torch.empty(3, 5, 16))
        found = mixture.looked_up(key, indices)
    expected = torch.stack([table[rows] for table, rows in zip(tables, indices, strict=True)])
    torch.testing.assert_close(found, expected)


def test_svd_caches_take_the_place_of_a_decomposition(files, images, tmp_path):
    caches = [tmp_path / f"svd{k}.safetensors" for k in range(TASKS)]
    for vector, cache in zip(files[1], caches, strict=True):
        write_svd_cache([vector], cache, "clip", 0.5, "cpu")
    found = []
    for svd in (None, caches):
        mixture = Mixture(ENCODER, *files, "cpu")
        error = mixture.low_rank(3, svd)
        with torch.no_grad(), mixture.mixed(torch.full((6, TASKS), 0.4)):
            found.append((error, mixture.tower(images)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)
    mixture = Mixture(ENCODER, *files, "cpu")
    with pytest.raises(MergeloomError, match=r"singular vectors of .*svd.fraction, to at least"):
        mixture.low_rank(12, caches)
    mixture = Mixture(ENCODER, files[0], files[1][::-1], "cpu")
    with pytest.raises(MergeloomError, match="was not computed from"):
        mixture.low_rank(3, caches)


def test_a_tower_that_is_not_mixed_does_not_run(mixture, images):
    with pytest.raises(MergeloomError, match="within `mixed` only"):
        mixture.tower(images)


def test_coefficients_of_another_number_of_experts_are_refused(mixture):
    with (
        pytest.raises(MergeloomError, match=r"\[2, 4\], expected \[groups, 3\]"),
        mixture.mixed(torch.zeros(2, 4)),
    ):
        pass


def test_parameters_of_modules_that_are_not_known_are_named_and_counted(tmp_path):
    study = Files(tmp_path, ls_init_value=0.1)
    assert sum(key.endswith("gamma") for key in study.start) == 4
    with pytest.raises(
        MergeloomError,
        match=r"resblocks\.0\.ls_1\.gamma and 3 more parameters belong to modules of a type",
    ):
        Mixture(study.encoder, study.base, study.vectors, "cpu")


def test_parameters_that_no_task_vector_changes_need_not_be_known(tmp_path, images):
    study = Files(tmp_path, ls_init_value=0.1)
    for path in study.vectors:
        with TensorFile(path) as file:
            kept = {k: file.read(k) * (not k.endswith("gamma")) for k in file}
        write_tensors(path, kept, {}, elide_zeros=True)
    for key in study.deltas:
        if key.endswith("gamma"):
            study.deltas[key] = [torch.zeros_like(d) for d in study.deltas[key]]
    mixture = Mixture(study.encoder, study.base, study.vectors, "cpu")
    with torch.no_grad(), mixture.mixed(torch.tensor([[0.2, 0.5, 0.1]])):
        found = mixture.tower(images)
    expected = study.features(study.merged([0.2, 0.5, 0.1]), images).detach()
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_an_embedding_that_does_more_than_look_up_is_refused(option, mixture):
    tower = torch.nn.Sequential(torch.nn.Embedding(3, 2, **option))
    keys = {tower[0].weight.data_ptr(): "table"}
    with pytest.raises(MergeloomError, match="0: is an embedding with max_norm or scale_grad"):
        supply_modules(tower, keys, mixture)


def test_zeros_of_task_vectors_are_not_counted(mixture):
    before = mixture.beside
    key = "visual.proj"
    gone = int(mixture.stacks[key][0].numel())
    mixture.stacks[key][0] = 0
    assert mixture.beside == before - gone
