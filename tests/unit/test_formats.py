"""Public checkpoint formats: the converted model gives what the source model gives."""

import json
import logging
import math
import re
import shutil

import pytest
import torch
from clip_models import (
    TINY,
    architecture_of,
    images,
    open_clip,
    open_clip_model,
    transformers,
    transformers_config,
    transformers_model,
    write_base,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mergeloom.errors import MergeloomError
from mergeloom.io.hub import named
from mergeloom.models.clip import Clip
from mergeloom.models.formats.architecture import vision_of
from mergeloom.models.formats.card import Facts, expert, model_card
from mergeloom.models.formats.encoder import read_base
from mergeloom.models.formats.exporting import (
    OPENAI,
    Export,
    text_config,
    write_open_clip,
    write_transformers,
)
from mergeloom.models.formats.importing import open_checkpoint, write_checkpoint
from mergeloom.models.formats.probe import probe_images, probe_record

BLOCK = "visual.transformer.resblocks.1."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"), TINY)


def convert(source, out, base=None, architecture=TINY):
    """Import a checkpoint and load what was written into open_clip's own tower."""
    opened, vision = open_checkpoint(source, base and read_base(base), architecture)
    write_checkpoint(opened, vision, out, {"note": "x"})
    return load_file(out)


def features_of(tower, architecture, batch):
    with torch.device("meta"):
        model = open_clip.model.CLIP(**architecture)
    state = {key.removeprefix("visual."): tensor for key, tensor in tower.items()}
    model.visual.load_state_dict(state, assign=True)
    with torch.no_grad():
        return model.eval().encode_image(batch)


def gap(one, other):
    return float((one - other).norm() / other.norm())


# Both ways, for the real architectures.


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu"])
def test_both_ways_between_transformers_and_open_clip_logits_stay(name, tmp_path):
    architecture = architecture_of(name)
    files = write_base(tmp_path, architecture, text=False)
    batch = images(224)
    head = torch.randn(10, architecture["embed_dim"])

    # A checkpoint of transformers to open_clip.
    source = transformers_model(architecture, "CLIPVisionModel")
    source.save_pretrained(tmp_path / "hf")
    tower = convert(tmp_path / "hf", tmp_path / "in.safetensors", files.base, None)
    with torch.no_grad():
        expected = source(batch).pooler_output @ files.model.visual.proj
    assert gap(features_of(tower, architecture, batch) @ head.T, expected @ head.T) < 1e-5

    # A model of open_clip to transformers.
    opened, vision = open_checkpoint(files.base, None, {"open_clip": name})
    write_transformers(Export(opened, vision, Facts("x"), {}, OPENAI), tmp_path / "out")
    kind = transformers.CLIPVisionModelWithProjection
    with torch.no_grad():
        exported = kind.from_pretrained(tmp_path / "out")(batch).image_embeds
        assert gap(exported @ head.T, files.model.encode_image(batch) @ head.T) < 1e-5


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_every_spelling_of_transformers_is_read(kind, prefix, weights, tiny, tmp_path):
    source = transformers_model(TINY, kind)
    folder = tmp_path / "hf"
    source.save_pretrained(folder)
    state = {
        (prefix if kind == "CLIPVisionModel" else "") + key: value
        for key, value in source.state_dict().items()
    }
    inner = prefix if kind == "CLIPVisionModel" else "vision_model."
    state[inner + "embeddings.position_ids"] = torch.arange(5)[None]
    (folder / "model.safetensors").unlink()
    if weights.endswith(".bin"):
        torch.save(state, folder / weights)
    else:
        save_file(state, folder / weights)
    tower = convert(folder, tmp_path / "out.safetensors", tiny.base)
    with torch.no_grad():
        found = source(images(32))
        expected = (
            found.image_embeds
            if "Projection" in kind
            else found.pooler_output @ tiny.model.visual.proj
        )
    assert gap(features_of(tower, TINY, images(32)), expected) < 1e-5
    assert set(tower) == {"visual." + key for key in tiny.model.visual.state_dict()}


def test_a_whole_clip_of_transformers_is_read(tmp_path):
    config = transformers.CLIPConfig(
        vision_config=transformers_config(TINY).to_dict(),
        text_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "vocab_size": 49408},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    source = transformers.CLIPModel(config).eval()
    source.save_pretrained(tmp_path / "hf")
    tower = convert(tmp_path / "hf", tmp_path / "out.safetensors", architecture=None)
    with torch.no_grad():
        expected = source.visual_projection(source.vision_model(images(32)).pooler_output)
    assert gap(features_of(tower, TINY, images(32)), expected) < 1e-5


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "image_encoder.model."])
def test_state_dicts_of_open_clip_lose_prefix_and_text_and_nothing_else(
    prefix, tiny, tmp_path, caplog
):
    state = tiny.model.state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith("transformer.")}
    torch.save({prefix + key: value for key, value in kept.items()}, tmp_path / "finetuned.pt")
    with caplog.at_level(logging.INFO, "mergeloom"):
        tower = convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors", tiny.base)
    assert set(tower) == {key for key in state if key.startswith("visual.")}
    assert all(torch.equal(tower[key], state[key]) for key in tower)
    assert "left out" in caplog.text
    assert "token_embedding.weight" in caplog.text
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"note": "x"}


def test_half_precision_stays_and_is_compared_in_float32(tiny, tmp_path):
    state = {key: value.half() for key, value in tiny.model.state_dict().items()}
    torch.save(state, tmp_path / "finetuned.pt")
    tower = convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in tower.values()} == {torch.float16}


def test_the_pickle_of_a_whole_clip_is_read(tiny, tmp_path):
    torch.save(tiny.model, tmp_path / "finetuned.pt")
    tower = convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors", tiny.base)
    expected = tiny.model.state_dict()
    assert all(torch.equal(tower[key], expected[key]) for key in tower)


# Adapters.


def adapter(folder, shapes, config=None, name="adapter_model.safetensors", extra=None):
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    state = dict(extra or {})
    for layer, (rows, columns, rank) in shapes.items():
        stem = f"base_model.model.vision_model.{layer}"
        state[f"{stem}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) / 8
        state[f"{stem}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) / 8
    if name.endswith(".bin"):
        torch.save(state, folder / name)
    else:
        save_file(state, folder / name)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 6} | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return state


LAYERS = {
    "encoder.layers.1.self_attn.q_proj": (64, 64, 4),
    "encoder.layers.1.self_attn.v_proj": (64, 64, 4),
    "encoder.layers.0.mlp.fc1": (256, 64, 4),
}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("rslora", [False, True])
def test_lora_is_w_plus_scale_b_a(rslora, name, tiny, tmp_path):
    state = adapter(tmp_path / "lora", LAYERS, {"use_rslora": rslora}, name)
    tower = convert(tmp_path / "lora", tmp_path / "out.safetensors", tiny.base)
    base = tiny.model.state_dict()
    scale = 6 / math.sqrt(4) if rslora else 6 / 4

    def delta(layer):
        stem = f"base_model.model.vision_model.{layer}.lora_"
        return scale * state[stem + "B.weight"] @ state[stem + "A.weight"]

    fused = base[BLOCK + "attn.in_proj_weight"].clone()
    fused[:64] += delta("encoder.layers.1.self_attn.q_proj")
    fused[128:] += delta("encoder.layers.1.self_attn.v_proj")
    wide = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    changed = {
        BLOCK + "attn.in_proj_weight": fused,
        wide: base[wide] + delta("encoder.layers.0.mlp.fc1"),
    }
    for key in tower:
        torch.testing.assert_close(tower[key], changed.get(key, base[key]), rtol=1e-6, atol=1e-6)
    assert not torch.equal(tower[wide], base[wide])


def test_lora_of_patterns_and_saved_modules(tiny, tmp_path):
    norm = torch.randn(64)
    state = adapter(
        tmp_path / "lora",
        {**LAYERS, "encoder.layers.1.mlp.fc2": (64, 256, 2)},
        {"rank_pattern": {"mlp.fc2": 2}, "alpha_pattern": {r"layers\.1\.mlp\.fc2": 5}},
        extra={"base_model.model.vision_model.post_layernorm.weight": norm},
    )
    tower = convert(tmp_path / "lora", tmp_path / "out.safetensors", tiny.base)
    stem = "base_model.model.vision_model.encoder.layers.1.mlp.fc2.lora_"
    expected = tiny.model.state_dict()[BLOCK + "mlp.c_proj.weight"] + 5 / 2 * (
        state[stem + "B.weight"] @ state[stem + "A.weight"]
    )
    torch.testing.assert_close(tower[BLOCK + "mlp.c_proj.weight"], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(tower["visual.ln_post.weight"], norm)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "an adapter of the type LOHA; only LORA"),
        ({"use_dora": True}, r"uses DoRA \(use_dora\)"),
        ({"init_lora_weights": "pissa_niter_4"}, "uses init_lora_weights=pissa_niter_4"),
        ({"r": 8}, r"encoder.layers.\d.* has the shapes \[4, 64\] .* its config the rank 8"),
    ],
)
def test_other_adapters_are_refused_by_name(config, message, tiny, tmp_path):
    adapter(tmp_path / "lora", LAYERS, config)
    with pytest.raises(MergeloomError, match=message):
        convert(tmp_path / "lora", tmp_path / "out.safetensors", tiny.base)


def test_an_adapter_needs_its_config_and_its_base(tiny, tmp_path):
    adapter(tmp_path / "lora", LAYERS)
    with pytest.raises(MergeloomError, match="folded into its base: name --base"):
        convert(tmp_path / "lora", tmp_path / "out.safetensors")
    (tmp_path / "lora" / "adapter_config.json").unlink()
    with pytest.raises(MergeloomError, match=r"adapter_config\.json, which says its scale"):
        convert(tmp_path / "lora", tmp_path / "out.safetensors", tiny.base)


# Bad input.


def changed(tower, **vision):
    return {**TINY, "vision_cfg": {**TINY["vision_cfg"], **vision}, **tower}


def test_a_checkpoint_of_another_encoder_names_a_tensor_and_both_shapes(tiny, tmp_path):
    other = open_clip_model(changed({}, width=128))
    torch.save(other.state_dict(), tmp_path / "finetuned.pt")
    with pytest.raises(
        MergeloomError,
        match=r"finetuned\.pt: tensor visual\.class_embedding has the shape \[128\], but \[64\] "
        r"in the base .*checkpoint of another encoder",
    ):
        convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors", tiny.base)
    with pytest.raises(MergeloomError, match=r"finetuned\.pt: the weights are of another encoder"):
        convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_other_heads_leave_shapes_alone_and_are_seen_in_the_config(tiny, tmp_path):
    transformers_model(changed({}, head_width=16), "CLIPVisionModel").save_pretrained(
        tmp_path / "hf"
    )
    with pytest.raises(MergeloomError, match="its config has heads 4, the encoder 2"):
        convert(tmp_path / "hf", tmp_path / "out.safetensors", tiny.base)


def test_a_quick_gelu_mismatch_of_config_and_encoder_is_an_error(tiny, tmp_path):
    transformers_model({**TINY, "quick_gelu": False}, "CLIPVisionModel").save_pretrained(
        tmp_path / "hf"
    )
    with pytest.raises(MergeloomError, match="trained with GELU, but the encoder has QuickGELU"):
        convert(tmp_path / "hf", tmp_path / "out.safetensors", tiny.base)


def recorded_base(tiny, path):
    """The base as `fetch_encoder` writes it: with the features of the probe."""
    with torch.no_grad():
        record = probe_record(tiny.model.encode_image(probe_images(32)))
    save_file({k: v.contiguous() for k, v in tiny.model.state_dict().items()}, path, record)
    return path


def test_a_base_built_with_the_wrong_activation_is_seen_by_its_recorded_features(tiny, tmp_path):
    base = recorded_base(tiny, tmp_path / "base.safetensors")
    torch.save(open_clip_model(TINY, 5).state_dict(), tmp_path / "finetuned.pt")
    convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors", base)
    plain = {**TINY, "quick_gelu": False}
    with pytest.raises(MergeloomError, match=r"base\.safetensors: QuickGELU mismatch"):
        convert(tmp_path / "finetuned.pt", tmp_path / "other.safetensors", base, plain)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_base_that_was_changed_is_seen_by_its_recorded_features(tiny, tmp_path):
    base = recorded_base(tiny, tmp_path / "base.safetensors")
    with safe_open(base, "pt") as file:
        record = file.metadata()
    save_file({k: v + 0.1 for k, v in load_file(base).items()}, base, record)
    torch.save(tiny.model.state_dict(), tmp_path / "finetuned.pt")
    with pytest.raises(MergeloomError, match="other image features than those recorded"):
        convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors", base)


@pytest.mark.parametrize(
    ("architecture", "tag", "message"),
    [
        ("ViT-B-32", "openai", "trained with QuickGELU. Set architecture.open_clip to ViT-B-32-q"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "without QuickGELU. .* to ViT-B-32:"),
    ],
)
def test_published_weights_of_another_activation_are_refused(architecture, tag, message):
    with pytest.raises(MergeloomError, match=message):
        Clip().pretrained({"open_clip": architecture}, tag)


def test_weights_of_a_tag_come_with_the_file_that_was_downloaded(tiny, tmp_path, monkeypatch):
    file = tmp_path / "models--someone--tiny.clip/snapshots/0123/open_clip.safetensors"
    file.parent.mkdir(parents=True)
    save_file(tiny.model.state_dict(), file)
    tag = {"hf_hub": "someone/tiny.clip/open_clip.safetensors", "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"ours": tag})
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", lambda **given: str(file))
    model, found = Clip().pretrained({"open_clip": "tiny"}, "ours")
    assert all(torch.equal(v, tiny.model.state_dict()[k]) for k, v in model.state_dict().items())
    assert named(found) == "someone/tiny.clip@0123/open_clip.safetensors"
    _, found = Clip().pretrained({"open_clip": "tiny"}, str(file))
    assert found == file


def test_a_card_says_what_an_expert_was_downloaded_from(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    record = json.dumps({"downloads": {"someone/a@0123/model.safetensors": "ab" * 32}})
    save_file({"w": torch.ones(1)}, path, {"mergeloom": record})
    card = model_card(Facts("A merge", experts=[expert("stars", path)]), "open_clip", "")
    row = next(line for line in card.splitlines() if line.startswith("| stars"))
    assert row.endswith("| `someone/a@0123/model.safetensors` |")
    save_file({"w": torch.ones(1)}, path)
    assert expert("stars", path).origin == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_an_error(value, tiny, tmp_path):
    state = tiny.model.state_dict()
    state[BLOCK + "mlp.c_fc.bias"] = torch.full((256,), value)
    torch.save(state, tmp_path / "finetuned.pt")
    with pytest.raises(MergeloomError, match=r"finetuned\.pt: tensor .*c_fc\.bias has 256 values"):
        convert(tmp_path / "finetuned.pt", tmp_path / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["finetuned.pt"]


@pytest.mark.parametrize("name", ["model.safetensors", "finetuned.pt"])
def test_a_truncated_file_is_an_error(name, tiny, tmp_path):
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save(tiny.model.state_dict(), path)
    else:
        shutil.copy(tiny.base, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MergeloomError, match=rf"{re.escape(name)}: .*cut short"):
        convert(path, tmp_path / "out.safetensors")


def test_a_model_that_the_conversion_does_not_know_wholly_is_not_written(
    tiny, tmp_path, monkeypatch
):
    """The source's own library has the last word: a wrong mapping is seen in the features."""
    from mergeloom.models.formats import names

    swapped = names._INSIDE | {"layer_norm1": "ln_2", "layer_norm2": "ln_1"}
    monkeypatch.setattr(names, "_INSIDE", swapped)
    transformers_model(TINY, "CLIPVisionModel").save_pretrained(tmp_path / "hf")
    with pytest.raises(MergeloomError, match="gives other image features than the source model"):
        convert(tmp_path / "hf", tmp_path / "out.safetensors", tiny.base)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"fc.weight": torch.ones(2, 2)}, "no image tower of CLIP .*fc.weight"),
        ({"a": 3}, "holds no tensors by name"),
    ],
)
def test_a_file_of_something_else_is_an_error(state, message, tmp_path):
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(MergeloomError, match=message):
        convert(tmp_path / "other.pt", tmp_path / "out.safetensors")


def test_a_task_vector_is_no_model(tiny, tmp_path):
    record = {"mergeloom": json.dumps({"rule": "merge_models", "params": {}})}
    tower = {k: v.contiguous() for k, v in tiny.model.state_dict().items() if "visual" in k}
    save_file(tower, tmp_path / "tsv.safetensors", record)
    with pytest.raises(MergeloomError, match="holds a task vector"):
        convert(tmp_path / "tsv.safetensors", tmp_path / "out.safetensors")


# The way back.


def test_what_transformers_reads_is_what_was_exported(tiny, tmp_path):
    opened, vision = open_checkpoint(tiny.base, None, TINY)
    facts = Facts("x", method="tsv", alpha="1 (fixed)")
    write_transformers(Export(opened, vision, facts, {"note": "x"}, OPENAI), tmp_path / "out")
    kind = transformers.CLIPVisionModel
    model, report = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        pooled = model(images(32)).pooler_output @ tiny.model.visual.proj
        expected = tiny.model.encode_image(images(32))
    assert gap(pooled, expected) < 1e-5
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "x"}
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 32}
    assert "method: `tsv`" in (tmp_path / "out" / "README.md").read_text()


def test_a_transformers_folder_comes_back_as_it_was(tiny, tmp_path):
    opened, vision = open_checkpoint(tiny.base, None, TINY)
    write_transformers(Export(opened, vision, Facts("x"), {}, OPENAI), tmp_path / "out")
    tower = convert(tmp_path / "out", tmp_path / "back.safetensors", architecture=None)
    expected = tiny.model.state_dict()
    assert all(torch.equal(tower[key], expected[key]) for key in tower)


def test_open_clip_loads_the_whole_model_that_was_exported(tmp_path):
    name = "ViT-B-32-quickgelu"
    files = write_base(tmp_path, architecture_of(name))
    merged = open_clip_model(files.architecture, 3)
    tower = {k: v.contiguous() for k, v in merged.state_dict().items() if k.startswith("visual.")}
    save_file(tower, tmp_path / "merged.safetensors")
    base = read_base(files.base)
    opened, vision = open_checkpoint(tmp_path / "merged.safetensors", base, {"open_clip": name})
    text = text_config(None, base, opened)
    write_open_clip(Export(opened, vision, Facts("x"), {}, OPENAI), base, text, tmp_path / "out")
    weights = tmp_path / "out" / "open_clip_model.safetensors"
    loaded = open_clip.create_model(name, pretrained=str(weights))
    tokens = open_clip.get_tokenizer(name)(["a photo of a cat", "a dog"])
    with torch.no_grad():
        expected = merged.encode_image(images(224))
        assert gap(loaded.eval().encode_image(images(224)), expected) < 1e-5
        assert gap(loaded.encode_text(tokens), files.model.encode_text(tokens)) < 1e-5


def test_an_export_needs_to_know_the_activation(tiny):
    opened, vision = open_checkpoint(tiny.base, None, TINY)
    assert vision == vision_of(TINY)
    unknown = vision.__class__(**{**vision.__dict__, "quick_gelu": None})
    with pytest.raises(MergeloomError, match="do not say whether the activation is QuickGELU"):
        Export(opened, unknown, Facts("x"), {}, OPENAI)
