# A run that was killed leaves Snakemake's lock behind. The kernel knows that it is dead: this run
# holds a lock of its own for its lifetime, and clears marks that no living run on this host can have
# made. Jobs of a cluster outlive their driver, so with an executor the mark stays: see
# profiles/README.md.

from snakemake.logging import logger

from mergeloom.io.lock import join_runs

if workflow.is_main_process and workflow.local_exec and not workflow.dryrun:
    marks = sorted(Path(".snakemake", "locks").glob("*.lock"))
    if join_runs(Path(".snakemake", "mergeloom.lock")) == "dead" and marks:
        logger.warning("The last run in this folder was killed; its lock is cleared.")
        for mark in marks:
            mark.unlink(missing_ok=True)
