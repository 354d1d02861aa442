"""The system checks of an adapter."""

import pytest

from reaper.adapters import RunAdapter
from tests.plugin.adapter import Parcels


@pytest.mark.django_db
def test_adapter_check_of_working_adapter_is_empty(kind):
    assert kind.adapter.check() == []


class Mistaken(Parcels):
    task_id_field = "task"
    worker_field = "who"
    created_field = None


class Homeless(Parcels):
    model = "plugin.Letter"


class Nameless(Parcels):
    model = "Parcel"


@pytest.mark.parametrize(
    ("broken", "ids"),
    [(Mistaken, ["reaper.E021", "reaper.E021"]), (Homeless, ["reaper.E020"]), (Nameless, ["reaper.E020"])],
)
def test_adapter_check_of_broken_adapter_reports_ids(parcels, broken, ids):
    found = broken().check()
    assert [each.id for each in found] == ids
    assert all(each.hint for each in found)


def test_adapter_check_names_wrong_columns(parcels):
    messages = " ".join(each.msg for each in Mistaken().check())
    assert "task_id_field" in messages
    assert "'task'" in messages
    assert "worker_field" in messages


def test_adapter_without_required_methods_cannot_be_created():
    class Half(RunAdapter):
        kind = task = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()
