"""The runbook's `celery control revoke TASK_ID --terminate`, with the option that Celery's command line lacks.

It becomes Celery's own `celery control terminate SIGTERM TASK_ID`. This rests on how Celery builds its command line;
if that changes, the option is missing and a warning is printed; everything else works.
"""

import warnings
from typing import Any

import click

HELP = "With revoke: also terminate the tasks where they run (the same as terminate SIGTERM)."


def add_terminate(control: Any) -> None:
    """Give Celery's `control` command the option `--terminate`."""
    run = control.callback

    @click.pass_context
    def revoke_or_run(ctx: click.Context, command: str, terminate: bool, **options: Any) -> Any:
        if terminate and not (command == "revoke" and ctx.args):
            raise click.UsageError("--terminate is an option of revoke TASK_ID [TASK_ID ...].")
        if terminate:
            command = "terminate"
            ctx.args = ["SIGTERM", *ctx.args]
        return run(command=command, **options)

    control.params.append(click.Option(["--terminate"], is_flag=True, help=HELP))
    control.callback = revoke_or_run


try:
    from celery.bin.control import control

    add_terminate(control)
except (ImportError, AttributeError) as error:
    warnings.warn(f"celery control revoke --terminate is not there (use terminate SIGTERM ID): {error}", stacklevel=1)
