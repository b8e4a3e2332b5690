"""The lock of a run: given up by the kernel when its process ends, however it ends."""

import subprocess
import sys

from mergeloom.io import lock

HOLD = (
    "import sys, time; from mergeloom.io.lock import join_runs\n"
    "print(join_runs(__import__('pathlib').Path(sys.argv[1])), flush=True); time.sleep(60)\n"
)


def start(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def stop(process):
    process.kill()
    process.wait()


def test_a_killed_run_is_dead_and_a_living_one_is_not(tmp_path):
    path = tmp_path / ".snakemake" / "mergeloom.lock"
    first, said = start(path)
    assert said == "first"
    second, said = start(path)
    assert said == "alive"
    stop(first)
    third, said = start(path)
    assert said == "alive", "the second still runs"
    stop(second)
    stop(third)
    fourth, said = start(path)
    assert said == "dead"
    stop(fourth)


def test_a_run_on_another_host_is_never_called_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_held", [])
    path = tmp_path / "mergeloom.lock"
    path.write_text("another-host")
    process, said = start(path)
    assert said == "other host"
    stop(process)
