"""Pickles of whole modules: their weights are read, and nothing that they ask for is run."""

import builtins
import collections
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from mergeloom.errors import MergeloomError
from mergeloom.models.formats.pickles import read_pickle
from mergeloom.models.formats.restricted_pickle import read_module

# Modules that the reader has never heard of, as `src.modeling` of the papers' code is.
WRITER = """
import sys, types
import torch
from torch import nn
module = types.ModuleType("src.modeling")
sys.modules["src"], sys.modules["src.modeling"] = types.ModuleType("src"), module
class Transform:
    def __init__(self):
        self.size = (3, 4)
class ImageEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.MultiheadAttention(4, 2))
        self.model.register_buffer("mask", torch.zeros(2), persistent=False)
        self.short = nn.Parameter(torch.randn(3).half())
        self.strided = nn.Parameter(torch.randn(4, 6).T[1:, ::2])
        self.train_preprocess = Transform()
        self.kinds = {"a", "b"}
    def __setstate__(self, state):
        raise SystemExit("code of the class was run")
for kind in (Transform, ImageEncoder):
    kind.__module__, kind.__qualname__ = "src.modeling", kind.__name__
    setattr(module, kind.__name__, kind)
torch.manual_seed(0)
encoder = ImageEncoder()
torch.save(encoder, sys.argv[1], _use_new_zipfile_serialization=sys.argv[3] == "zip")
torch.save(encoder.state_dict(), sys.argv[2])
"""


@pytest.fixture(scope="module", params=["zip", "stream"])
def whole_module(request, tmp_path_factory):
    """A pickle of a module, in the format of torch now and before 1.6, and its state dict."""
    folder = tmp_path_factory.mktemp(request.param)
    module, state = folder / "finetuned.pt", folder / "state.pt"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRITER, module, state, request.param], check=True
    )
    return module, torch.load(state, weights_only=True)


def test_a_whole_module_gives_its_state_dict_without_its_code(whole_module):
    path, expected = whole_module
    assert "src.modeling" not in sys.modules
    found = read_pickle(path)
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    assert "src.modeling" not in sys.modules


def test_a_module_within_a_training_checkpoint_is_read(whole_module, tmp_path):
    state = collections.OrderedDict(a=torch.ones(2, 3))
    torch.save({"state_dict": state, "epoch": 3, "args": (1, "x")}, tmp_path / "epoch.pt")
    assert torch.equal(read_pickle(tmp_path / "epoch.pt")["a"], torch.ones(2, 3))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_module_cut_short_is_an_error(whole_module, tmp_path, share):
    content = whole_module[0].read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MergeloomError, match=r"cut\.pt: .*[Cc]opy (it|the file) again"):
        read_pickle(cut)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class SetState:
    """Pickles as an object whose state is set."""

    def __init__(self, start, state):
        self.start, self.state = start, state

    def __reduce__(self):
        return type(self.start), (), self.state


MARK = "touch {}/executed"


def by_opcodes(module, name, argument):
    """Protocol 4: a global from two strings, called with one string."""
    strings = [b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name, argument)]
    return b"\x80\x04" + strings[0] + strings[1] + b"\x93" + strings[2] + b"\x85R."


def by_instance(module, name, argument):
    """Protocol 0: the opcode INST."""
    return f"(S'{argument}'\ni{module}\n{name}\n.".encode()


HOSTILE = {
    "os.system": lambda mark: pickle.dumps(Call(os.system, mark)),
    "eval": lambda mark: pickle.dumps(Call(builtins.eval, f"__import__('os').system({mark!r})")),
    "exec": lambda mark: pickle.dumps(Call(exec, f"import os; os.system({mark!r})"), 2),
    "getattr": lambda mark: by_opcodes("builtins", "getattr", mark),
    "torch.load": lambda mark: pickle.dumps(Call(torch.load, mark)),
    "torch.hub": lambda mark: by_opcodes("torch.hub", "load", mark),
    "a dotted name": lambda mark: by_opcodes("torch.nn.modules.module", "os.system", mark),
    "a module behind torch.nn": lambda mark: by_opcodes(
        "torch.nn.modules.module.os", "system", mark
    ),
    "a dotted name of builtins": lambda mark: by_opcodes("builtins", "set.__init__", mark),
    "the opcode INST": lambda mark: by_instance("os", "system", mark),
    "within a state dict": lambda mark: pickle.dumps(
        {"state_dict": collections.OrderedDict(visual=Call(os.system, mark))}
    ),
    "as a state": lambda mark: pickle.dumps(SetState(collections.Counter(), Call(os.system, mark))),
    "as a persistent id": lambda mark: b"\x80\x02"
    + pickle.dumps(Call(os.system, mark), 2)[2:-1]
    + b"Q.",
    "torch's own rebuilding of any type": lambda mark: by_opcodes(
        "torch._utils", "_rebuild_from_type_v2", mark
    ),
    "numpy's loader": lambda mark: by_opcodes("numpy.lib.npyio", "load", mark),
}  # fmt: skip


def archive(path: Path, program: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/version", "3\n")


def stream(path: Path, program: bytes) -> None:
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    path.write_bytes(b"".join([*head, program, pickle.dumps([], 2)]))


def bare(path: Path, program: bytes) -> None:
    path.write_bytes(program)


@pytest.mark.parametrize("form", [archive, stream, bare])
@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_of_a_hostile_pickle_is_run(attack, form, tmp_path):
    path = tmp_path / "finetuned.pt"
    program = HOSTILE[attack](MARK.format(tmp_path))
    form(path, program)
    with pytest.raises(MergeloomError, match=r"finetuned\.pt: refers to [\w.]+, .*Nothing of it"):
        read_pickle(path)
    assert not (tmp_path / "executed").exists()


def test_the_attacks_are_real(tmp_path):
    """The usual reader runs one of them, so that the test above could fail."""
    pickle.loads(HOSTILE["os.system"](MARK.format(tmp_path)))
    assert (tmp_path / "executed").exists()


class Poison(nn.Module):
    """What lies in a module's attributes is refused, too."""


def test_a_gadget_in_an_attribute_of_a_module_is_refused(tmp_path):
    module = nn.Linear(2, 2)
    module.hook = Call(os.system, MARK.format(tmp_path))
    torch.save(module, tmp_path / "finetuned.pt")
    with pytest.raises(MergeloomError, match=r"refers to (posix|nt|os)\.system"):
        read_pickle(tmp_path / "finetuned.pt")
    assert not (tmp_path / "executed").exists()


def test_a_class_of_another_package_is_refused_by_its_name(tmp_path):
    torch.save(Poison(), tmp_path / "finetuned.pt")
    with pytest.raises(MergeloomError, match=rf"refers to {__name__}\.Poison"):
        read_pickle(tmp_path / "finetuned.pt")


GLOBAL_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "program",
    [
        # The state of a function, of a class, and of a container's class is set.
        b"\x80\x02" + GLOBAL_TENSOR + b"}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02ctorch.nn.modules.linear\nLinear\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\nN}X\x05\x00\x00\x00itemsK\x01s\x86b.",
        # A storage of a kind that is none, without a type, and of a size that no file has.
        b"\x80\x02X\x01\x00\x00\x00aQ.",
        b"\x80\x02(X\x07\x00\x00\x00storageK\x01X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuJ\xff\xff\xff\x7ftQ.",
    ],
)
@pytest.mark.parametrize("form", [archive, stream])
def test_a_pickle_that_sets_states_or_invents_storages_is_an_error(program, form, tmp_path):
    form(tmp_path / "finetuned.pt", program)
    with pytest.raises(MergeloomError, match=r"finetuned\.pt"):
        read_module(tmp_path / "finetuned.pt")


def test_a_state_set_on_a_class_changes_nothing_for_the_next_file(whole_module, tmp_path):
    program = b"\x80\x02ctorch.nn.modules.linear\nLinear\nN}X\x05\x00\x00\x00stateK\x01s\x86b."
    archive(tmp_path / "hostile.pt", program)
    with pytest.raises(MergeloomError):
        read_module(tmp_path / "hostile.pt")
    assert set(read_module(whole_module[0])) == set(whole_module[1])


def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path):
    size = b"J\x00\x00\x01\x00\x85"
    program = (
        b"\x80\x02" + GLOBAL_TENSOR
        + b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        + b"X\x03\x00\x00\x00cpuK\x04tQK\x00" + size + b"K\x01\x85\x89}tR."
    )  # fmt: skip
    path = tmp_path / "finetuned.pt"
    archive(path, program)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/0", bytes(16))
    with pytest.raises(MergeloomError, match="a tensor of shape"):
        read_module(path)
