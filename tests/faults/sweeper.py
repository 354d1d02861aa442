"""Sweeps everything once in a process of its own, and kills or halts itself at a step: `sweeper STEP kill|halt`."""

import os
import signal
import sys

STEPS = ("judged", "recorded", "written", "committed", "revoked", "published", "finalizing")


def interrupt(step, how):
    """Have the first arrival at a step be the last thing that this process does, or does for now."""
    from reaper.adapters import ModelRunAdapter
    from reaper.ledger import records as ledger
    from reaper.sweeps import sweep as sweeps
    from reaper.sweeps.outbox import Outbox

    owner, name, is_before = {
        "judged": (sweeps.SweepRun, "attempt", True),
        "recorded": (ledger, "record", False),
        "written": (ModelRunAdapter, "apply", False),
        "committed": (sweeps.SweepRun, "attempt", False),
        "revoked": (Outbox, "publish", True),
        "published": (ledger, "confirm", True),
        "finalizing": (sweeps.SweepRun, "finalize", True),
    }[step]
    what, number = getattr(owner, name), {"kill": signal.SIGKILL, "halt": signal.SIGSTOP}[how]

    def interrupted(*args, **more):
        setattr(owner, name, what)
        if is_before:
            os.kill(os.getpid(), number)
        answer = what(*args, **more)
        if not is_before:
            os.kill(os.getpid(), number)
        return answer

    setattr(owner, name, interrupted)


def main(step="", how="kill"):
    """Sweep everything; say on stdout what went wrong."""
    import django

    django.setup()
    from reaper.conf import settings as conf
    from reaper.core.facts import Phase
    from reaper.sweeps import sweep as sweeps

    if step:
        interrupt(step, how)
    for adapter in conf.adapters().values():
        for phase in (Phase.QUEUED, Phase.RUNNING):
            print(*sweeps.sweep(adapter, phase).errors, sep="\n", flush=True)
        print(*sweeps.finalize_parents(adapter).errors, sep="\n", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    main(*sys.argv[1:])
