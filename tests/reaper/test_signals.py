"""The signals: each is sent with exactly the arguments that its protocol names."""

import inspect

import pytest

from reaper import signals
from reaper.adapters import Phase
from reaper.conf import settings as conf
from reaper.monitoring import alerts
from reaper.sweeps.sweep import sweep
from tests.factories import HOUR, held_job, running_job

pytestmark = pytest.mark.django_db


def declared_arguments(receiver):
    """The names of the arguments that a receiver of the protocol takes."""
    parameters = inspect.signature(receiver.__call__).parameters.values()
    return {each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.fixture
def sent(request):
    """What the signals were sent with, as a list per signal."""
    sent = {name: [] for name in ("reaped", "swept", "alerted")}

    def keep(name):
        def receiver(signal, sender, **arguments):
            sent[name].append({"sender": sender, **arguments})

        getattr(signals, name).connect(receiver, weak=False)
        request.addfinalizer(lambda: getattr(signals, name).disconnect(receiver))

    for name in sent:
        keep(name)
    return sent


def arguments_of(calls):
    (names,) = {frozenset(call) - {"sender"} for call in calls}
    return names


def test_reaped_and_swept_are_sent_with_their_declared_arguments(sent):
    job = running_job(2 * HOUR)
    adapter = conf.adapters()["crawl_job"]
    row = sweep(adapter, Phase.RUNNING)
    assert arguments_of(sent["reaped"]) == declared_arguments(signals.ReapedReceiver)
    assert arguments_of(sent["swept"]) == declared_arguments(signals.SweptReceiver)
    (reaped,) = sent["reaped"]
    assert reaped["sender"] is type(adapter)
    assert reaped["run"].pk == str(job.pk)
    assert sent["swept"][0]["sweep"] == row


def test_alerted_is_sent_with_its_declared_arguments(sent):
    held_job(40 * HOUR)
    alerts.evaluate_all(conf.adapters())
    assert sent["alerted"]
    assert arguments_of(sent["alerted"]) == declared_arguments(signals.AlertedReceiver)
    assert {call["state"] for call in sent["alerted"]} == {"opened"}


def test_receiver_that_raises_does_not_stop_the_sweep(sent):
    def failing(**_):
        raise ZeroDivisionError

    signals.reaped.connect(failing, weak=False)
    try:
        running_job(2 * HOUR)
        row = sweep(conf.adapters()["crawl_job"], Phase.RUNNING)
    finally:
        signals.reaped.disconnect(failing)
    assert row.acted == 1
    assert row.errors == []
    assert len(sent["swept"]) == 1
