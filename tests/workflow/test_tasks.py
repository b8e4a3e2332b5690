"""Tasks from a hub on loopback and from folders: built, refused when wrong."""

import json

import numpy as np
import pytest
import yaml
from hub import TOKEN, Hub
from pictures import encoded, parquet, shard
from safetensors.numpy import load_file

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
CLASSNAMES = list(COLOURS)


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


def pictures(count, seed, size=(20, 24)):
    """Noise around a colour, with labels in the order of CLASSNAMES."""
    rng = np.random.default_rng(seed)
    labels = [int(label) for label in rng.permutation(np.arange(count) % 3)]
    noise = rng.integers(-30, 30, (count, *size, 3))
    means = np.array([COLOURS[CLASSNAMES[label]] for label in labels])
    return (means[:, None, None] + noise).astype(np.uint8), labels


def table(count, seed, names=CLASSNAMES, kind="PNG"):
    """A Parquet file whose label numbers are places in `names`."""
    images, labels = pictures(count, seed)
    numbers = [names.index(CLASSNAMES[label]) for label in labels]
    return parquet([encoded(p, kind) for p in images], numbers, names=names, rows=16)


def preset(workflow, name, source, **more):
    path = workflow.folder / f"tests/workflow/presets/tasks/{name}.yaml"
    text = {"title": name, "source": source, "classnames": CLASSNAMES, "templates": ["a {c} page."]}
    path.write_text(yaml.safe_dump(text | more, sort_keys=False))


def hub_source(repository, **more):
    return {
        "hub": repository,
        "revision": "main",
        "files": {"train": ["data/train-*.parquet"], "test": ["data/test-*.parquet"]},
        **more,
    }


def leftovers(folder):
    """Files of a task that a failed job left, whole or half."""
    return [p for p in folder.rglob("*") if p.is_file()] if folder.exists() else []


def test_the_dag_runs_from_the_hub_to_a_result(built, hub):
    """A Parquet data set with its classes in another order, and a WebDataset."""
    names = CLASSNAMES[::-1]
    commit = hub.add(
        "dataset", "someone/pages",
        {"data/train-0.parquet": table(40, 0, names), "data/train-1.parquet": table(20, 1, names),
         "data/test-0.parquet": table(20, 2, names), "README.md": b"# pages"},
    )  # fmt: skip
    train, labels = pictures(50, 3)
    test, test_labels = pictures(20, 4)
    hub.add(
        "dataset", "someone/wds_sheets",
        {"train/0.tar": shard([encoded(p, "JPEG") for p in train], labels, "jpg"),
         "test/0.tar": shard([encoded(p, "JPEG") for p in test], test_labels, "jpg")},
    )  # fmt: skip
    preset(built, "pages", hub_source("someone/pages", names=names, counts={"train": 60}))
    files = {"train": ["train/*.tar"], "test": ["test/*.tar"]}
    preset(built, "sheets", hub_source("someone/wds_sheets", format="webdataset", files=files))
    benchmarks = built.folder / "tests/workflow/presets/benchmarks.yaml"
    benchmarks.write_text(benchmarks.read_text() + "paper: [pages, sheets]\n")
    result = "results/ViT-Tiny/finetuned/paper/task_arithmetic.json"

    plan = built.run(result, "-n").stdout
    assert "Downloading task pages: someone/pages at main, train (data/train-*.parquet) and" in plan
    assert "Downloading task sheets: someone/wds_sheets at main, train (train/*.tar)" in plan
    assert hub.requests == []
    environment = hub.environment(built.folder / "cache-of-the-hub")
    built.run(result, "--cores", "2", **environment)
    tasks = json.loads(built.read(result))["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {"pages": 20, "sheets": 20}

    record = json.loads(built.read("data/pages/.provenance.json"))
    assert len(record["downloads"]) == 3
    assert all(name.startswith(f"someone/pages@{commit}/data/") for name in record["downloads"])
    assert built.read("data/pages/classnames.txt").split() == CLASSNAMES
    assert built.read("data/pages/zeroshot_classification_templates.txt") == "a {c} page.\n"
    for task, train, val in (("pages", 54, 6), ("sheets", 45, 5)):
        read = {
            split: load_file(built.folder / f"cache/{task}/{split}_32px.safetensors")
            for split in ("train", "val", "test")
        }
        assert [len(part["labels"]) for part in read.values()] == [train, val, 20]
        # Every label is that of the picture's colour.
        for part in read.values():
            means = part["images"].reshape(len(part["images"]), -1, 3).mean(1)
            np.testing.assert_array_equal(means.argmax(1), part["labels"])
        images = {split: {i.tobytes() for i in part["images"]} for split, part in read.items()}
        assert not images["train"] & images["val"]

    assert built.planned(result) == {}
    # Another template makes other heads and downloads nothing.
    preset(built, "sheets", hub_source("someone/wds_sheets", format="webdataset", files=files),
           templates=["a sheet of {c}."])  # fmt: skip
    planned = built.planned(result)
    assert planned["build_head"] == planned["write_templates"] == 1
    assert "download_sheets" not in planned
    # Offline, what the cache holds is packed again to the same bytes.
    before, asked = built.digests(), len(hub.requests)
    target = "data/pages/train/0.tar"
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    built.run(target, "--force", **offline)
    assert len(hub.requests) == asked
    assert {k: v for k, v in before.items() if k.startswith("data/pages/")} == {
        k: v for k, v in built.digests().items() if k.startswith("data/pages/")
    }


def test_downloads_that_go_wrong_are_named_leave_nothing_and_succeed_later(fresh, hub):
    def files(seed):
        return {"data/train-0.parquet": table(20, seed), "data/test-0.parquet": table(10, seed + 9)}

    for seed, name in enumerate(("gone", "slow", "half", "gated", "counted", "fine", "columns")):
        hub.add("dataset", f"someone/{name}", files(seed), gated=name == "gated")
        preset(fresh, name, hub_source(f"someone/{name}"))
    preset(fresh, "gone", hub_source("someone/gone") | {"revision": "v1"})
    preset(fresh, "counted", hub_source("someone/counted", counts={"train": 20, "test": 11}))
    preset(fresh, "columns", hub_source("someone/columns", columns={"image": "img"}))
    hub.fault("stall", "/datasets/someone/slow/*")
    hub.fault("short", "/datasets/someone/half/resolve/*/data/test-0.parquet")
    tasks = ("gone", "slow", "half", "gated", "counted", "columns")
    targets = [f"data/{task}/train/0.tar" for task in (*tasks, "fine")]
    environment = hub.environment(fresh.folder / "cache-of-the-hub")
    done = fresh.run(*targets, "--cores", "2", check=False, **environment)
    assert done.returncode != 0
    for message in (
        "download_gone: data set someone/gone (revision v1): the repository has no such revision",
        "download_slow: data set someone/slow/data/train-0.parquet (revision main): ",
        "did not answer in time. Try again, or raise HF_HUB_DOWNLOAD_TIMEOUT",
        "download_half: data set someone/half/data/test-0.parquet",
        "sent another number of bytes than it announced",
        "download_gated: data set someone/gated/data/train-0.parquet (revision main): is gated.",
        "download_counted: data set someone/counted (revision main), test: has 10 images, but the "
        "preset's `counts` say 11.",
        "download_columns: someone/columns/data/train-0.parquet: has no column 'img'; it has: ",
    ):
        assert message in done.stdout, f"no {message!r} in\n{done.stdout}"
    assert "Traceback" not in done.stdout.split("Logfile")[0]
    assert {task: leftovers(fresh.folder / "data" / task) for task in tasks} == {
        task: [] for task in tasks
    }
    assert (fresh.folder / "data/fine/test/0.tar").exists()

    hub.mend()
    hub.add("dataset", "someone/gone", files(0), branch="v1")
    preset(fresh, "counted", hub_source("someone/counted", counts={"train": 20, "test": 10}))
    preset(fresh, "columns", hub_source("someone/columns", columns={"image": "image"}))
    fresh.run(*targets, "--cores", "2", **environment | {"HF_TOKEN": TOKEN})
    assert fresh.planned(*targets) == {}


def write_folder(folder, seed=0, test_seed=1):
    for split, count, start in (("train", 30, seed), ("test", 12, test_seed)):
        for index, (picture, label) in enumerate(zip(*pictures(count, start), strict=True)):
            path = folder / split / CLASSNAMES[label] / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture))


def test_a_folder_is_a_task_and_any_change_of_it_is_seen(fresh):
    folder = fresh.folder / "pets"
    write_folder(folder)
    preset(fresh, "pets", {"folder": str(folder)})
    target = "cache/pets/train_32px.safetensors"
    assert fresh.planned(target) == {"pack_pets": 1, "split_task": 1, "decode_training_images": 1}
    fresh.run(target)
    assert len(load_file(fresh.folder / target)["labels"]) == 27
    assert fresh.planned(target) == {}
    record = json.loads(fresh.read("data/pets/.provenance.json"))
    assert set(record["inputs"]) == {f"{folder}/train", f"{folder}/test"}
    # The order of `classnames` decides the labels.
    preset(fresh, "pets", {"folder": str(folder)}, classnames=CLASSNAMES[::-1])
    assert fresh.planned(target)["pack_pets"] == 1
    preset(fresh, "pets", {"folder": str(folder)})
    # Edited in place, and nothing else: no folder's time changes.
    image = folder / "train/red" / min(p.name for p in (folder / "train/red").iterdir())
    image.write_bytes(encoded(pictures(1, 5)[0][0]))
    assert fresh.planned(target)["pack_pets"] == 1
    fresh.run(target)
    assert json.loads(fresh.read("data/pets/.provenance.json"))["inputs"] != record["inputs"]


def test_a_folder_that_is_not_there_is_one_clear_error(fresh):
    preset(fresh, "pets", {"folder": "nowhere/pets"})
    assert "pack_pets" not in fresh.planned("data/tiny_digits/train/0.tar")
    done = fresh.run("cache/pets/train_32px.safetensors", "-n", check=False)
    assert done.returncode != 0
    assert "nowhere/pets: has no folder train and no folder test; expected train" in done.stdout
    assert "Traceback (most recent call last)" not in done.stdout


def test_a_leak_stops_the_run_unless_the_preset_or_the_configuration_allows_it(fresh):
    folder = fresh.folder / "pets"
    write_folder(folder)
    for path in sorted((folder / "train/blue").iterdir())[:3]:
        (folder / "test/blue" / f"again-{path.name}").write_bytes(path.read_bytes())
    preset(fresh, "pets", {"folder": str(folder)})
    target = "cache/pets/test_32px.safetensors"
    done = fresh.run(target, check=False)
    assert done.returncode != 0
    assert "3 of the 30 images of train and 3 of the 15 of test are the same" in done.stdout
    assert "train/0.tar: sample s0000000.png = test/0.tar: sample s0000004.png" in done.stdout
    assert not (fresh.folder / "cache/pets/splits.json").exists()
    preset(fresh, "pets", {"folder": str(folder)}, allow_overlap=True)
    fresh.run("cache/pets/splits.json")
    assert json.loads(fresh.read("cache/pets/splits.json"))["overlap"][0]["images"] == [3, 3]
    preset(fresh, "pets", {"folder": str(folder)})
    (fresh.folder / "allowing.yaml").write_text(
        fresh.read("tests/workflow/tiny.yaml") + "allow_overlap: [pets]\n"
    )
    assert "split_task" not in fresh.planned("cache/pets/splits.json", configfile="allowing.yaml")
    fresh.run(target, configfile="allowing.yaml")


def test_shards_without_validation_get_one_by_the_seed(fresh):
    data = fresh.folder / "data" / "given"
    for split, count, seed in (("train", 40, 0), ("test", 10, 1)):
        images, labels = pictures(count, seed)
        (data / split).mkdir(parents=True)
        (data / split / "0.tar").write_bytes(shard([encoded(p) for p in images], labels, "png"))
        (data / split / "nshards.txt").write_text("1\n")
    (data / "classnames.txt").write_text("red\ngreen\nblue\n")
    preset(fresh, "given", "shards")
    drawn = {}
    for seed in (2, 3, 2):
        (fresh.folder / "seeded.yaml").write_text(
            fresh.read("tests/workflow/tiny.yaml") + f"data_seed: {seed}\n"
        )
        fresh.run("cache/given/val_32px.safetensors", configfile="seeded.yaml")
        content = fresh.read("cache/given/splits.json")
        assert drawn.setdefault(seed, content) == content
        assert len(load_file(fresh.folder / "cache/given/val_32px.safetensors")["labels"]) == 4
    assert json.loads(drawn[2])["validation"] != json.loads(drawn[3])["validation"]


def test_a_preset_that_contradicts_itself_is_one_clear_error(fresh):
    preset(fresh, "pages", hub_source("someone/pages", names=["red", "green", "cyan"]))
    done = fresh.run("-n", check=False)
    assert done.returncode != 0
    assert "task 'pages': `names` 'cyan' are not among `classnames`" in done.stdout
    assert "Traceback" not in done.stdout
