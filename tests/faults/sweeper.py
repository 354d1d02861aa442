"""Sweeps everything once in a process of its own, and kills or halts itself at a step: `sweeper STEP kill|halt`."""

import os
import signal
import sys

STEPS = ("judged", "recorded", "written", "committed", "revoked", "published", "finalizing")


def interrupt(step, how):
    """Kill or halt this process when it first arrives at the step."""
    from reaper.adapters import ModelRunAdapter
    from reaper.sweeps import outbox, writer
    from reaper.sweeps.outbox import Outbox
    from reaper.sweeps.writer import GuardedWriter

    owner, name, is_before = {
        "judged": (GuardedWriter, "try_write", True),
        "recorded": (writer, "record_updates", False),
        "written": (ModelRunAdapter, "apply", False),
        "committed": (GuardedWriter, "try_write", False),
        "revoked": (Outbox, "publish", True),
        "published": (outbox, "confirm_dispatches", True),
        "finalizing": (GuardedWriter, "finalize", True),
    }[step]
    original = getattr(owner, name)
    number = {"kill": signal.SIGKILL, "halt": signal.SIGSTOP}[how]

    def interrupted(*args, **more):
        setattr(owner, name, original)
        if is_before:
            os.kill(os.getpid(), number)
        answer = original(*args, **more)
        if not is_before:
            os.kill(os.getpid(), number)
        return answer

    setattr(owner, name, interrupted)


def main(step="", how="kill"):
    """Sweep everything; print the sweeps' errors."""
    import django

    django.setup()
    from reaper.conf import settings as conf
    from reaper.core.facts import Phase
    from reaper.sweeps.parents import finalize_parents
    from reaper.sweeps.sweep import sweep

    if step:
        interrupt(step, how)
    for adapter in conf.adapters().values():
        for phase in (Phase.QUEUED, Phase.RUNNING):
            print(*sweep(adapter, phase).error_messages, sep="\n", flush=True)
        print(*finalize_parents(adapter).error_messages, sep="\n", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    main(*sys.argv[1:])
