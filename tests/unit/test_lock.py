"""The lock of a run: given up by the kernel when its process ends, however it ends."""

import subprocess
import sys

import pytest

HOLD = (
    "import sys, time, pathlib; from mergeloom.io.lock import begin_run\n"
    "print(begin_run(pathlib.Path(sys.argv[1]), sys.argv[2]), flush=True); time.sleep(60)\n"
)


class Folder:
    """A `.snakemake` folder in which runs begin, leave their mark and are killed."""

    def __init__(self, path):
        self.path, self.mark = path, path / "locks" / "0.input.lock"
        self.running = []

    def begin(self, jobs="local"):
        """Start a run; whether it cleared marks of a dead one. It then leaves its own."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(self.path), jobs], stdout=subprocess.PIPE, text=True
        )
        self.running.append(process)
        cleared = process.stdout.readline().strip() == "True"
        self.mark.parent.mkdir(exist_ok=True)
        self.mark.touch()
        return cleared

    def kill(self):
        """Kill the oldest run."""
        process = self.running.pop(0)
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / ".snakemake")
    yield made
    while made.running:
        made.kill()


def test_the_marks_of_a_killed_run_are_cleared_once(folder):
    assert not folder.begin()
    folder.kill()
    assert folder.begin()
    folder.kill()
    assert folder.begin()


def test_the_marks_of_a_living_run_stay(folder):
    folder.begin()
    assert not folder.begin()
    assert folder.mark.exists()
    folder.kill()
    assert not folder.begin(), "the second run still lives"


def test_a_run_that_ended_well_leaves_nothing_to_clear(folder):
    folder.begin()
    folder.mark.unlink()
    folder.kill()
    assert not folder.begin()


def test_the_marks_of_a_cluster_run_stay_since_its_jobs_may_live(folder):
    folder.begin("cluster")
    folder.kill()
    assert not folder.begin()
    folder.kill()
    assert not folder.begin(), "a local call in between makes no difference"


def test_a_cluster_run_beside_a_local_one_keeps_the_marks(folder):
    folder.begin("local")
    folder.begin("cluster")
    folder.kill()
    folder.kill()
    assert not folder.begin()


def test_the_marks_of_another_host_stay(folder):
    folder.begin()
    folder.kill()
    (folder.path / "mergeloom.lock").write_text("another-host local")
    assert not folder.begin()


def test_marks_of_an_unknown_run_stay(folder):
    folder.mark.parent.mkdir(parents=True)
    folder.mark.touch()
    assert not folder.begin()
    folder.kill()
    assert not folder.begin()
