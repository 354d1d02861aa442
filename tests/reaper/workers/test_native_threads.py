"""The standard library's functions as they were before gevent."""

import sys
from threading import get_ident
from types import SimpleNamespace

from reaper.workers.native_threads import unpatched


def test_unpatched_returns_the_function_without_gevent_patch(monkeypatch):
    monkey = SimpleNamespace(get_original=lambda module, name: f"the native {module}.{name}")
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    assert unpatched("_thread", "get_ident") == "the native _thread.get_ident"
    monkeypatch.delitem(sys.modules, "gevent.monkey")
    assert unpatched("_thread", "get_ident") is get_ident
