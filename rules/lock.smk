# A run that was killed leaves Snakemake's lock behind, and the next call would refuse to work. A Snakefile
# is read before Snakemake knows whether it will run anything, and where, so this waits for the call.

from functools import wraps

from snakemake.logging import logger

from mergeloom.io.lock import begin_run


def after_clearing_a_dead_lock(execute):
    """The workflow's `execute`, which first clears the lock of a run that the kernel says is dead."""

    @wraps(execute)
    def run(*arguments, executor_plugin, **options):
        settings = executor_plugin.common_settings
        if workflow.is_main_process and not settings.dryrun_exec:
            if begin_run(
                Path(".snakemake"), "local" if settings.local_exec else "cluster"
            ):
                logger.warning(
                    "The last run in this folder was killed; its lock is cleared."
                )
        return execute(*arguments, executor_plugin=executor_plugin, **options)

    return run


workflow.execute = after_clearing_a_dead_lock(workflow.execute)
