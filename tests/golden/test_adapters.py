"""Adapters against their formulas, stated in float64 on whole merged models."""

import numpy as np
import pytest
import torch
from small_clip import MLP, TASKS, Files

from mergeloom.adaptive.adapter import adapters, build, centre_of, get_adapter, group_means
from mergeloom.adaptive.methods import concrete
from mergeloom.adaptive.methods.wemoe import Router
from mergeloom.adaptive.mixture import Mixture
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.precision import computing_in

SIZE = 5  # of the features


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def features():
    return torch.randn(6, SIZE, generator=torch.Generator().manual_seed(2))


def made(files, method, vectors=None, seed=0, **parameters):
    centre = centre_of(get_adapter(method).check(parameters))
    mixture = Mixture(files.encoder, files.base, vectors or files.vectors, "cpu", centre=centre)
    adapter = build(mixture, method, parameters, SIZE, seed)
    if method == "smile":
        adapter.fit(None)
    return adapter


def outputs(adapter, images, features, groups=6):
    with torch.no_grad(), adapter.applied(features, groups):
        return adapter.mixture.tower(images).double()


def assert_close(found, expected, tolerance=1e-5):
    expected = expected.detach()
    np.testing.assert_allclose(found, expected, atol=tolerance * float(expected.abs().max()))


def shaken(adapter, scale=0.5, seed=3):
    """The adapter with other values of all that is trained."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, adapter.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=scale)
    return adapter


@pytest.mark.parametrize("per", ["task", "layer"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_at_step_zero_the_gate_is_task_arithmetic_to_the_bit(files, images, features, per, groups):
    gate = made(files, "gate", per=per)
    assert torch.all(gate.coefficients(features * 1e3, groups) == torch.tensor(0.3))
    with torch.no_grad(), gate.mixture.mixed(torch.full((1, TASKS), 0.3)):
        arithmetic = gate.mixture.tower(images)
    assert torch.equal(outputs(gate, images, features, groups), arithmetic.double())
    assert_close(arithmetic, files.features(files.merged([0.3] * TASKS), images))


def test_the_gate_is_its_formula_and_its_model_the_merge_of_every_input(files, images, features):
    gate = shaken(made(files, "gate"))
    state = {name: tensor.double().numpy() for name, tensor in gate.state().items()}
    hidden = np.maximum(
        features.double().numpy() @ state["hidden_weight"].T + state["hidden_bias"], 0
    )
    expected = hidden @ state["weight"].T + state["bias"]
    np.testing.assert_allclose(
        gate.coefficients(features, 6).detach().numpy(), expected, rtol=1e-5, atol=1e-6
    )
    means = expected.reshape(2, 3, TASKS).mean(axis=1)
    np.testing.assert_allclose(
        gate.coefficients(features, 2).detach().numpy(), means, rtol=1e-5, atol=1e-6
    )
    naive = torch.cat([
        files.features(files.merged(row), image[None])
        for row, image in zip(expected, images, strict=True)
    ])  # fmt: skip
    assert_close(outputs(gate, images, features), naive, 1e-4)


def test_a_fresh_gate_hides_as_torch_initialises_and_its_seed_decides(files):
    first, again, other = (made(files, "gate", seed=seed).state() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden_weight"], other["hidden_weight"])
    bound = 1 / np.sqrt(SIZE)
    assert 0.7 * bound < float(first["hidden_weight"].abs().max()) <= bound


def test_of_equal_inputs_a_batch_has_the_coefficients_of_each(files, features):
    gate = shaken(made(files, "gate"))
    same = features[:1].expand(6, -1)
    each, together = gate.coefficients(same, 6), gate.coefficients(same, 1)
    torch.testing.assert_close(each, together.expand(6, -1))


def test_a_mean_of_equal_rows_is_the_row_to_the_bit():
    rows = torch.full((7, 3), 0.3)
    assert torch.equal(group_means(rows, 1), rows[:1])
    values = torch.randn(6, 2)
    torch.testing.assert_close(group_means(values, 3), values.view(3, 2, 2).mean(dim=1))


@pytest.mark.parametrize("method", ["gate", "adamerging"])
def test_layers_with_equal_columns_are_tasks(files, images, features, method):
    by_task, by_layer = (made(files, method, per=per) for per in ("task", "layer"))
    shaken(by_task, 0.2)
    layers = len(by_layer.mixture.keys)
    state = by_task.state()
    by_layer.load({
        name: value if name.startswith("hidden") else value.repeat_interleave(layers, dim=0)
        if method == "gate" else value[:, None].expand(-1, layers)
        for name, value in state.items()
    })  # fmt: skip
    assert by_layer.coefficients(features, 6).shape[1:] == (TASKS, layers)
    assert torch.equal(outputs(by_layer, images, features), outputs(by_task, images, features))


@pytest.mark.parametrize("method", ["gate", "adamerging", "wemoe"])
def test_the_order_of_the_experts_is_that_of_what_is_trained(files, images, features, method):
    order = [2, 0, 1]
    plain = shaken(made(files, method), 0.1)
    permuted = made(files, method, vectors=[files.vectors[k] for k in order])
    state = plain.state()
    last = ("weight", "bias", "values")
    permuted.load({
        name: value[order] if name.split(".")[-1] in last else value
        for name, value in state.items()
    })  # fmt: skip
    assert_close(outputs(permuted, images, features), outputs(plain, images, features))


def test_adamerging_is_one_merge_with_clamped_coefficients(files, images):
    adapter = made(files, "adamerging", per="layer")
    values = shaken(adapter, 2.0).state()["values"].double()
    assert float(values.min()) < 0
    assert float(values.max()) > 1
    places = {key: place for place, key in enumerate(adapter.mixture.keys)}
    weights = {
        key: start + sum(
            min(max(float(values[k, places[key]]), 0), 1) * delta
            for k, delta in enumerate(files.deltas[key])
        )
        for key, start in files.start.items()
    }  # fmt: skip
    assert_close(outputs(adapter, images, None), files.features(weights, images), 1e-4)
    free = made(files, "adamerging", per="layer", clamp=False)
    free.load(adapter.state())
    assert float(free.coefficients(None, 1).detach().min()) < 0


def test_the_gradient_of_adamerging_is_that_of_the_entropy(files, images):
    """Against a central difference of the entropy of a merged model in float64."""
    adapter = made(files, "adamerging", per="task")
    head = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))

    def entropy(features):
        p = (torch.nn.functional.normalize(features, dim=-1) @ head.to(features).T).softmax(dim=-1)
        return -(p * p.log()).sum(dim=-1).mean()

    def loss():
        with adapter.applied(None, 1):
            return entropy(adapter.mixture.tower(images))

    adapter.gradients(0, loss)
    step = 1e-4
    for task in range(TASKS):
        ends = []
        for sign in (-1, 1):
            coefficients = [0.3 + sign * step * (k == task) for k in range(TASKS)]
            ends.append(float(entropy(files.features(files.merged(coefficients), images))))
        expected = (ends[1] - ends[0]) / (2 * step)
        assert float(adapter.values.grad[task]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_wemoe_without_layers_is_adamerging_of_the_perceptrons(files, images):
    adapter = shaken(made(files, "wemoe", depth=0), 0.3)
    blocks = [router.bias.double().tolist() for router in adapter.routers]
    weights = files.merged([0.3] * TASKS)
    for key in weights:
        if MLP in key:
            block = int(key.split(".resblocks.")[1].split(".")[0])
            weights[key] = files.start[key] + sum(
                c * d for c, d in zip(blocks[block], files.deltas[key], strict=True)
            )
    assert_close(outputs(adapter, images, None), files.features(weights, images), 1e-4)
    assert adapter.trainable == 2 * TASKS


def test_a_router_of_wemoe_sees_the_tokens_that_its_perceptron_is_fed(files, images):
    """Of the first block, in float64: what it is fed, and the mean of the formula over tokens."""
    adapter = shaken(made(files, "wemoe"), 0.2)
    seen = []
    adapter.observer = lambda layer, weights: seen.append((layer, weights))
    found = outputs(adapter, images, None, groups=6)
    adapter.observer = None
    tower, fed = files._tower, []
    handle = tower.transformer.resblocks[0].mlp.register_forward_pre_hook(
        lambda module, arguments: fed.append(arguments[0])
    )
    expected = []
    for index, image in enumerate(images):
        weights = files.merged([0.3] * TASKS)
        for block, (key, chosen) in enumerate(seen):
            assert f".{block}.mlp." in key
            for name in weights:
                if f".resblocks.{block}{MLP}" in name:
                    weights[name] = files.start[name] + sum(
                        c * d
                        for c, d in zip(chosen[index].double(), files.deltas[name], strict=True)
                    )
        expected.append(files.features(weights, image[None]))
    handle.remove()
    assert_close(found, torch.cat(expected), 1e-4)
    router = {n: p.detach().double() for n, p in adapter.routers[0].named_parameters()}
    tokens = torch.cat(fed).detach()
    hidden = (tokens @ router["hidden_weight"].T + router["hidden_bias"]).relu()
    by_hand = (hidden @ router["weight"].T + router["bias"]).mean(dim=1)
    np.testing.assert_allclose(seen[0][1].double(), by_hand, rtol=1e-3, atol=1e-5)


def test_under_autocast_a_router_and_a_masked_gain_are_those_of_float32(files):
    router = shaken(made(files, "wemoe"), 0.2)
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(4))
    masked = made(files, "concrete_task_arithmetic")
    seen = []
    router.observer = lambda layer, weights: seen.append(weights)
    gains = []
    for precision in ("float32", "bfloat16"):
        with torch.no_grad(), router.applied(None, 2), computing_in(precision, "cpu"):
            router.blocks[0].module(tokens)
        with torch.no_grad(), masked.applied(None, 1), computing_in(precision, "cpu"):
            gains.append(masked.mixture.entries("visual.ln_post.weight", torch.empty(1, 16)))
    assert seen[1].dtype == torch.float32
    assert torch.equal(*seen)
    assert torch.equal(*gains)


def test_in_a_batch_wemoe_takes_the_mean_over_the_inputs(files, images):
    adapter = shaken(made(files, "wemoe"), 0.2)
    seen = {}
    for groups in (6, 2):
        adapter.observer = lambda layer, weights, g=groups: seen.setdefault((g, layer), weights)
        outputs(adapter, images, None, groups)
    first = adapter.blocks[0].keys[0]
    torch.testing.assert_close(seen[2, first], seen[6, first].view(2, 3, TASKS).mean(dim=1))


def test_e_wemoe_keeps_a_tenth_of_each_vector_and_has_one_router(files, images):
    adapter = made(files, "e_wemoe", keep=0.1)
    for key, stack in adapter.mixture.stacks.items():
        assert MLP in key
        for vector, delta in zip(stack.double(), files.deltas[key], strict=True):
            cut = np.quantile(delta.abs().numpy(), 0.9)
            np.testing.assert_array_equal(vector, torch.where(delta.abs() > cut, delta, 0.0))
    width = 16
    assert adapter.trainable == width * width + width + TASKS * width + TASKS
    # Routers of constants: the base of the mixture is task arithmetic of the pruned vectors.
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name.endswith("weight"):
                parameter.zero_()
    weights = files.merged([0.3] * TASKS)
    for key, stack in adapter.mixture.stacks.items():
        weights[key] = files.start[key] + 0.3 * stack.double().sum(dim=0)
    assert_close(outputs(adapter, images, None), files.features(weights, images))


def test_wemoe_has_the_parameters_of_the_paper():
    """7.16 M are trained and 573.96 M stored of ViT-B-32 and eight experts, open_clip's dead text
    tensors (25.6 M) included."""
    width, blocks, experts = 768, 12, 8
    router = Router(width, experts, 2, 0.3, torch.Generator())
    trained = blocks * sum(parameter.numel() for parameter in router.parameters())
    assert trained == pytest.approx(7.16e6, rel=1e-3)
    mlp = 2 * 4 * width * width + 5 * width
    assert 113.45e6 + experts * blocks * mlp + trained == pytest.approx(573.96e6, rel=1e-3)


def test_what_is_stored_is_counted(files):
    base = sum(tensor.numel() for tensor in files.start.values())
    mlp = sum(t.numel() for key, t in files.start.items() if MLP in key)
    gate = made(files, "gate")
    assert gate.trainable == SIZE * SIZE + SIZE + TASKS * SIZE + TASKS
    assert gate.stored == base + TASKS * base + gate.trainable
    assert made(files, "adamerging").stored == base
    wemoe = made(files, "wemoe")
    assert wemoe.stored == base + TASKS * mlp + wemoe.trainable
    sparse = made(files, "e_wemoe", keep=0.1)
    kept = sum(int((stack != 0).sum()) for stack in sparse.mixture.stacks.values())
    assert kept == pytest.approx(0.1 * TASKS * mlp, rel=0.1)
    assert sparse.stored == base + kept + sparse.trainable


def linear_keys(files):
    return [
        key for key, value in files.start.items()
        if value.ndim == 2 and not key.endswith("positional_embedding")
    ]  # fmt: skip


def test_smile_has_no_experts_of_embeddings(files):
    adapter = made(files, "smile")
    assert sorted(adapter.experts) == sorted(linear_keys(files))


@pytest.mark.parametrize("rank", [0, 64])
def test_smile_with_one_expert_at_full_rank_is_its_finetuned_linear_layers(files, images, rank):
    adapter = made(files, "smile", vectors=files.vectors[:1], rank=rank, gate_rank=2)
    linear = linear_keys(files)
    biases = [k.removesuffix("weight") + "bias" for k in linear if k.endswith("weight")]
    weights = {
        key: start + files.deltas[key][0] if key in (*linear, *biases) else start
        for key, start in files.start.items()
    }
    assert_close(outputs(adapter, images, None), files.features(weights, images), 1e-4)


def test_a_token_of_smile_gets_the_expert_whose_subspace_holds_it(files):
    adapter = made(files, "smile", gate_rank=3, rank=2)
    key = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    tokens = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad(), adapter.applied(None, 2):
        found = adapter.mixture.linear(key, tokens).double()
        shifted = adapter.mixture.entries(key.replace("weight", "bias"), found.float()).double()
    x = tokens.double().numpy()
    start, bias = files.start[key].numpy(), key.replace("weight", "bias")
    for i, j in np.ndindex(2, 4):
        parts = [np.linalg.svd(d.numpy(), full_matrices=False) for d in files.deltas[key]]
        logits = np.array([np.linalg.norm(Vt[:3] @ x[i, j]) for _, _, Vt in parts])
        chosen = logits.argmax()
        U, S, Vt = parts[chosen]
        expected = start @ x[i, j] + (U[:, :2] * S[:2]) @ Vt[:2] @ x[i, j]
        np.testing.assert_allclose(found[i, j], expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(
            shifted[i, j], files.start[bias] + files.deltas[bias][chosen], atol=1e-5
        )


def test_two_experts_of_smile_share_a_token_by_the_softmax_of_their_norms(files):
    adapter = made(files, "smile", gate_rank=3, top=2)
    gate = torch.randn(TASKS, 3, 16, generator=torch.Generator().manual_seed(4))
    token = torch.randn(1, 16, generator=torch.Generator().manual_seed(5))
    norms = np.array([np.linalg.norm(g.double().numpy() @ token[0].double().numpy()) for g in gate])
    shares = np.exp(norms - norms.max())
    shares[norms.argmin()] = 0
    np.testing.assert_allclose(adapter.routing(gate, token)[0], shares / shares.sum(), rtol=1e-5)


def test_what_smile_stored_is_what_it_computes_with(files, images):
    fitted = made(files, "smile")
    centre = Mixture(files.encoder, files.base, files.vectors, "cpu", centre=0.0)
    loaded = build(centre, "smile", {}, None, 0)
    loaded.load(fitted.state())
    assert torch.equal(outputs(loaded, images, None), outputs(fitted, images, None))


def test_concrete_with_a_mask_of_ones_is_task_arithmetic(files, images):
    adapter = made(files, "concrete_task_arithmetic")
    with torch.no_grad():
        for logits in adapter.logits:
            logits.fill_(1e4)
    expected = files.features(files.merged([0.3] * TASKS), images)
    assert_close(outputs(adapter, images, None), expected)


def test_a_mask_of_concrete_has_mean_one_and_belongs_to_its_seed(files, images):
    found = [
        outputs(made(files, "concrete_task_arithmetic", seed=s), images, None) for s in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=1e-3)
    adapter = shaken(made(files, "concrete_task_arithmetic", temperature=0.7))
    key = adapter.mixture.keys[0]
    mask = adapter.mask(0).detach().double()
    assert float(mask.mean()) == pytest.approx(1, abs=1e-6)
    weights = files.merged([0.3] * TASKS)
    for index, name in enumerate(adapter.mixture.keys):
        mask = adapter.mask(index).detach().double()
        weights[name] = files.start[name] + mask * 0.3 * sum(files.deltas[name])
    assert key in weights
    assert_close(outputs(adapter, images, None), files.features(weights, images))


def spread(adapter, images):
    """Something to minimise, as a function of the adapted model."""

    def loss():
        with adapter.applied(None, 1):
            return adapter.mixture.tower(images).square().mean()

    return loss


def test_concrete_adamerging_trains_the_mask_and_then_coefficients_under_a_fixed_one(files, images):
    adapter = made(files, "concrete_adamerging", per="task", mask_steps=2)
    adapter.gradients(0, spread(adapter, images))
    assert adapter.values.grad is None
    assert all(logits.grad is not None for logits in adapter.logits)
    assert torch.all(adapter.values == 0.3), "the step of the coefficients is undone"
    adapter.zero_grad(set_to_none=True)
    adapter.gradients(2, spread(adapter, images))
    assert all(logits.grad is None for logits in adapter.logits)
    masks = [adapter.mask(i).double() for i in range(len(adapter.logits))]
    step = 1e-4
    for task in range(TASKS):
        ends = []
        for sign in (-1, 1):
            weights = {
                key: files.start[key] + mask * sum(
                    (0.3 + sign * step * (k == task)) * d for k, d in enumerate(files.deltas[key])
                )
                for key, mask in zip(adapter.mixture.keys, masks, strict=True)
            }  # fmt: skip
            ends.append(float(files.features(weights, images).square().mean()))
        expected = (ends[1] - ends[0]) / (2 * step)
        assert float(adapter.values.grad[task]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_mask_learns_at_coefficients_that_took_one_step_of_adam(files, images):
    """Whose first step is lr times the sign of the gradient: coefficients of a mask's gradient."""
    adapter = made(files, "concrete_adamerging", per="task", inner_lr=0.2)
    seen = []
    inner = spread(adapter, images)

    def loss():
        seen.append(adapter.values_of(0).detach().clone())
        return inner()

    adapter.gradients(0, loss)
    assert torch.all(seen[0] == 0.3)
    np.testing.assert_allclose((seen[1] - seen[0]).abs(), 0.2, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 2])
def test_the_noise_of_a_step_is_drawn_once_for_both_of_its_passes(files, images, step, monkeypatch):
    found, draw = [], concrete.generator
    for keeps in (True, False):
        adapter = shaken(made(files, "concrete_adamerging", mask_steps=3, inner_lr=0.2), 0.1)
        drawn = []
        with monkeypatch.context() as patch:
            patch.setattr(concrete, "generator", lambda *s, d=drawn: d.append(s[1:]) or draw(*s))
            if not keeps:
                patch.setattr(
                    concrete.Concrete, "_noise", property(lambda s: None, lambda s, v: None),
                    raising=False,
                )  # fmt: skip
            adapter.gradients(step, spread(adapter, images))
        places = [(step, index) for index in range(len(adapter.logits))]
        assert sorted(set(drawn)) == places
        assert len(drawn) == len(places) or not keeps
        found.append([logits.grad for logits in adapter.logits])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_the_classifier_routes_inputs_to_the_expert_of_their_task(files, images):
    random = torch.Generator().manual_seed(0)
    centres = 4 * torch.eye(TASKS, SIZE)
    clouds = [c + torch.randn(20, SIZE, generator=random) * 0.3 for c in centres]
    adapter = made(files, "task_classifier")
    adapter.fit(clouds)
    of_tasks = torch.stack([cloud[0] for cloud in clouds]).repeat_interleave(2, dim=0)
    assert torch.equal(adapter.coefficients(of_tasks, 6), torch.eye(TASKS).repeat_interleave(2, 0))
    expected = torch.cat([
        files.features(files.merged(torch.eye(TASKS)[k].tolist()), images[2 * k : 2 * k + 2])
        for k in range(TASKS)
    ])  # fmt: skip
    assert_close(outputs(adapter, images, of_tasks), expected, 1e-4)
    torch.testing.assert_close(adapter.coefficients(of_tasks, 1), torch.full((1, TASKS), 1 / TASKS))
    assert adapter.trainable == 0


def test_an_adapter_that_needs_features_and_parameters_that_do_not_exist_are_named(
    files, monkeypatch
):
    mixture = Mixture(files.encoder, files.base, files.vectors, "cpu")
    with pytest.raises(MergeloomError, match="chooses by features"):
        build(mixture, "gate", {}, None, 0)
    with pytest.raises(MergeloomError, match="adapter gate has no parameter depth"):
        build(mixture, "gate", {"depth": 2}, SIZE, 0)
    with pytest.raises(MergeloomError, match="adapter wemoe: depth is 1, expected one of 0, 2"):
        build(mixture, "wemoe", {"depth": 1}, None, 0)
    monkeypatch.setattr(type(mixture.family), "modality", "text")
    for method in ("wemoe", "e_wemoe"):
        with pytest.raises(MergeloomError, match=f"{method} serves encoders of images, and this"):
            build(mixture, method, {}, None, 0)
    with pytest.raises(
        MergeloomError, match=r"There is no adapter 'gates'\. There are: adamerging"
    ):
        get_adapter("gates")


def test_every_adapter_says_where_it_is_from():
    for name, entry in adapters().items():
        assert entry.function.__doc__, name
        assert entry.arxiv or name in ("gate", "task_classifier")
