"""Provenance: every artifact says what it was made from, and the tree is followed down."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mergeloom.cli.app import app
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.jsonfile import write_json
from mergeloom.io.parquet import write_parquet
from mergeloom.io.tensors import write_tensors
from mergeloom.provenance.record import as_metadata, fingerprint, record
from mergeloom.provenance.trace import read_record, trace


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """data → base → checkpoint → result, each with its record."""
    import torch

    monkeypatch.chdir(tmp_path)
    roots = {"data": "data", "models": "models", "results": "results", "cache": "cache"}

    def made(rule, inputs):
        return record(
            rule=rule, inputs=[str(i) for i in inputs], params={"alpha": 0.3}, code="c" * 16,
            packages=("torch",), device="cpu", seed=7, roots=roots,
        )  # fmt: skip

    (tmp_path / "data/task/train").mkdir(parents=True)
    shard = tmp_path / "data/task/train/0.tar"
    shard.write_bytes(b"images")
    base, checkpoint = tmp_path / "models/base.safetensors", tmp_path / "models/ft.safetensors"
    write_tensors(base, {"w": torch.ones(2)}, as_metadata(made("pretrain_encoder", [shard])))
    write_tensors(
        checkpoint, {"w": torch.ones(2)}, as_metadata(made("finetune_task", [base, shard]))
    )
    result = tmp_path / "results/tsv.json"
    write_json(result, {"provenance": made("evaluate_merged", [checkpoint, base])})
    return tmp_path, roots, result


def text_of(path, roots):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(trace(path, roots))
    return console.export_text()


def test_the_tree_goes_down_to_the_data(tree):
    _, roots, result = tree
    lines = text_of(result, roots).splitlines()
    assert lines[0].startswith("results/tsv.json by evaluate_merged (alpha=0.3, seed 7")
    assert any("models/ft.safetensors" in line and "finetune_task" in line for line in lines)
    data = [line for line in lines if "data/task/train/0.tar" in line]
    assert "(given)" in data[0]
    assert "(see above)" in "".join(lines)


def test_downloads_are_leaves_of_the_tree(tree):
    folder, roots, _ = tree
    name = "someone/pages@0123/data/train-[0].parquet"
    content = read_record(folder / "models/base.safetensors")
    write_json(
        folder / "data/task/.provenance.json",
        content | {"rule": "download_task", "inputs": {}, "downloads": {name: "ab" * 32}},
    )
    lines = text_of(folder / "models/base.safetensors", roots).splitlines()
    shard = next(i for i, line in enumerate(lines) if "data/task/train/0.tar" in line)
    assert "by download_task" in lines[shard]
    assert lines[shard + 1].endswith(f"{name} (downloaded) sha256 {'ab' * 6}")


def test_a_changed_input_is_marked_and_not_followed(tree):
    folder, roots, result = tree
    (folder / "models/ft.safetensors").write_bytes(b"other")
    text = text_of(result, roots)
    assert "models/ft.safetensors has changed since it was read" in text
    (folder / "models/ft.safetensors").unlink()
    assert "models/ft.safetensors is gone" in text_of(result, roots)


def test_moving_a_root_changes_no_record_and_the_trace_finds_it(tree):
    folder, roots, result = tree
    before = text_of(result, roots)
    (folder / "models").rename(folder / "elsewhere")
    assert text_of(result, roots | {"models": str(folder / "elsewhere")}) == before


def test_a_record_holds_hashes_of_inputs_and_nothing_of_the_machine(tree):
    folder, _, result = tree
    content = read_record(result)
    assert content["inputs"]["models/base.safetensors"] == sha256(
        folder / "models/base.safetensors"
    )
    assert str(folder) not in json.dumps(content)


def test_the_fingerprint_changes_with_every_part_of_the_record(tree):
    content = read_record(tree[2])
    for key, value in (("code", "d" * 16), ("seed", 8), ("params", {"alpha": 0.4}), ("inputs", {})):
        assert fingerprint(content | {key: value}) != fingerprint(content)


def test_parquet_and_sidecars_carry_records_too(tree, tmp_path):
    content = read_record(tree[2])
    write_parquet(tmp_path / "t.parquet", {"epoch": [1, 2]}, as_metadata(content))
    assert read_record(tmp_path / "t.parquet") == content
    (tmp_path / "summary.csv").write_text("a,b\n")
    assert read_record(tmp_path / "summary.csv") is None
    write_json(tmp_path / "summary.csv.provenance.json", content)
    assert read_record(tmp_path / "summary.csv") == content


def test_a_file_of_someone_else_is_an_error(tree):
    folder, roots, _ = tree
    with pytest.raises(MergeloomError, match="carries no record of provenance"):
        trace(folder / "data/task/train/0.tar", roots)
    with pytest.raises(MergeloomError, match="no such file"):
        trace(folder / "nothing", roots)


def test_the_command_prints_the_tree(tree):
    folder, _, result = tree
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text("roots: {}\n")
    done = CliRunner().invoke(app, ["trace", str(result)])
    assert done.exit_code == 0, done.output
    assert "models/ft.safetensors" in done.output
    assert "by pretrain_encoder" in done.output
