"""What is measured of models on images, against a ViT in numpy and gradients one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import vit_in_numpy as numpy_vit
from safetensors.numpy import load_file
from study import ELEMENTWISE, SPECTRAL, assert_agree
from torch.nn.functional import linear, log_softmax
from vit_in_numpy import COUNT, ENCODER, LAYERS, Tower

from mergeloom.data.decoded import Images, normalise
from mergeloom.errors import MergeloomError
from mergeloom.merging.engine import merge_files, plan_merge
from mergeloom.merging.fisher_file import write_fisher
from mergeloom.merging.gram_file import write_grams
from mergeloom.models.attention import heads_output
from mergeloom.models.clip_stages import cut
from mergeloom.models.family import get_family
from mergeloom.models.naming import by_stage
from mergeloom.models.stages import LinearMap
from mergeloom.statistics import gradients
from mergeloom.statistics.gradients import cotangents_of_fisher, example_gradients
from mergeloom.statistics.propagation import Propagation

CLIP = get_family("clip")


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    """A CLIP of two blocks and three experts. Tests read it and do not change it."""
    return Tower(tmp_path_factory.mktemp("tower"))


def images(tower: Tower, task: int) -> Images:
    """Labels are wrong on purpose: nothing may read them."""
    return Images(torch.from_numpy(tower.pixels[task]), torch.full((COUNT,), -1))


def collected(tower: Tower, task: int, out: Path, batch_size: int = 4) -> Path:
    write_grams(
        encoder=ENCODER, base=tower.base, task_vector=tower.task_vectors[task],
        images=images(tower, task), device="cpu", batch_size=batch_size, out=out, metadata={},
    )  # fmt: skip
    return out


def estimated(tower: Tower, task: int, out: Path) -> Path:
    write_fisher(
        encoder=ENCODER, base=tower.base, task_vector=tower.task_vectors[task],
        head=tower.heads[task], images=images(tower, task), device="cpu", batch_size=4, out=out,
        metadata={},
    )  # fmt: skip
    return out


def propagation(tower: Tower, tasks: list[int]) -> Propagation:
    return Propagation(
        encoder=ENCODER, base=tower.base, images=[images(tower, t) for t in tasks], device="cpu",
        batch_size=4,
    )  # fmt: skip


def torch_tower(tower: Tower, task: int) -> torch.nn.Module:
    weights = {key: torch.from_numpy(value) for key, value in tower.experts[task].items()}
    return CLIP.build_tower(ENCODER["architecture"], weights).eval()


@pytest.mark.parametrize("architecture", [ENCODER["architecture"], {"open_clip": "ViT-B-32"}])
def test_the_stages_are_the_tower_and_hold_the_parameters_of_the_naming(architecture) -> None:
    torch.manual_seed(0)
    built = CLIP.build(architecture).visual.eval()
    stages = cut(built)
    pixels = torch.randn(2, 3, *built.image_size)
    with torch.inference_mode():
        x = pixels
        for stage in stages:
            x = stage(x)
        torch.testing.assert_close(x, built(pixels))
    groups = by_stage(CLIP, CLIP.tower_weights(built))
    assert len(groups) == len(stages)
    # Other weights in one stage's parameters change nothing but what this stage makes.
    with torch.inference_mode():
        for index in (0, 1, len(stages) - 1):
            fed = pixels
            for stage in stages[:index]:
                fed = stage(fed)
            before = stages[index](fed)
            for key in groups[index]:
                CLIP.tower_weights(built)[key].mul_(1.5)
            refed = pixels
            for stage in stages[:index]:
                refed = stage(refed)
            assert torch.equal(refed, fed)
            assert not torch.allclose(stages[index](fed), before)


def test_what_a_map_is_fed_times_its_weights_is_what_its_module_puts_out(tower: Tower) -> None:
    built = torch_tower(tower, 0)
    put_out = {}
    for name, module in built.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.MultiheadAttention):
            module.register_forward_hook(lambda m, i, o, name=name: put_out.update({name: o}))
    fed: dict[LinearMap, torch.Tensor] = {}
    x = torch.from_numpy(tower.images(0))
    with torch.inference_mode():
        for stage in cut(built):
            x = stage(x, fed.__setitem__)
        weights = {f"visual.{key}": value for key, value in built.state_dict().items()}
        for layer in range(LAYERS):
            block = f"visual.transformer.resblocks.{layer}."
            inner = block.removeprefix("visual.")
            for name in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
                inputs = fed[LinearMap(f"{block}{name}.weight", 1)]
                result = linear(
                    inputs, weights[f"{block}{name}.weight"], weights[f"{block}{name}.bias"]
                )
                output = put_out[inner + name.replace("attn.out_proj", "attn")]
                output = output[0] if isinstance(output, tuple) else output
                torch.testing.assert_close(result, output)
            attention = built.transformer.resblocks[layer].attn
            inputs = fed[LinearMap(f"{block}attn.in_proj_weight", 1)]
            torch.testing.assert_close(
                heads_output(attention, inputs), fed[LinearMap(f"{block}attn.out_proj.weight", 1)]
            )
        torch.testing.assert_close(fed[LinearMap("visual.proj", 0)] @ weights["visual.proj"], x)
    assert len(fed) == 4 * LAYERS + 1


@pytest.mark.parametrize("batch_size", [4, 100])
def test_gram_matrices_are_those_of_the_model_in_numpy(
    tower: Tower, tmp_path: Path, batch_size: int
) -> None:
    found = load_file(collected(tower, 1, tmp_path / "gram.safetensors", batch_size))
    expected, x = {}, tower.images(1)
    for index in range(LAYERS + 2):
        expected |= numpy_vit.grams(tower.experts[1], index, x)
        x = numpy_vit.stage(tower.experts[1], index, x)
    dims = {key: 0 if key == "visual.proj" else 1 for key in expected}
    named = {f"{key}.{dims[key]}": gram for key, gram in expected.items()}
    assert_agree({k: np.float64(v) for k, v in found.items()}, named, ELEMENTWISE)


def test_other_towers_are_refused_by_name() -> None:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    architecture = ENCODER["architecture"] | {"vision_cfg": vision}
    with pytest.raises(MergeloomError, match="the tower is a ModifiedResNet"):
        cut(CLIP.build(architecture).visual)
    custom = ENCODER["architecture"]["vision_cfg"] | {"block_type": "custom"}
    architecture = ENCODER["architecture"] | {"vision_cfg": custom}
    with pytest.raises(MergeloomError, match="CustomResidualAttentionBlock"):
        cut(CLIP.build(architecture).visual)


def one_by_one(tower: Tower, task: int) -> dict[str, np.ndarray]:
    """1/n Σ_x Σ_y p(y|x) (∂ log p(y|x))², a backward pass for every label of every example."""
    built = torch_tower(tower, task).requires_grad_(True)
    head = torch.from_numpy(np.float64(load_file(tower.heads[task])["weight"]))
    named = {f"visual.{key}": value for key, value in built.named_parameters()}
    total = {key: np.zeros(value.shape) for key, value in named.items()}
    for image in torch.from_numpy(tower.images(task)):
        log_p = log_softmax(CLIP.logits(built, head, image.unsqueeze(0))[0], dim=0)
        for value in log_p:
            found = torch.autograd.grad(value, list(named.values()), retain_graph=True)
            for key, gradient in zip(named, found, strict=True):
                total[key] += float(value.detach().exp()) * gradient.numpy() ** 2 / COUNT
    return total


@pytest.mark.parametrize("bytes_held", [2**28, 1])
def test_fisher_is_the_expectation_over_the_models_own_predictions(
    tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_held: int
) -> None:
    monkeypatch.setattr(gradients, "_BYTES", bytes_held)
    monkeypatch.setattr(gradients.cotangents_of_fisher, "__defaults__", (0.0,))
    found = load_file(estimated(tower, 2, tmp_path / "fisher.safetensors"))
    expected = one_by_one(tower, 2)
    assert_agree({k: np.float64(v) for k, v in found.items()}, expected, SPECTRAL)


def test_what_is_left_out_of_the_fisher_information_is_a_thousandth_of_its_trace() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((50, 20)) * rng.uniform(0, 30, (50, 1))
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    exact = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    rows, cotangents = cotangents_of_fisher(torch.from_numpy(logits))
    assert len(rows) < 500
    found = np.zeros_like(exact)
    for row, vector in zip(rows.tolist(), cotangents.numpy(), strict=True):
        found[row] += np.outer(vector, vector)
    left_out = np.trace(exact - found, axis1=1, axis2=2)
    assert (left_out > -1e-12).all()
    assert 0 < left_out.sum() < 1e-3 * np.trace(exact, axis1=1, axis2=2).sum()


def test_the_fisher_information_of_a_linear_softmax_model_has_its_closed_form() -> None:
    """Of W in softmax(W x): F[y, j] = Σ_x p_y (1 − p_y) x_j²."""
    rng = np.random.default_rng(1)
    weights, x = rng.standard_normal((5, 7)), rng.standard_normal((40, 7))
    p = np.exp(x @ weights.T)
    p /= p.sum(1, keepdims=True)
    inputs = torch.from_numpy(x)
    rows, cotangents = cotangents_of_fisher(torch.from_numpy(x @ weights.T), negligible=0.0)
    total = torch.zeros(5, 7, dtype=torch.float64)
    for run in example_gradients(
        lambda parameters, batch: batch @ parameters["W"].T,
        {"W": torch.from_numpy(weights)}, inputs, rows, cotangents,
    ):  # fmt: skip
        total += run["W"].square().sum(0)
    np.testing.assert_allclose(total.numpy(), (p * (1 - p)).T @ x**2, rtol=1e-10)


@pytest.mark.parametrize("off_diagonal", [0.95, 0.5])
def test_regmean_merges_by_what_is_measured(
    tower: Tower, tmp_path: Path, off_diagonal: float
) -> None:
    """From images to the merged model, against the model in numpy."""
    files = [collected(tower, task, tmp_path / f"{task}.gram") for task in range(3)]
    plan = plan_merge("regmean", {"off_diagonal": off_diagonal})
    merge_files(tower.base, tower.task_vectors, plan, tmp_path / "out", "clip", gram=files)
    expected = {key: np.mean([d[key] for d in tower.deltas], axis=0) for key in tower.start}
    found: list[dict[str, np.ndarray]] = [{} for _ in range(3)]
    for task, grams in enumerate(found):
        x = tower.images(task)
        for index in range(LAYERS + 2):
            grams |= numpy_vit.grams(tower.experts[task], index, x)
            x = numpy_vit.stage(tower.experts[task], index, x)
    for key in found[0]:
        weights = [expert[key] for expert in tower.experts]
        solved = numpy_vit.merged(key, weights, [grams[key] for grams in found], off_diagonal)
        expected[key] = solved - tower.start[key]
    assert_agree(read(tmp_path / "out"), expected, SPECTRAL)


def read(path: Path) -> dict[str, np.ndarray]:
    return {key: np.float64(value) for key, value in load_file(path).items()}


def plus_plus(tower: Tower, tasks: list[int], off_diagonal: float) -> dict[str, np.ndarray]:
    """RegMean++ as its authors have it, on whole weights."""
    groups = by_stage(CLIP, tower.start)
    x = [tower.images(task) for task in tasks]
    done: dict[str, np.ndarray] = {}
    for index, keys in enumerate(groups):
        experts = [tower.experts[task] for task in tasks]
        measured = [
            numpy_vit.grams(expert, index, inputs)
            for expert, inputs in zip(experts, x, strict=True)
        ]
        for key in keys:
            weights = [expert[key] for expert in experts]
            done[key] = (
                numpy_vit.merged(key, weights, [grams[key] for grams in measured], off_diagonal)
                if key in measured[0]
                else np.mean(weights, axis=0)
            )
        x = [numpy_vit.stage(done, index, inputs) for inputs in x]
    return {key: done[key] - tower.start[key] for key in done}


@pytest.mark.parametrize("off_diagonal", [0.95, 0.5])
@pytest.mark.parametrize("tasks", [[0, 1, 2], [2, 0, 1], [1]])
def test_regmean_plus_plus_measures_behind_the_merged_blocks(
    tower: Tower, tmp_path: Path, tasks: list[int], off_diagonal: float
) -> None:
    plan = plan_merge("regmean_plus_plus", {"off_diagonal": off_diagonal})
    experts = [tower.task_vectors[task] for task in tasks]
    merge_files(
        tower.base, experts, plan, tmp_path / "out", "clip", propagation=propagation(tower, tasks)
    )
    assert_agree(read(tmp_path / "out"), plus_plus(tower, tasks, off_diagonal), SPECTRAL)


def test_regmean_plus_plus_differs_from_regmean_behind_the_first_merged_stage(
    tower: Tower, tmp_path: Path
) -> None:
    files = [collected(tower, task, tmp_path / f"{task}.gram") for task in range(3)]
    merge_files(
        tower.base, tower.task_vectors, plan_merge("regmean"), tmp_path / "a", "clip", gram=files
    )
    merge_files(
        tower.base, tower.task_vectors, plan_merge("regmean_plus_plus"), tmp_path / "b", "clip",
        propagation=propagation(tower, [0, 1, 2]),
    )  # fmt: skip
    one, other = read(tmp_path / "a"), read(tmp_path / "b")
    changed = {key for key in one if not np.allclose(one[key], other[key], atol=1e-6)}
    assert changed == {key for key in one if key.endswith("proj") or key.endswith(
        ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight"))}  # fmt: skip


def test_the_same_images_give_the_same_bytes(tower: Tower, tmp_path: Path) -> None:
    for name, make in (("fisher", estimated), ("gram", collected)):
        files = [make(tower, 0, tmp_path / f"{name}{turn}") for turn in range(2)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_normalised_pixels_are_those_of_the_model_in_numpy(tower: Tower) -> None:
    image = ENCODER["image"]
    pixels = normalise(torch.from_numpy(tower.pixels[0]), image["mean"], image["std"])
    np.testing.assert_allclose(pixels.numpy(), tower.images(0), atol=1e-6)
