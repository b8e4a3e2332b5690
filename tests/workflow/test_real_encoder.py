"""ViT-B-32 from a hub to a result and back to transformers, with random weights on loopback.

The base under open_clip's tag, data sets, fine-tuned checkpoints (as transformers writes them) and
the export of the merged model, through the workflow; accuracies mean nothing here, features do.
"""

import json

import numpy as np
import pytest
import torch
import yaml
from hub import Hub
from pictures import encoded, parquet, pixels
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mergeloom.models.torchvision_cure import cure_torchvision

CLASSES = ["red", "green", "blue"]
IMAGES = {"train": 120, "test": 100}  # a tenth of the former validates
BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
STUDY = "results/ViT-B-32/hubbed/two"


@pytest.fixture(scope="module")
def clip():
    """The whole CLIP as open_clip makes it; its image tower is drawn by the seed."""
    cure_torchvision()
    import open_clip

    torch.manual_seed(0)
    return open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()


def finetuned(clip, seed):
    """A CLIPVisionModel near the base's tower, in the two files of a repository."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        image_size=224, patch_size=32, hidden_act="quick_gelu", projection_dim=512,
    )  # fmt: skip
    model = CLIPVisionModel(config)
    generator = torch.Generator().manual_seed(seed)
    visual = clip.visual.state_dict()
    embeddings = {
        "class_embedding": visual["class_embedding"],
        "patch_embedding.weight": visual["conv1.weight"],
        "position_embedding.weight": visual["positional_embedding"],
    }
    norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
    given = {}
    for name, tensor in model.state_dict().items():
        short = name.split("embeddings.")[-1]
        if "layers." in name:
            layer, part = name.split("layers.")[1].split(".", 1)
            block = f"transformer.resblocks.{layer}."
            end = part.rsplit(".", 1)[1]
            if part.startswith(("self_attn.q", "self_attn.k", "self_attn.v")):
                rows = 768 * "qkv".index(part.split(".")[1][0])
                source = visual[f"{block}attn.in_proj_{end}"][rows : rows + 768]
            else:
                source = visual[f"{block}{BLOCK[part.rsplit('.', 1)[0]]}.{end}"]
        elif "layrnorm" in name or "post_layernorm" in name:
            module, end = name.split(".")[-2:]
            source = visual[f"{norms[module]}.{end}"]
        elif short in embeddings:
            source = embeddings[short]
        else:
            source = tensor  # position_ids
        noise = torch.randn(source.shape, generator=generator) * 0.02 * source.float().std()
        given[name] = source + noise if source.is_floating_point() else source
    return config.to_json_string().encode(), given


def data_set(seed):
    rng = np.random.default_rng(seed)
    files = {}
    for split, count in IMAGES.items():
        labels = [int(label) for label in rng.integers(0, 3, count)]
        pictures = pixels(count, seed=int(rng.integers(1000)), size=(48, 40))
        table = parquet([encoded(p) for p in pictures], labels, names=CLASSES)
        files[f"data/{split}-0.parquet"] = table
    return files


def test_vit_b_32_goes_from_the_hub_to_a_result_and_back_to_transformers(fresh, clip, tmp_path):
    save_file(clip.state_dict(), tmp_path / "base.safetensors")
    presets = fresh.folder / "tests/workflow/presets"
    source = {"revision": "main", "counts": IMAGES,
              "files": {split: [f"data/{split}-*.parquet"] for split in IMAGES}}  # fmt: skip
    with Hub() as hub:
        base = {"open_clip_model.safetensors": (tmp_path / "base.safetensors").read_bytes()}
        commit = hub.add("model", "timm/vit_base_patch32_clip_224.openai", base)
        for seed, task in enumerate(("stars", "stripes")):
            hub.add("dataset", f"someone/{task}", data_set(seed))
            preset = {"title": task, "source": {"hub": f"someone/{task}", **source},
                      "classnames": CLASSES, "templates": ["a {c} page."]}  # fmt: skip
            (presets / f"tasks/{task}.yaml").write_text(yaml.safe_dump(preset))
            config, tensors = finetuned(clip, seed)
            save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
            weights = (tmp_path / "model.safetensors").read_bytes()
            hub.add("model", f"someone/clip-vit-base-patch32_{task}",
                    {"config.json": config, "model.safetensors": weights})  # fmt: skip
        experts = {
            "hub": "someone/clip-vit-{encoder}_{task}",
            "file": "model.safetensors",
            "revision": "main",
            "names": {"encoder": {"ViT-B-32": "base-patch32"}},
        }
        (presets / "experts.yaml").write_text(yaml.safe_dump({"hubbed": {"import": experts}}))
        (presets / "benchmarks.yaml").write_text("tiny: [tiny_digits]\ntwo: [stars, stripes]\n")
        exported = "models/ViT-B-32/hubbed/exported/two/tsv_at_1/transformers"
        targets = (f"{STUDY}/tsv_at_1.json", exported)
        plan = fresh.run(*targets, "-n").stdout
        assert "Fetching the published weights of ViT-B-32: ViT-B-32-quickgelu, openai" in plan
        for task in ("stars", "stripes"):
            assert f"Downloading task {task}: someone/{task} at main" in plan
            assert f"someone/clip-vit-base-patch32_{task}, model.safetensors" in plan
        fresh.run(*targets, "--cores", "2", **hub.environment(tmp_path / "cache"))

    result = json.loads(fresh.read(f"{STUDY}/tsv_at_1.json"))
    assert {task: scores["n"] for task, scores in result["tasks"].items()} == {
        "stars": 100, "stripes": 100,
    }  # fmt: skip
    record = json.loads(
        safe_open(fresh.folder / "models/ViT-B-32/base.safetensors", "pt").metadata()["mergeloom"]
    )
    (download,) = record["downloads"]
    assert download == (
        f"timm/vit_base_patch32_clip_224.openai@{commit}/open_clip_model.safetensors"
    )
    # The export, in transformers, against the base and the merged task vector, in open_clip.
    from transformers import CLIPVisionModelWithProjection

    merged = load_file(fresh.folder / "models/ViT-B-32/hubbed/merged/two/tsv_at_1.safetensors")
    state = clip.state_dict()
    whole = {key: tensor + merged.get(key, 0) for key, tensor in state.items()}
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    again = CLIPVisionModelWithProjection.from_pretrained(fresh.folder / exported).eval()
    with torch.no_grad():
        before = clip.visual(images)
        clip.load_state_dict(whole)
        expected = clip.visual(images)
        clip.load_state_dict(state)
        found = again(images).image_embeds
    assert (expected - before).norm() > 1e-3 * expected.norm()
    assert (found - expected).norm() <= 1e-5 * expected.norm()
