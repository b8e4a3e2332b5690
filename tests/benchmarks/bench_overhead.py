"""What Snakemake and process start-up add to the demo, as a share of its wall time; its memory.

Builds the configuration's tables and figures from nothing in a temporary folder. Every Python
process notes when it began, when it ended and when it was importing; a job's *work* is what its
log says less the imports that fell into it. The rest of its life is start-up. Start-up of jobs
counts by the cores it fills; what Snakemake adds itself counts as the time in which no job is
alive.

    python tests/benchmarks/bench_overhead.py [--cores 2] [TARGET ...]
"""

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
# Imported by every Python process of the run, before anything else.
WATCH = """
import atexit, builtins, json, os, sys, time
began, imports, ready, depth = time.time(), [], [], [0]
original = builtins.__import__
def timed(*arguments, **options):
    if depth[0]:
        return original(*arguments, **options)
    depth[0], start = 1, time.time()
    try:
        return original(*arguments, **options)
    finally:
        depth[0] = 0
        if time.time() - start > 0.001:
            imports.append((start, time.time()))
        if arguments[0] == "rule":  # the last import at the top of every script
            ready.append(time.time())
builtins.__import__ = timed
def note():
    name = os.path.join(os.environ["MERGELOOM_WATCH"], f"{os.getpid()}-{began}.json")
    with open(name, "w") as file:
        json.dump({"argv": sys.argv, "began": began, "ready": (ready or [time.time()])[0],
                   "ended": time.time(), "imports": imports}, file)
atexit.register(note)
"""
WORK = re.compile(r"start-up ([\d.]+) s, work ([\d.]+) s")


def alive(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, 0.0
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def resident(run: psutil.Process) -> int:
    """Bytes of private and shared memory that a process and all its descendants hold now (PSS)."""
    total = 0
    for process in [run, *run.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def main() -> None:
    """Run the demo watched, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        watch = Path(folder, "watch")
        watch.mkdir()
        (watch / "sitecustomize.py").write_text(WATCH)
        begun = time.time()
        run = psutil.Popen(
            [sys.executable, "-m", "snakemake", *arguments.targets,
             "-s", REPOSITORY / "Snakefile", "-d", folder, "--cores", str(arguments.cores),
             "--workflow-profile", REPOSITORY / "profiles" / "default", "--quiet", "all"],
            env=os.environ | {"PYTHONPATH": str(watch), "MERGELOOM_WATCH": str(watch)},
        )  # fmt: skip
        memory = 0
        while run.poll() is None:
            memory = max(memory, resident(run))
            time.sleep(0.2)
        if run.returncode:
            sys.exit(f"snakemake ended with {run.returncode}")
        wall = time.time() - begun
        processes = [json.loads(path.read_text()) for path in watch.glob("*.json")]
        jobs = [p for p in processes if ".snakemake/scripts/" in p["argv"][0]]
        life = sum(p["ended"] - p["began"] for p in jobs)
        logs = [WORK.findall(path.read_text()) for path in Path(folder, "logs").rglob("*.log")]
        logged = sum(float(found[-1][1]) for found in logs if found)
        # Imports after a job's start-up: the work in its log holds them.
        late = sum(end - start for p in jobs for start, end in p["imports"] if start > p["ready"])
        work = logged - late
        idle = wall - alive([(p["began"], p["ended"]) for p in jobs])
    added = (life - work) / arguments.cores + idle
    print(f"demo: {wall:.1f} s on {arguments.cores} cores, {len(jobs)} jobs, "
          f"at most {memory / 2**20:.0f} MiB at a time")  # fmt: skip
    print(f"work of jobs:              {work:7.1f} s")
    print(
        f"start-up of jobs:          {life - work:7.1f} s, of it imports late in a job {late:.1f} s"
    )
    print(f"Snakemake, no job alive:   {idle:7.1f} s")
    print(f"added to the wall time:    {added:7.1f} s = {added / wall:.1%} (aim: at most 25%)")


if __name__ == "__main__":
    main()
