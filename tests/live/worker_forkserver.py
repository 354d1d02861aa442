"""Start Celery workers in a fraction of a second: each is forked from a process that has imported everything.

A scenario has a dozen workers, and each would spend seconds of CPU time on the same imports. The forked process has no
connection and no thread yet, leads a session of its own, and becomes the worker that the command line would start.

Each line of standard input is the JSON of `become_worker`'s arguments, and is answered with the worker's process id. At
the end of the input all workers are killed.
"""

import contextlib
import json
import os
import signal
import sys
from importlib import import_module

MODULES = (
    *("celery.__main__", "celery.bin.celery", "celery.bin.worker", "celery.apps.worker", "celery.worker.worker"),
    *("celery.worker.consumer", "celery.worker.strategy", "celery.concurrency.prefork", "celery.concurrency.solo"),
    *(
        "kombu.transport.redis",
        "kombu.transport.pyamqp",
        "apps.sources.tasks",
        "reaper.tasks",
        "tests.live.worker_quirks",
    ),
)


def main() -> None:
    """Fork a worker for each line of standard input."""
    # Processes that have ended are reaped at once.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    import_module("config.celery")
    import_module("django").setup()
    for module in MODULES:
        import_module(module)
    pids = []
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become_worker(**json.loads(line))
        pids.append(pid)
        os.write(1, b"%d\n" % pid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def become_worker(words: list[str], log: str, quirk: str) -> None:
    """Run `celery` with these words; `quirk` names a function of `worker_quirks`, '' for none."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT), number)
    if quirk:
        getattr(import_module("tests.live.worker_quirks"), quirk)()
    sys.argv = ["celery", *words]
    sys.exit(import_module("celery.__main__").main())


if __name__ == "__main__":
    main()
