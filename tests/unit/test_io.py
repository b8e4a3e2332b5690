"""Files appear whole or not at all, and equal content has equal bytes."""

import errno
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path
from mergeloom.io.checksums import sha256
from mergeloom.io.headers import read_header
from mergeloom.io.jsonfile import read_json, write_json
from mergeloom.io.tensors import TensorFile, TensorWriter, write_tensors

METADATA = {"mergeloom": '{"seed": 1}', "b": "2", "a": "1", "z": "ä"}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Every kind of tensor that is easily got wrong: scalar, empty, odd sizes, narrow types."""
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(5, 7, generator=generator),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "mask": torch.tensor([True, False, True]),
        "steps": torch.tensor(7),
        "zero": torch.zeros(64, 64),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- atomic


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("content")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        assert temporary.name.startswith(".")
    assert target.read_text() == "content"
    assert left_in(target.parent) == ["file.txt"]


def test_whoever_has_the_old_file_open_goes_on_reading_it(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with open(target) as reader:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert left_in(tmp_path) == ["file.txt"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "file.txt") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(MergeloomError, match=r"file\.txt.*not enough room"):
        write()
    assert left_in(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        pass


# --- JSON and checksums


def test_the_remains_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    write = (
        "import sys, time, pathlib; from mergeloom.io.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as file:\n"
        "    file.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "file.txt"
    command = [sys.executable, "-c", write, str(path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    assert len(left_in(tmp_path)) == 2
    writers[0].kill()
    writers[0].wait()
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert len(left_in(tmp_path)) == 2, "the living writer's file and the new one"
    assert path.read_text() == "whole"
    writers[1].kill()
    writers[1].wait()


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert sha256(tmp_path / "file") == expected


def test_json_has_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": 1, "a": {"d": [0.1], "c": "é"}})
    write_json(tmp_path / "two.json", {"a": {"c": "é", "d": [0.1]}, "b": 1})
    text = (tmp_path / "one.json").read_bytes()
    assert text == (tmp_path / "two.json").read_bytes()
    assert text.endswith(b"}\n")
    assert read_json(tmp_path / "one.json") == {"a": {"c": "é", "d": [0.1]}, "b": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_admits_no_nan(tmp_path: Path, value: float) -> None:
    with pytest.raises(MergeloomError, match=r"result\.json.*NaN"):
        write_json(tmp_path / "result.json", {"loss": value})
    assert left_in(tmp_path) == []


def test_missing_and_damaged_json_are_errors_that_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MergeloomError, match=r"missing\.json: no such file"):
        read_json(tmp_path / "missing.json")
    (tmp_path / "cut.json").write_text('{"a": [1, 2')
    with pytest.raises(MergeloomError, match=r"cut\.json: is not JSON"):
        read_json(tmp_path / "cut.json")


# --- safetensors


@pytest.mark.parametrize("elide", [False, True])
def test_tensors_come_back_as_they_were(tmp_path: Path, tensors: dict, elide: bool) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, tensors, METADATA, elide_zeros=elide)
    with TensorFile(path) as file:
        assert file.keys() == list(file) == sorted(tensors)
        assert file.metadata == METADATA
        for key, tensor in tensors.items():
            assert file.shape(key) == tuple(tensor.shape)
            assert file.dtype(key) == tensor.dtype
            assert torch.equal(file[key], tensor)
            assert torch.equal(file.read(key), tensor)
        assert file.is_zero("zero") == elide
        assert not file.is_zero("weight")


def test_the_safetensors_library_reads_our_files(tmp_path: Path, tensors: dict) -> None:
    write_tensors(tmp_path / "full.safetensors", tensors, METADATA)
    for key, tensor in load_file(tmp_path / "full.safetensors").items():
        assert torch.equal(tensor, tensors[key])
    write_tensors(tmp_path / "elided.safetensors", tensors, METADATA, elide_zeros=True)
    with safe_open(tmp_path / "elided.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(tensors) - {"zero", "empty"}
        assert METADATA.items() <= file.metadata().items()


@pytest.mark.parametrize("elide", [False, True])
def test_every_tensor_is_aligned_and_there_are_no_gaps(
    tmp_path: Path, tensors: dict, elide: bool
) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, tensors, METADATA, elide_zeros=elide)
    spans = read_header(path).spans
    for key, (start, _) in spans.items():
        assert start % tensors[key].itemsize == 0, key
    edges = sorted(spans.values())
    assert [start for start, _ in edges[1:]] == [stop for _, stop in edges[:-1]]
    assert edges[-1][1] == path.stat().st_size


def test_we_read_files_of_the_safetensors_library(tmp_path: Path, tensors: dict) -> None:
    path = tmp_path / "file.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, METADATA)
    with TensorFile(path) as file:
        assert file.metadata == METADATA
        assert all(torch.equal(file.read(key), tensors[key]) for key in tensors)


def test_zero_tensors_cost_nothing_when_elided(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"zero": torch.zeros(1000, 1000)}, {}, elide_zeros=True)
    assert path.stat().st_size < 1000


@pytest.mark.parametrize("elide", [False, True])
def test_equal_content_has_equal_bytes(tmp_path: Path, tensors: dict, elide: bool) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_tensors(one, tensors, METADATA, elide)
    write_tensors(two, dict(reversed(tensors.items())), dict(reversed(METADATA.items())), elide)
    assert one.read_bytes() == two.read_bytes()
    write_tensors(two, tensors | {"steps": torch.tensor(8)}, METADATA, elide)
    assert one.read_bytes() != two.read_bytes()


def test_writing_tensor_by_tensor_gives_the_same_bytes_in_any_order(
    tmp_path: Path, tensors: dict
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    write_tensors(whole, tensors, METADATA)
    layout = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    for order in (list(tensors), list(reversed(tensors))):
        with TensorWriter(parts, layout, METADATA) as writer:
            for key in order:
                writer.write(key, tensors[key])
        assert parts.read_bytes() == whole.read_bytes()


def test_reading_into_a_buffer_converts(tmp_path: Path) -> None:
    values = torch.tensor([1.0, 2.5])
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"half": values.to(torch.float16), "zero": torch.zeros(2)}, {}, True)
    buffer = torch.full((3, 2), torch.nan)
    with TensorFile(path) as file:
        file.read("half", out=buffer[1])
        file.read("zero", out=buffer[2])
        with pytest.raises(ValueError, match="shape"):
            file.read("half", out=torch.empty(3))
    assert torch.equal(buffer[1:], torch.stack([values, torch.zeros(2)]))
    assert buffer[0].isnan().all()


def test_a_writer_that_is_left_early_leaves_nothing(tmp_path: Path) -> None:
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}
    path = tmp_path / "file.safetensors"

    def write(error: type[Exception] | None) -> None:
        with TensorWriter(path, layout, {}) as writer:
            writer.write("a", torch.zeros(2))
            if error:
                raise error

    with pytest.raises(ValueError, match=r"1 tensors were not written.* b"):
        write(None)
    with pytest.raises(RuntimeError):
        write(RuntimeError)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "tensor"), [("a", torch.zeros(3)), ("a", torch.zeros(2).double()), ("b", None)]
)
def test_a_writer_refuses_what_was_not_announced(
    tmp_path: Path, key: str, tensor: torch.Tensor | None
) -> None:
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}
    path = tmp_path / "file.safetensors"
    with pytest.raises(ValueError, match=key), TensorWriter(path, layout, {}, True) as writer:
        writer.write(key, torch.zeros(2) if tensor is None else tensor)
    assert left_in(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(MergeloomError, match=r"big\.safetensors: there is not enough room"):
            write_tensors(tmp_path / "big.safetensors", {"a": torch.ones(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(tmp_path) == []


def test_a_killed_writer_leaves_no_file_and_the_next_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    code = f"""
import os, signal, torch
from mergeloom.io.tensors import TensorWriter
with TensorWriter({str(path)!r}, {{"a": (torch.float32, (2,))}}, {{}}) as writer:
    writer.write("a", torch.ones(2))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    assert not path.exists()
    write_tensors(path, {"a": torch.ones(2)}, {})
    assert torch.equal(TensorFile(path)["a"], torch.ones(2))


def test_the_header_is_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.ones(2, 3)}, METADATA)
    header = read_header(path)
    assert header.metadata == METADATA
    assert header.tensors == {"a": ("F32", (2, 3))}
    start, stop = header.spans["a"]
    assert np.frombuffer(path.read_bytes()[start:stop], "<f4").tolist() == [1.0] * 6
    modules = "atomic", "checksums", "jsonfile", "headers"
    code = "; ".join(f"import mergeloom.io.{module}" for module in modules)
    code += "; import sys; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def bad_files(folder: Path) -> dict[str, str]:
    """File name to what the error must say."""
    torch.save({"a": torch.ones(2)}, folder / "zip.safetensors")
    torch.save({"a": 1}, folder / "old.safetensors", _use_new_zipfile_serialization=False)
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": list(range(100))}))
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    write_tensors(folder / "whole.safetensors", {"visual.proj": torch.ones(100, 100)}, {})
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "payload.safetensors").write_bytes(whole[:-1])
    (folder / "header.safetensors").write_bytes(whole[:30])
    (folder / "damaged.safetensors").write_bytes(whole.replace(b'"dtype"', b'"dtypo"'))
    (folder / "shape.safetensors").write_bytes(whole.replace(b"[100,100]", b"[100,101]"))
    (folder / "dtype.safetensors").write_bytes(whole.replace(b'"F32"', b'"X32"'))
    (folder / "folder.safetensors").mkdir()
    return {
        "zip": "is a pickle",
        "old": "is a pickle",
        "pickle": "is a pickle",
        "empty": "cut short",
        "text": "not a safetensors file",
        "payload": "cut short",
        "header": "cut short",
        "damaged": "header is damaged",
        "shape": "visual.proj takes 40000 bytes, but F32 [100, 101] needs 40400",
        "dtype": "visual.proj has the type X32",
        "folder": "is a directory",
        "missing": "no such file",
    }


def test_a_bad_file_is_an_error_that_names_it_and_says_what_is_wrong(tmp_path: Path) -> None:
    for name, words in bad_files(tmp_path).items():
        path = tmp_path / f"{name}.safetensors"
        for read in (read_header, TensorFile):
            with pytest.raises(MergeloomError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: "), name
            assert words in str(caught.value), name
    assert zipfile.is_zipfile(tmp_path / "zip.safetensors")  # the bait was what it should be


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes((0x280).to_bytes(8, "little") + header.ljust(0x280) + b"\x07")
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert TensorFile(path).read("a").tolist() == [7]


def test_asking_for_a_tensor_that_is_not_there_lists_some_that_are(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"visual.proj": torch.ones(2)}, {})
    for ask in (TensorFile(path).read, TensorFile(path).shape, TensorFile(path).is_zero):
        with pytest.raises(MergeloomError, match=r"has no tensor proj.*visual\.proj"):
            ask("proj")
    assert "proj" not in TensorFile(path)
    assert "visual.proj" in TensorFile(path)
