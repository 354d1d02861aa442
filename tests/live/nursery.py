"""Starts Celery workers in a fraction of a second: each is forked from a process that has imported everything.

A live world has a dozen workers, and each would spend seconds of the processor on the same imports. What is forked has
no connection and no thread yet, leads a session of its own, and is the worker that the command line would be.

Orders are lines of JSON on standard input, each answered with the process's number. At the end of the input all end.
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
    *("kombu.transport.redis", "kombu.transport.pyamqp", "apps.sources.tasks", "reaper.tasks", "tests.live.odd"),
)


def main() -> None:
    """Carry out the orders."""
    # Whoever has ended is buried at once.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    import_module("config.celery")
    import_module("django").setup()
    for module in MODULES:
        import_module(module)
    born = []
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            live(**json.loads(line))
        born.append(pid)
        os.write(1, b"%d\n" % pid)
    for pid in born:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def live(words: list[str], log: str, odd: str) -> None:
    """Be a worker; `odd` names what is odd about it."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT), number)
    if odd:
        getattr(import_module("tests.live.odd"), odd)()
    sys.argv = ["celery", *words]
    sys.exit(import_module("celery.__main__").main())


if __name__ == "__main__":
    main()
