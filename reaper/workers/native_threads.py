"""Threads and locks of the operating system, also where gevent has replaced the standard library's."""

import sys
from contextlib import suppress
from typing import Any


def unpatched(module: str, name: str) -> Any:
    """Return a function of the standard library as it was before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey else getattr(sys.modules[module], name)


def held_lock() -> Any:
    """Return a native lock that is held. Another thread, or a signal handler, ends a wait for it with `release`."""
    lock = unpatched("_thread", "allocate_lock")()
    lock.acquire()
    return lock


def release(lock: Any) -> None:
    """Release the lock; do nothing when it is free already."""
    with suppress(RuntimeError):
        lock.release()
