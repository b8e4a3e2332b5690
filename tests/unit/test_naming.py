"""What the namings say of the names that open_clip, transformers and torchvision give."""

import pytest
import torch
from safetensors.torch import save_file

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile
from mergeloom.merging.sources import trainable_layout
from mergeloom.models.naming import Place, Shape, naming, natural, places, recognise
from mergeloom.models.torchvision_cure import cure_torchvision

TOWER = {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 11}
TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def vit() -> dict[str, Shape]:
    """Names and shapes of open_clip's ViT of 11 blocks, both towers."""
    cure_torchvision()
    from open_clip.model import CLIP

    model = CLIP(embed_dim=8, vision_cfg=TOWER, text_cfg=TEXT)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def torchvision(name: str) -> dict[str, Shape]:
    """Names and shapes of a network of torchvision."""
    cure_torchvision()
    import torchvision.models

    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def t5(layers: int = 2) -> dict[str, Shape]:
    """Names and shapes of a T5ForConditionalGeneration as transformers names them."""
    shapes: dict[str, Shape] = {
        "shared.weight": (100, 16),
        "encoder.embed_tokens.weight": (100, 16),
        "decoder.embed_tokens.weight": (100, 16),
        "encoder.final_layer_norm.weight": (16,),
        "decoder.final_layer_norm.weight": (16,),
        "lm_head.weight": (100, 16),
    }
    sides = {"encoder": ["SelfAttention"], "decoder": ["SelfAttention", "EncDecAttention"]}
    for side, parts in sides.items():
        for block in range(layers):
            stem = f"{side}.block.{block}.layer."
            for index, part in enumerate(parts):
                shapes |= {f"{stem}{index}.{part}.{name}.weight": (16, 16) for name in "qkvo"}
                shapes[f"{stem}{index}.layer_norm.weight"] = (16,)
            shapes[f"{stem}{len(parts)}.DenseReluDense.wi.weight"] = (32, 16)
            shapes[f"{stem}{len(parts)}.DenseReluDense.wo.weight"] = (16, 32)
        shapes[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 4)
    return shapes


def of_kind(found: dict[str, Place], kind: str) -> set[str]:
    return {key for key, place in found.items() if place.kind == kind}


def depths_of_blocks(found: dict[str, Place]) -> list[float]:
    return sorted({place.depth for place in found.values() if place.stack})


def test_clip_trains_the_image_tower_alone(vit: dict[str, Shape]) -> None:
    found = places(naming("clip"), vit)
    assert set(found) == {key for key in vit if key.startswith("visual.")}
    assert "text_projection" in vit
    assert "positional_embedding" in vit


def test_matrices_of_clip_are_those_of_two_dimensions(vit: dict[str, Shape]) -> None:
    found = places(naming("clip"), vit)
    assert of_kind(found, "matrix") == {k for k in found if len(vit[k]) == 2}
    assert found["visual.conv1.weight"].kind == "vector"
    assert found["visual.transformer.resblocks.3.attn.in_proj_weight"].kind == "matrix"


def test_depth_of_clip_goes_from_0_at_the_first_block_to_1_at_the_last(
    vit: dict[str, Shape],
) -> None:
    found = places(naming("clip"), vit)
    for block in range(11):  # 10 comes after 9 and not after 1
        key = f"visual.transformer.resblocks.{block}.mlp.c_fc.bias"
        assert found[key].depth == pytest.approx(block / 10)
        assert found[key].stack == "visual.transformer.resblocks.{}.mlp.c_fc.bias"
    for key in ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight"):
        assert (found[f"visual.{key}"].depth, found[f"visual.{key}"].stack) == (0, None)
    for key in ("ln_post.weight", "ln_post.bias", "proj"):
        assert (found[f"visual.{key}"].depth, found[f"visual.{key}"].stack) == (1, None)


def test_clip_has_4L_plus_3_linear_maps_in_the_order_of_their_use(vit: dict[str, Shape]) -> None:
    place = places(naming("clip"), vit)["visual.proj"]
    block = ["attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"]
    assert place.atoms == (
        "visual.conv1.weight",
        "visual.positional_embedding",
        *(f"visual.transformer.resblocks.{i}.{name}" for i in range(11) for name in block),
        "visual.proj",
    )
    assert place.embeddings == ("visual.positional_embedding",)


def test_tables_of_t5_are_vectors_and_all_other_two_dimensional_tensors_matrices() -> None:
    shapes = t5()
    tables = {key for key in shapes if "attention_bias" in key or shapes[key] == (100, 16)}
    found = places(naming("t5"), shapes)
    assert of_kind(found, "matrix") == {k for k in shapes if len(shapes[k]) == 2} - tables
    assert len(tables) == 6


def test_copies_of_the_shared_table_of_t5_are_treated_like_it() -> None:
    found = places(naming("t5"), t5())
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
    assert {found[key].kind for key in copies} == {found["shared.weight"].kind}


def test_the_decoder_of_t5_comes_after_the_encoder() -> None:
    found = places(naming("t5"), t5(layers=12))
    for index in range(24):
        side, block = ("encoder", "decoder")[index // 12], index % 12
        place = found[f"{side}.block.{block}.layer.0.SelfAttention.q.weight"]
        assert place.depth == pytest.approx(index / 23)
        assert place.stack == side + ".block.{}.layer.0.SelfAttention.q.weight"
    assert found["shared.weight"].depth == 0
    assert found["lm_head.weight"].depth == 1


def test_a_resnet_has_its_residual_blocks_in_order() -> None:
    found = places(naming("cnn"), torchvision("resnet50"))
    counts = [3, 4, 6, 3]
    names = [f"layer{s + 1}.{i}" for s, count in enumerate(counts) for i in range(count)]
    for index, name in enumerate(names):
        assert found[f"{name}.conv2.weight"].depth == pytest.approx(index / 15)
    assert depths_of_blocks(found) == pytest.approx([index / 15 for index in range(16)])
    outside = {key: place.depth for key, place in found.items() if place.stack is None}
    norm = ["weight", "bias", "running_mean", "running_var"]
    assert outside == {
        "conv1.weight": 0,
        **{f"bn1.{name}": 0 for name in norm},
        "fc.weight": 1,
        "fc.bias": 1,
    }


def test_the_only_matrix_of_a_resnet_is_its_classifier_and_counters_are_frozen() -> None:
    shapes = torchvision("resnet18")
    found = places(naming("cnn"), shapes)
    assert of_kind(found, "matrix") == {"fc.weight"}
    assert set(shapes) - set(found) == {k for k in shapes if k.endswith("num_batches_tracked")}
    assert found["fc.weight"].atoms[0] == "conv1.weight"
    assert found["fc.weight"].atoms[-1] == "fc.weight"
    assert len(found["fc.weight"].atoms) == 21  # 17 convolutions, 3 shortcuts, the classifier


def test_a_vgg_goes_through_its_features_to_the_classifier() -> None:
    shapes = torchvision("vgg16_bn")
    found = places(naming("cnn"), shapes)
    features = sorted({int(k.split(".")[1]) for k in shapes if k.startswith("features.")})
    for index, number in enumerate(features):
        key = f"features.{number}.weight"
        assert found[key].depth == pytest.approx(index / (len(features) - 1))
    matrices = {"classifier.0.weight", "classifier.3.weight", "classifier.6.weight"}
    assert of_kind(found, "matrix") == matrices
    assert all(found[key].depth == 1 and found[key].stack is None for key in matrices)


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_0", "googlenet", "vit_b_16"])
@pytest.mark.parametrize("family", ["cnn", "generic"])
def test_every_parameter_of_any_network_has_a_place(name: str, family: str) -> None:
    shapes = {k: s for k, s in torchvision(name).items() if not k.endswith("tracked")}
    found = places(naming(family), shapes)
    assert set(found) == set(shapes)
    assert all(0 <= place.depth <= 1 for place in found.values())


def test_generic_takes_every_floating_point_tensor_and_no_other(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"a.weight": torch.ones(2, 3), "scale": torch.ones(()), "ids": torch.arange(4)}
    save_file(tensors, path)
    with TensorFile(path) as file:
        layout = trainable_layout(file, naming("generic"))
    assert set(layout.shapes) == {"a.weight", "scale"}
    found = places(naming("generic"), layout.shapes)
    assert (found["a.weight"].kind, found["scale"].kind) == ("matrix", "vector")


def test_generic_finds_the_layers_of_a_perceptron() -> None:
    shapes: dict[str, Shape] = {f"net.{i}.weight": (4, 4) for i in (0, 2, 4, 10)}
    found = places(naming("generic"), shapes)
    assert [found[f"net.{i}.weight"].depth for i in (0, 2, 4, 10)] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert {place.stack for place in found.values()} == {"net.{}.weight"}
    assert found["net.0.weight"].atoms == tuple(shapes)


def test_generic_finds_blocks_whose_number_ends_a_name() -> None:
    found = places(naming("generic"), torchvision("vit_b_16"))
    key = "encoder.layers.encoder_layer_{}.mlp.0.weight"
    assert [found[key.format(i)].depth for i in range(12)] == pytest.approx(
        [i / 11 for i in range(12)]
    )
    assert {found[key.format(i)].stack for i in range(12)} == {key}


def test_generic_puts_an_encoder_before_a_decoder() -> None:
    sides = ("decoder", "encoder")
    keys = [f"model.{side}.layers.{i}.fc1.weight" for side in sides for i in (0, 1)]
    shapes: dict[str, Shape] = dict.fromkeys(keys, (4, 4))
    found = places(naming("generic"), shapes)
    ordered = sorted(found, key=lambda key: found[key].depth)
    assert [key.split(".")[1] for key in ordered] == ["encoder"] * 2 + ["decoder"] * 2


def test_generic_tells_what_comes_before_the_blocks_from_what_comes_after() -> None:
    shapes: dict[str, Shape] = {f"h.{i}.mlp.weight": (4, 4) for i in range(3)}
    before = ["wte.weight", "wpe.weight", "embeddings.cls_token", "patch_embed.proj.weight"]
    after = ["ln_f.weight", "lm_head.weight", "embed_out.weight", "classifier.bias"]
    shapes |= dict.fromkeys(before + after, (4, 4))
    found = places(naming("generic"), shapes)
    assert [found[key].depth for key in before] == [0] * 4
    assert [found[key].depth for key in after] == [1] * 4


def test_a_model_without_blocks_has_only_a_beginning_and_an_end() -> None:
    found = places(naming("generic"), {"embed.weight": (4, 4), "head.weight": (4, 4)})
    assert (found["embed.weight"].depth, found["head.weight"].depth) == (0, 1)


def test_the_only_block_is_the_first_one() -> None:
    found = places(naming("generic"), {"layers.0.weight": (4, 4), "head.weight": (4, 4)})
    assert (found["layers.0.weight"].depth, found["head.weight"].depth) == (0, 1)


def test_numbers_in_names_sort_by_value() -> None:
    names = ["b.10.w", "b.9.w", "a", "b.9.v", "10.w", "2.w"]
    assert sorted(names, key=natural) == ["2.w", "10.w", "a", "b.9.v", "b.9.w", "b.10.w"]


def test_families_are_recognised_by_the_names_of_parameters(vit: dict[str, Shape]) -> None:
    assert recognise(vit) == "clip"
    assert recognise(t5()) == "t5"
    for name in ("resnet18", "resnet50", "vgg16_bn", "alexnet", "mobilenet_v2"):
        assert recognise(torchvision(name)) == "cnn"
    for keys in (["0.weight", "2.weight"], ["h.0.attn.c_attn.weight"], []):
        assert recognise(keys) == "generic"


def test_an_unknown_family_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(MergeloomError, match=r"'clpi'.*clip, cnn, generic, t5"):
        naming("clpi")
