"""What operators do in the tests: switch a kind, override its policy, fill in a form."""

from reaper.conf import settings as conf
from reaper.controls.forms import PolicyOverrideForm
from reaper.controls.modes import set_controls, state_of
from reaper.controls.overrides import set_overrides
from tests.factories import (
    NOW,
)

ADA = "ada"


def adapter(kind="crawl_job"):
    return conf.adapters()[kind]


def switched(kind="crawl_job", at=NOW, **changes):
    return set_controls(adapter(kind), ADA, at, **changes)


def state(at=NOW, kind="crawl_job"):
    return state_of(adapter(kind), at)


def overridden(by="ada", kind="crawl_job", at=NOW, **values):
    return set_overrides(adapter(kind), by, at, values)


def form(kind="crawl_job", **texts):
    return PolicyOverrideForm(adapter(kind), texts)


def errors(**texts):
    filled = form(**texts)
    assert not filled.is_valid()
    return [str(each) for found in filled.errors.values() for each in found]
