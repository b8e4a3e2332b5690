"""Files of T5s and LoRA adapters to what the family has, and back to transformers' own outputs."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from text_study import ARCHITECTURE, random_weights

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import write_tensors
from mergeloom.models.family import get_family
from mergeloom.models.formats.t5_checkpoint import import_checkpoint
from mergeloom.models.t5 import model_config

TIED = {**ARCHITECTURE, "tie_word_embeddings": True}
LAYER = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture
def base(tmp_path):
    write_tensors(tmp_path / "base.safetensors", random_weights(), {})
    return tmp_path / "base.safetensors"


def folder_of(path, weights, architecture=ARCHITECTURE, copies=True, pickle=False):
    """What transformers writes of a model, with the copies of the table that older ones wrote."""
    path.mkdir()
    tensors = {key: value.clone() for key, value in weights.items()}
    if copies:
        for stack in ("encoder", "decoder"):
            tensors[f"{stack}.embed_tokens.weight"] = weights["shared.weight"].clone()
        if architecture["tie_word_embeddings"]:
            tensors["lm_head.weight"] = weights["shared.weight"].clone()
    if pickle:
        torch.save(tensors, path / "pytorch_model.bin")
    else:
        save_file(tensors, path / "model.safetensors")
    config = model_config(architecture).to_dict()
    config["tie_word_embeddings"] = architecture["tie_word_embeddings"]
    (path / "config.json").write_text(json.dumps(config))
    return path


def imported(tmp_path, path, base, architecture=ARCHITECTURE):
    import_checkpoint(path, base, architecture, tmp_path / "out.safetensors", {})
    return load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize("pickle", [False, True])
@pytest.mark.parametrize("architecture", [ARCHITECTURE, TIED], ids=["flan", "tied"])
def test_a_whole_model_is_imported_with_its_table_once(tmp_path, architecture, pickle):
    weights = random_weights(1, architecture)
    write_tensors(tmp_path / "base.safetensors", random_weights(0, architecture), {})
    folder = folder_of(tmp_path / "tuned", weights, architecture, pickle=pickle)
    found = imported(tmp_path, folder, tmp_path / "base.safetensors", architecture)
    assert found.keys() == weights.keys()
    assert ("lm_head.weight" in found) == (not architecture["tie_word_embeddings"])
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_published_weights_of_a_folder_give_transformers_outputs(tmp_path):
    """Its own reader finds a head apart from the table, whatever its config ties."""
    folder = folder_of(tmp_path / "published", random_weights(2))
    model, path = get_family("t5").pretrained(ARCHITECTURE, str(folder))
    assert path == folder / "model.safetensors"
    own = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    tokens = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(input_ids=tokens, labels=tokens).logits,
            own.eval()(input_ids=tokens, labels=tokens).logits,
        )


@pytest.mark.parametrize("architecture", [ARCHITECTURE, TIED], ids=["flan", "tied"])
def test_a_folder_as_transformers_writes_it_is_read(tmp_path, architecture):
    weights = random_weights(2, architecture)
    model = get_family("t5").build_tower(architecture, weights)
    model.save_pretrained(tmp_path / "published")
    read, _ = get_family("t5").pretrained(architecture, str(tmp_path / "published"))
    found = get_family("t5").tower_weights(read)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def adapter_of(path, scale, **config):
    """A LoRA adapter of rank 2 on one layer, as PEFT writes it."""
    path.mkdir()
    random = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 16, generator=random), torch.randn(8, 2, generator=random)
    prefix = f"base_model.model.{LAYER}"
    save_file(
        {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b},
        path / "adapter_model.safetensors",
    )
    written = {"peft_type": "LORA", "r": 2, "lora_alpha": 2 * scale, **config}
    (path / "adapter_config.json").write_text(json.dumps(written))
    return a, b


def test_a_lora_adapter_is_folded_into_its_base(tmp_path, base):
    a, b = adapter_of(tmp_path / "lora", scale=2)
    found, start = imported(tmp_path, tmp_path / "lora", base), load_file(base)
    expected = start[f"{LAYER}.weight"] + 2 * (b @ a)
    torch.testing.assert_close(found[f"{LAYER}.weight"], expected)
    others = found.keys() - {f"{LAYER}.weight"}
    assert all(torch.equal(found[key], start[key]) for key in others)


def test_an_adapter_without_its_config_is_refused(tmp_path, base):
    adapter_of(tmp_path / "lora", scale=2)
    (tmp_path / "lora/adapter_config.json").unlink()
    with pytest.raises(MergeloomError, match=r"adapter_config.json, which says its scale"):
        imported(tmp_path, tmp_path / "lora", base)


def test_an_adapter_of_another_kind_is_refused(tmp_path, base):
    adapter_of(tmp_path / "lora", scale=2, use_dora=True)
    with pytest.raises(MergeloomError, match="DoRA"):
        imported(tmp_path, tmp_path / "lora", base)


def test_a_checkpoint_of_another_size_names_a_tensor(tmp_path, base):
    other = {**ARCHITECTURE, "d_ff": 32}
    folder = folder_of(tmp_path / "other", random_weights(0, other), other)
    with pytest.raises(MergeloomError, match=r"DenseReluDense.wi_0.weight is \[32, 16\].*\[24, 16"):
        imported(tmp_path, folder, base)


def test_a_config_of_another_activation_is_named(tmp_path, base):
    other = {**ARCHITECTURE, "feed_forward_proj": "gated-silu"}
    folder = folder_of(tmp_path / "other", random_weights())
    (folder / "config.json").write_text(json.dumps(model_config(other).to_dict()))
    with pytest.raises(MergeloomError, match="feed_forward_proj gated-silu"):
        imported(tmp_path, folder, base)


def test_a_head_apart_from_the_table_is_not_lost(tmp_path, base):
    folder = folder_of(tmp_path / "untied", random_weights())
    (folder / "config.json").unlink()
    with pytest.raises(MergeloomError, match=r"lm_head.weight is not its shared.weight"):
        imported(tmp_path, folder, base, TIED)


def test_what_is_no_t5_is_refused(tmp_path, base):
    (tmp_path / "clip").mkdir()
    save_file({"visual.proj": torch.ones(2, 2)}, tmp_path / "clip/model.safetensors")
    with pytest.raises(MergeloomError, match=r"has no shared.weight.*visual.proj"):
        imported(tmp_path, tmp_path / "clip", base)


def test_values_that_are_not_finite_are_refused(tmp_path, base):
    weights = random_weights()
    weights["shared.weight"][2, 3] = float("inf")
    folder = folder_of(tmp_path / "tuned", weights)
    with pytest.raises(MergeloomError, match=r"shared.weight has 1 values"):
        imported(tmp_path, folder, base)


def test_weights_of_another_architecture_are_named_when_the_model_is_built():
    weights = random_weights()
    del weights["lm_head.weight"]
    with pytest.raises(MergeloomError, match=r"lm_head.weight: absent here"):
        get_family("t5").build_tower(ARCHITECTURE, weights)


def test_an_architecture_that_is_not_known_says_what_to_give():
    with pytest.raises(MergeloomError, match=r"google/flan-t5-base.*T5Config's keys"):
        get_family("t5").build({"transformers": "google/flan-t5-xl"})


@pytest.mark.parametrize(
    ("name", "parameters"), [("small", 76961152), ("base", 247577856), ("large", 783150080)]
)
def test_published_sizes_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = get_family("t5").build({"transformers": f"google/flan-t5-{name}"})
    assert sum(p.numel() for p in model.parameters()) == parameters
