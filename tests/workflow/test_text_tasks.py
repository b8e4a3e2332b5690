"""Tasks of texts: written, from a hub on loopback, from files; as tokens; wrong plans."""

import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub import Hub
from safetensors import safe_open
from safetensors.numpy import load_file

from mergeloom.data.tokenizer import read_tokenizer
from mergeloom.data.tokenizer_training import train_tokenizer

FORMS = [f"cache/tiny_grammar/{split}_T5-Tiny.safetensors" for split in ("train", "val", "test")]
HEADS = [f"models/T5-Tiny/heads/tiny_{task}.safetensors" for task in ("primer", "similarity")]


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


def preset(workflow, name, source, **more):
    path = workflow.folder / f"tests/workflow/presets/tasks/{name}.yaml"
    text = {"title": name, "source": source, "prompt": "Good? {review}", "answers": ["no", "yes"]}
    path.write_text(yaml.safe_dump(text | more, sort_keys=False))


def parquet(**columns):
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def reviews(count, start):
    return [f"review {start + i}" for i in range(count)]


def test_texts_are_written_and_tokenised_once_and_again_alike(fresh):
    assert fresh.planned(*FORMS, *HEADS) == {
        "render_text_task": 2,
        "build_tokenizer": 1,
        "tokenize_training_texts": 1,
        "tokenize_evaluation_texts": 1,
        "build_answers": 2,
    }
    fresh.run(*FORMS, *HEADS, "--cores", "2")
    before = fresh.digests()
    assert fresh.planned(*FORMS, *HEADS) == {}

    splits = [load_file(fresh.folder / path) for path in FORMS]
    assert [len(split["labels"]) for split in splits] == [64, 20, 40]
    for split in splits:
        assert split["tokens"].dtype == "int32"
        assert split["labels"].mean() == 0.5
        assert not (split["tokens"] == 2).any(), "no unknown token"
    assert len({row.tobytes() for row in splits[0]["tokens"]}) == 64
    for path in FORMS:
        with safe_open(fresh.folder / path, "numpy") as split:
            assert split.metadata()["cut"] == "0"
    primer, similarity = (load_file(fresh.folder / path) for path in HEADS)
    assert similarity["answers"].shape[0] == len(similarity["values"]) == 51
    assert "values" not in primer
    with safe_open(fresh.folder / HEADS[1], "numpy") as head:
        assert head.metadata()["metric"] == "spearman"

    # What is written anew has the same bytes; another wording is asked without writing it anew.
    fresh.run(*FORMS, "--cores", "2", "--forceall")
    assert {k: v for k, v in fresh.digests().items() if "heads" not in k} == {
        k: v for k, v in before.items() if "heads" not in k
    }
    fresh.edit("tests/workflow/presets/tasks/tiny_grammar.yaml", "metric: mcc\n", "")
    assert fresh.planned(*FORMS) == {}
    assert fresh.planned("models/T5-Tiny/heads/tiny_grammar.safetensors") == {"build_answers": 1}
    fresh.edit("tests/workflow/presets/tasks/tiny_grammar.yaml", "Is this", "Is the following")
    asked_anew = {"tokenize_training_texts": 1, "tokenize_evaluation_texts": 1}
    assert fresh.planned(*FORMS) == asked_anew
    fresh.edit("tests/workflow/presets/tasks/tiny_grammar.yaml", "{sentence}", "{text}")
    done = fresh.run(*FORMS, "-n", check=False)
    assert "the prompt names 'text', but the renderer 'grammar' writes: sentence" in done.stdout


def test_glue_comes_from_the_hub_and_a_tenth_of_train_validates(fresh, hub):
    def split(count, start):
        return parquet(
            sentence=reviews(count, start), label=[i % 2 for i in range(count)], idx=range(count)
        )

    files = {
        "cola/train-00000-of-00002.parquet": split(30, 0),
        "cola/train-00001-of-00002.parquet": split(20, 30),
        "cola/validation-00000-of-00001.parquet": split(10, 100),
        "cola/test-00000-of-00001.parquet": parquet(sentence=["hidden"], label=[-1], idx=[0]),
        "stsb/train-00000-of-00001.parquet": parquet(
            sentence1=reviews(20, 0), sentence2=reviews(20, 50), label=[i / 4 for i in range(20)]
        ),
        "stsb/validation-00000-of-00001.parquet": parquet(
            sentence1=["a", "b"], sentence2=["c", "d"], label=[3.75, 0.0]
        ),
    }
    commit = hub.add("dataset", "nyu-mll/glue", files)
    tasks = fresh.read("config/tasks.yaml").replace(
        "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", "main"
    )
    for counts in ("{train: 8551, test: 1043}", "{train: 5749, test: 1500}"):
        tasks = tasks.replace(f"    counts: {counts}\n", "")
    (fresh.folder / "config/tasks.yaml").write_text(tasks)
    targets = [
        f"cache/{task}/{split}_T5-Tiny.safetensors"
        for task in ("cola", "stsb")
        for split in ("train", "val", "test")
    ]
    plan = fresh.run(*targets, "-n").stdout
    assert "Downloading task cola: nyu-mll/glue at main, train (cola/train-*.parquet) and" in plan
    assert hub.requests == []
    environment = hub.environment(fresh.folder / "cache-of-the-hub")
    fresh.run(*targets, "--cores", "2", **environment)
    sizes = [len(load_file(fresh.folder / path)["labels"]) for path in targets]
    assert sizes == [45, 5, 10, 18, 2, 2]
    tables = [pq.read_table(fresh.folder / f"data/cola/{s}.parquet") for s in ("train", "test")]
    assert [len(table) for table in tables] == [50, 10]
    assert tables[0].column_names == ["sentence", "label"]
    record = json.loads(
        pq.read_schema(fresh.folder / "data/cola/train.parquet").metadata[b"mergeloom"]
    )
    assert len(record["downloads"]) == 3
    assert all(name.startswith(f"nyu-mll/glue@{commit}/cola/") for name in record["downloads"])
    assert not any("cola/test" in path for path in hub.downloads())
    scores = load_file(fresh.folder / "cache/stsb/test_T5-Tiny.safetensors")["labels"]
    assert scores.tolist() == [38, 0], "of 3.8, as 3.75 is written, and of 0.0"

    # Another wording of the same columns downloads and splits nothing anew.
    fresh.edit("config/tasks.yaml", "Indicate if the following sentence", "Say whether this")
    asked_anew = {"tokenize_training_texts": 1, "tokenize_evaluation_texts": 1}
    assert fresh.planned(*targets[:3]) == asked_anew


def test_a_published_encoder_brings_its_tokenizer_and_knows_the_answers(fresh, hub):
    train_tokenizer(["yes", "no"] * 3, 300, fresh.folder / "theirs.json", "theirs")
    content = (fresh.folder / "theirs.json").read_bytes()
    hub.add("model", "google/flan-t5-base", {"tokenizer.json": content})
    hub.add("model", "google/flan-t5-large", {"tokenizer.json": b"{}"})
    head = "models/flan-t5-base/heads/rte.safetensors"
    other = "models/flan-t5-large/tokenizer.json"
    assert fresh.planned(head) == {"fetch_tokenizer": 1, "build_answers": 1}
    environment = hub.environment(fresh.folder / "cache-of-the-hub")
    done = fresh.run(head, other, "--keep-going", check=False, **environment)
    assert "tokenizer.json: is no tokenizer of the `tokenizers` library" in done.stdout
    assert not (fresh.folder / other).exists()
    assert (fresh.folder / "models/flan-t5-base/tokenizer.json").read_bytes() == content
    record = json.loads(fresh.read("models/flan-t5-base/tokenizer.json.provenance.json"))
    (name,) = record["downloads"]
    assert name.startswith("google/flan-t5-base@")
    assert name.endswith("/tokenizer.json")
    answers = load_file(fresh.folder / head)["answers"]
    said = [read_tokenizer(fresh.folder / "theirs.json").decode(row).strip() for row in answers]
    assert said == ["yes", "no"]


def published(workflow, name, weights, **architecture):
    """An encoder of the tiny T5's sizes with published weights."""
    preset = yaml.safe_load(workflow.read("tests/workflow/presets/encoders/T5-Tiny.yaml"))
    preset["architecture"] |= architecture
    preset["weights"] = {"published": weights}
    path = workflow.folder / f"tests/workflow/presets/encoders/{name}.yaml"
    path.write_text(yaml.safe_dump(preset))


def test_a_tokenizer_at_hand_is_no_download_and_must_fit_its_encoder(fresh):
    folder = fresh.folder / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("mine")
    train_tokenizer(["yes", "no"] * 3, 300, folder / "tokenizer.json", "mine")
    published(fresh, "Fits", "mine", vocab_size=300)
    published(fresh, "Small", "mine", vocab_size=200)
    targets = [f"models/{name}/tokenizer.json" for name in ("Fits", "Small")]
    done = fresh.run(*targets, "--keep-going", check=False)
    assert "mine/tokenizer.json: has 2" in done.stdout
    assert "tokens, but the encoder's vocab_size is 200" in done.stdout
    assert not (fresh.folder / targets[1]).exists()
    record = json.loads(fresh.read(f"{targets[0]}.provenance.json"))
    assert record["downloads"] == {}
    assert "mine/tokenizer.json" in str(record["inputs"])


def test_of_a_given_folder_only_weights_and_config_are_inputs(fresh):
    folder = fresh.folder / "mine"
    folder.mkdir()
    published(fresh, "Mine", "mine")
    base = "models/Mine/base.safetensors"
    done = fresh.run(base, "-n", check=False)
    assert "mine: has none of model.safetensors, pytorch_model.bin." in done.stdout
    for name in ("model.safetensors", "pytorch_model.bin", "config.json", "README.md", "x.bin"):
        (folder / name).write_text(name)
        os.utime(folder / name, (1000, 1000))
    (fresh.folder / base).parent.mkdir(parents=True)
    (fresh.folder / base).write_text("made of them")
    os.utime(fresh.folder / base, (2000, 2000))
    for name in ("README.md", "x.bin", "pytorch_model.bin"):
        os.utime(folder / name, (3000, 3000))
    assert fresh.planned(base) == {}
    os.utime(folder / "config.json", (3000, 3000))
    assert fresh.planned(base) == {"fetch_text_encoder": 1}


def test_published_weights_without_a_repository_or_file_are_refused_when_planned(fresh):
    published(fresh, "Nowhere", "main")
    for target in ("base.safetensors", "tokenizer.json"):
        done = fresh.run(f"models/Nowhere/{target}", "-n", check=False)
        assert "encoder Nowhere: weights.published 'main' is no file or folder" in done.stdout
        assert "add architecture.transformers" in done.stdout


def test_a_download_that_is_no_table_of_the_task_leaves_nothing(fresh, hub):
    good = {"review": reviews(20, 0), "label": [0, 1] * 10}
    for name, columns in {
        "columns": {"text": ["a"], "label": [0]},
        "hidden": good | {"label": [-1] * 20},
        "counted": good,
    }.items():
        files = {"train.parquet": parquet(**columns), "test.parquet": parquet(**good)}
        hub.add("dataset", f"someone/{name}", files)
        source = {
            "hub": f"someone/{name}",
            "revision": "main",
            "files": {"train": ["train.parquet"], "test": ["test.parquet"]},
        } | ({"counts": {"train": 21}} if name == "counted" else {})
        preset(fresh, name, source)
    targets = [f"data/{name}/train.parquet" for name in ("columns", "hidden", "counted")]
    environment = hub.environment(fresh.folder / "cache-of-the-hub")
    done = fresh.run(*targets, "--cores", "2", "--keep-going", check=False, **environment)
    for message in (
        "someone/columns/train.parquet: has no column 'review'; it has: text, label.",
        "someone/hidden/train.parquet: row 0: label -1 is none of the 2 answers ('no', 'yes')",
        "(revision main), train: has 20 rows, but the preset's `counts` say 21.",
    ):
        assert message in done.stdout, f"no {message!r} in\n{done.stdout}"
    assert not [path for target in targets if (path := fresh.folder / target).exists()]


def test_files_of_ones_own_are_a_task_and_a_changed_one_is_packed_again(fresh):
    for split, count, start in (("train", 30, 0), ("test", 8, 100)):
        lines = [f"{text},{'yes' if i % 3 else 'no'}" for i, text in
                 enumerate(reviews(count, start))]  # fmt: skip
        (fresh.folder / f"{split}.csv").write_text("\n".join(["review,verdict", *lines]) + "\n")
    files = {"train": ["train.csv"], "test": ["test.csv"]}
    preset(fresh, "mine", {"files": files, "columns": {"label": "verdict"}})
    target = "cache/mine/val_T5-Tiny.safetensors"
    planned = fresh.planned(target)
    assert planned["pack_mine"] == planned["split_text_task"] == 1
    fresh.run(target)
    assert len(load_file(fresh.folder / target)["labels"]) == 3
    assert fresh.planned(target) == {}
    with (fresh.folder / "train.csv").open("a") as file:
        file.write("one more,yes\n")
    assert fresh.planned(target)["pack_mine"] == 1
    (fresh.folder / "train.csv").unlink()
    done = fresh.run("data/mine/test.parquet", "--force", "-n", check=False)
    assert "task 'mine': train.csv: no such file; correct `source.files`" in done.stdout


def test_tables_that_lie_there_are_a_task(fresh):
    preset(fresh, "given", "tables")
    target = "cache/given/train_T5-Tiny.safetensors"
    done = fresh.run(target, "-n", check=False)
    assert "data/given/train.parquet: no such file. Put the task's tables there" in done.stdout
    folder = fresh.folder / "data/given"
    folder.mkdir(parents=True)
    for split, start in (("train", 0), ("val", 50), ("test", 80)):
        content = parquet(review=reviews(12, start), label=[0, 1] * 6)
        (folder / f"{split}.parquet").write_bytes(content)
    fresh.run(target)
    assert len(load_file(fresh.folder / target)["labels"]) == 12, "val is a split of its own"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "results/ViT-Tiny/finetuned/tiny_text/zeroshot.json",
            "the encoder 'ViT-Tiny' reads images, but 'tiny_grammar', 'tiny_similarity' are tasks",
        ),
        (
            "results/T5-Tiny/finetuned/tiny/zeroshot.json",
            "the encoder 'T5-Tiny' reads texts, but 'tiny_digits', 'tiny_shapes' are tasks of i",
        ),
        (
            "models/T5-Tiny/finetuned/tiny_digits/checkpoint.safetensors",
            "the encoder 'T5-Tiny' reads texts, but 'tiny_digits' is a task of images",
        ),
        (
            "models/ViT-Tiny/finetuned/tiny_grammar/checkpoint.safetensors",
            "the encoder 'ViT-Tiny' reads images, but 'tiny_grammar' is a task of texts",
        ),
    ],
)
def test_an_encoder_that_cannot_read_a_task_is_one_clear_error(fresh, target, message):
    done = fresh.run(target, "-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback (most recent call last)" not in done.stdout


def test_a_study_of_texts_plans_its_own_rules_and_none_of_images(fresh):
    planned = fresh.planned("results/T5-Tiny/finetuned/tiny_text/task_arithmetic.json")
    assert planned["pretrain_text_encoder"] == planned["build_tokenizer"] == 1
    assert planned["tokenize_training_texts"] == planned["build_answers"] == 3
    assert planned["finetune_task"] == planned["tokenize_evaluation_texts"] == 2
    images = {"render_task", "build_head", "pretrain_encoder", "decode_training_images"}
    assert not images & planned.keys()
