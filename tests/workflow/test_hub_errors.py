"""What the hub refuses or breaks is an error that says what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import TOKEN, Hub

SCRIPT = """
import json, sys
from mergeloom.errors import MergeloomError
from mergeloom.io.hub import fetch, listing
answers = []
for call, arguments in json.loads(sys.argv[1]):
    try:
        answers.append(str({"fetch": fetch, "listing": listing}[call](*arguments)))
    except MergeloomError as error:
        answers.append(f"MergeloomError: {error}")
print(json.dumps(answers))
"""


def ask(environment, *calls):
    """Answers or errors of calls, by a process of its own: the client reads variables at start."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub():
    with Hub() as served:
        served.add("model", "some/model", {"a/weights.bin": b"123", "config.json": b"{}"})
        served.add("model", "some/gated", {"weights.bin": b"123"}, gated=True)
        yield served


def test_files_are_fetched_listed_and_found_again_offline(hub, tmp_path):
    environment = hub.environment(tmp_path)
    path, names = ask(
        environment, ("fetch", ["some/model", "a/weights.bin", "main"]), ("listing", ["some/model"])
    )
    assert Path(path).read_bytes() == b"123"
    assert names == "['a/weights.bin', 'config.json']"
    again, missing, listed = ask(
        environment | {"HF_HUB_OFFLINE": "1"},
        ("fetch", ["some/model", "a/weights.bin", "main"]),
        ("fetch", ["some/model", "config.json", "main"]),
        ("listing", ["some/model"]),
    )
    assert again == path
    assert "is not in the cache, and offline mode is on" in missing
    assert listed == "['a/weights.bin']"


def test_what_is_not_there_is_told_apart(hub, tmp_path):
    answers = ask(
        hub.environment(tmp_path),
        ("fetch", ["some/nothing", "a.bin"]),
        ("fetch", ["some/model", "a/weights.bin", "v9"]),
        ("fetch", ["some/model", "b.bin"]),
        ("fetch", ["some/gated", "weights.bin"]),
        ("listing", ["some/model", "v9"]),
    )
    for answer, text in zip(
        answers,
        (
            "some/nothing/a.bin (revision of the default branch): http://",
            "some/model/a/weights.bin (revision v9): the repository has no such revision",
            "b.bin (revision of the default branch): the repository has no such file",
            "some/gated/weights.bin (revision of the default branch): is gated. Accept its terms",
            "some/model (revision v9): the repository has no such revision",
        ),
        strict=True,
    ):
        assert answer.startswith("MergeloomError: ")
        assert text in answer
    token = hub.environment(tmp_path, HF_TOKEN=TOKEN)
    assert ask(token, ("fetch", ["some/gated", "weights.bin"]))[0].endswith("weights.bin")


def test_half_a_file_is_not_kept(hub, tmp_path):
    environment = hub.environment(tmp_path)
    hub.fault("short", "*weights.bin")
    call = ("fetch", ["some/model", "a/weights.bin"])
    assert "sent another number of bytes than it announced" in ask(environment, call)[0]
    hub.mend()
    assert ask(environment, call)[0].endswith("weights.bin")
