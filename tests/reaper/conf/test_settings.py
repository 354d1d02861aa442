"""The settings: defaults, precedence, when they are read, and every mistake with its id."""

import dataclasses
import math
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.conf.validators import parser_for
from reaper.core.policy import Action, Policy

HERE = "tests.reaper.conf.test_settings"
HOUR = timedelta(hours=1)


class Orders(RunAdapter):
    """A kind of run that is in no database."""

    kind = "order"
    task = "shop.tasks.fulfil"
    using = "default"

    def iter_unfinished(self, phase):
        return iter(())

    def get(self, pk):
        return None

    def apply(self, changes, now):
        return []

    def messages(self, runs):
        return {}


class Returns(Orders):
    kind = "return"
    policy = {"run_timeout": 2 * HOUR, "queue_timeout": 600, "on_timeout": "requeue"}


class Abstract(RunAdapter):
    kind = "abstract"
    task = "shop.tasks.abstract"


class Picky(Orders):
    kind = "picky"

    def __init__(self, shop):
        self.shop = shop


class Explosive(Orders):
    kind = "explosive"

    def __init__(self):
        raise OSError("boom")


def variant(name, **attributes):
    return type(name, (Orders,), attributes)


OrdersAgain = variant("OrdersAgain")
Nameless = variant("Nameless", kind="")
Kindless = variant("Kindless", kind=None)
Colon = variant("Colon", kind="an:order")
Endless = variant("Endless", kind="o" * 101)
Taskless = variant("Taskless", task="")
Misspelt = variant("Misspelt", policy={"run_timout": 5})
Zero = variant("Zero", policy={"run_timeout": 0})
Listed = variant("Listed", policy=["run_timeout"])


def named(*names, **settings):
    return override_settings(REAPER={"ADAPTERS": [f"{HERE}.{name}" for name in names], **settings})


def policy(kind="order"):
    return conf.policy(conf.adapters()[kind])


def test_kind_without_settings_has_defaults():
    with named("Orders"):
        assert policy() == Policy()
        assert conf.get_settings().clock == "database"
        assert conf.get_settings().history_retention == timedelta(days=90)
        assert conf.problems() == []


def test_adapters_are_in_order_of_settings():
    with named("Returns", "Orders"):
        assert [(kind, type(each)) for kind, each in conf.adapters().items()] == [
            ("return", Returns),
            ("order", Orders),
        ]


def test_adapters_returns_same_instances_in_new_dict():
    with named("Orders"):
        first = conf.adapters()
        orders = first.pop("order")
        assert conf.adapters()["order"] is orders


def test_policy_value_of_kind_wins_over_top_adapter_and_default():
    kinds = {"return": {"ON_TIMEOUT": "fail"}}
    with named("Orders", "Returns", QUEUE_TIMEOUT=300, KINDS=kinds):
        got = policy("return")
        assert got.on_timeout is Action.FAIL
        assert got.queue_timeout == timedelta(seconds=300)
        assert got.run_timeout == 2 * HOUR
        assert got.alert_after == Policy().alert_after
        assert policy("order") == Policy(queue_timeout=timedelta(seconds=300))


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("RUN_TIMEOUT", timedelta(minutes=7), timedelta(minutes=7)),
        ("RUN_TIMEOUT", 90, timedelta(seconds=90)),
        ("RUN_TIMEOUT", 0.5, timedelta(milliseconds=500)),
        ("RUN_TIMEOUT", "1h 30m", timedelta(minutes=90)),
        ("STALL_TIMEOUT", "off", None),
        ("ON_TIMEOUT", "requeue", Action.REQUEUE),
        ("ON_TIMEOUT", Action.FAIL, Action.FAIL),
        ("MAX_REQUEUES", 0, 0),
        ("MAX_ACTIONS", 1, 1),
        ("MAX_ACTIONS", "7", 7),
        ("BACKOFF", [1, timedelta(minutes=1)], (timedelta(seconds=1), timedelta(minutes=1))),
        ("BACKOFF", [], ()),
        ("BACKOFF", "30s, 2 min", (timedelta(seconds=30), timedelta(minutes=2))),
    ],
)
def test_policy_setting_of_any_accepted_type_is_read(key, value, meant):
    with named("Orders", **{key: value}):
        got = getattr(policy(), key.lower())
        assert got == meant
        assert type(got) is type(meant)


def test_policy_field_is_a_setting_on_all_three_levels():
    for field in dataclasses.fields(Policy):
        value = {Action: "requeue"}.get(type(field.default), field.default)
        with named("Orders", **{field.name.upper(): value}, KINDS={"order": {field.name.upper(): value}}):
            assert conf.problems() == []
        with named("Orders"):
            conf.policy(variant("Own", policy={field.name: value})())


def test_optional_parser_accepts_none_and_off():
    optional = parser_for(timedelta | None)
    assert optional(None) is None
    assert optional(5) == timedelta(seconds=5)


def test_history_retention_of_a_day_is_accepted():
    with named("Orders", HISTORY_RETENTION=timedelta(days=1)):
        assert conf.get_settings().history_retention == timedelta(days=1)


def test_clock_and_history_retention_are_read():
    with named("Orders", CLOCK="host", HISTORY_RETENTION=timedelta(days=7)):
        assert conf.get_settings().clock == "host"
        assert conf.get_settings().history_retention == timedelta(days=7)


def test_overridden_settings_apply_within_their_block_only():
    with named("Orders", RUN_TIMEOUT=60):
        with named("Orders", RUN_TIMEOUT=120):
            assert policy().run_timeout == timedelta(seconds=120)
        assert policy().run_timeout == timedelta(seconds=60)


def test_reading_does_not_change_django_settings(settings):
    settings.REAPER = given = {"ADAPTERS": [f"{HERE}.Orders"], "RUN_TIMEOUT": 60, "KINDS": {"order": {"BACKOFF": [5]}}}
    before = {**given, "ADAPTERS": [*given["ADAPTERS"]], "KINDS": {"order": {"BACKOFF": [5]}}}
    policy()
    assert settings.REAPER is given
    assert given == before


ORDERS = {"ADAPTERS": [f"{HERE}.Orders"]}
WRONG_SETTINGS = {
    "no dict": (["ADAPTERS"], ["E001"]),
    "None": (None, ["E001"]),
    "unknown key": ({**ORDERS, "RUN_TIMOUT": 5}, ["E002"]),
    "a key that is no text": ({**ORDERS, 7: 5}, ["E002"]),
    "lower case": ({**ORDERS, "run_timeout": 5}, ["E002"]),
    "unknown key of a kind": ({**ORDERS, "KINDS": {"order": {"QUEUE_TIMEOT": 5}}}, ["E002"]),
    "top-level key in a kind": ({**ORDERS, "KINDS": {"order": {"CLOCK": "host"}}}, ["E002"]),
    "KINDS is no dict": ({**ORDERS, "KINDS": ["order"]}, ["E001"]),
    "a kind's settings are no dict": ({**ORDERS, "KINDS": {"order": 5}}, ["E001"]),
    "unknown kind": ({**ORDERS, "KINDS": {"ordr": {}}}, ["E002"]),
    "a kind that is no text": ({**ORDERS, "KINDS": {7: {}}}, ["E002"]),
    "text for a duration": ({**ORDERS, "RUN_TIMEOUT": "soon"}, ["E003"]),
    "None for a duration": ({**ORDERS, "RUN_TIMEOUT": None}, ["E003"]),
    "bool for a duration": ({**ORDERS, "RUN_TIMEOUT": True}, ["E003"]),
    "text for a count": ({**ORDERS, "MAX_REQUEUES": "three"}, ["E003"]),
    "float for a count": ({**ORDERS, "MAX_REQUEUES": 3.0}, ["E003"]),
    "bool for a count": ({**ORDERS, "MAX_REQUEUES": False}, ["E003"]),
    "number for a list": ({**ORDERS, "BACKOFF": 30}, ["E003"]),
    "text in a list": ({**ORDERS, "BACKOFF": [30, "soon"]}, ["E003"]),
    "bool in a list": ({**ORDERS, "BACKOFF": [True]}, ["E003"]),
    "zero duration": ({**ORDERS, "RUN_TIMEOUT": 0}, ["E004"]),
    "zero timedelta": ({**ORDERS, "RUN_TIMEOUT": timedelta(0)}, ["E004"]),
    "less than a microsecond": ({**ORDERS, "RUN_TIMEOUT": 1e-9}, ["E004"]),
    "negative duration": ({**ORDERS, "LOST_GRACE": -1}, ["E004"]),
    "negative timedelta": ({**ORDERS, "LOST_GRACE": -HOUR}, ["E004"]),
    "hugely negative": ({**ORDERS, "LOST_GRACE": -1e300}, ["E004"]),
    "zero in a list": ({**ORDERS, "BACKOFF": [0]}, ["E004"]),
    "negative count": ({**ORDERS, "MAX_REQUEUES": -1}, ["E004"]),
    "no actions at all": ({**ORDERS, "MAX_ACTIONS": 0}, ["E004"]),
    "NaN": ({**ORDERS, "RUN_TIMEOUT": math.nan}, ["E004"]),
    "infinite": ({**ORDERS, "RUN_TIMEOUT": math.inf}, ["E004"]),
    "minus infinite": ({**ORDERS, "RUN_TIMEOUT": -math.inf}, ["E004"]),
    "NaN for a count": ({**ORDERS, "MAX_ACTIONS": math.nan}, ["E004"]),
    "infinite count": ({**ORDERS, "MAX_ACTIONS": math.inf}, ["E004"]),
    "beyond a timedelta": ({**ORDERS, "RUN_TIMEOUT": 1e300}, ["E004"]),
    "beyond a float": ({**ORDERS, "RUN_TIMEOUT": 10**400}, ["E004"]),
    "the longest timedelta": ({**ORDERS, "HISTORY_RETENTION": timedelta.max}, ["E004"]),
    "history of less than a day": ({**ORDERS, "HISTORY_RETENTION": timedelta(days=1) - timedelta(seconds=1)}, ["E004"]),
    "beyond a database's integer": ({**ORDERS, "MAX_ACTIONS": 2**31}, ["E004"]),
    "neither fail nor requeue": ({**ORDERS, "ON_TIMEOUT": "retry"}, ["E005"]),
    "an action, but none of these": ({**ORDERS, "ON_TIMEOUT": Action.LEAVE}, ["E005"]),
    "a list for a choice": ({**ORDERS, "ON_TIMEOUT": ["fail"]}, ["E005"]),
    "a third clock": ({**ORDERS, "CLOCK": "wall"}, ["E005"]),
    "no clock": ({**ORDERS, "CLOCK": None}, ["E005"]),
    "nothing": ({}, ["E006"]),
    "no adapters": ({"ADAPTERS": []}, ["E006"]),
    "one path": ({"ADAPTERS": f"{HERE}.Orders"}, ["E003"]),
    "a class": ({"ADAPTERS": [Orders]}, ["E003"]),
    "adapters as a dict": ({"ADAPTERS": {"order": f"{HERE}.Orders"}}, ["E003"]),
    "no such class": ({"ADAPTERS": [f"{HERE}.Nothing"]}, ["E007"]),
    "no such module": ({"ADAPTERS": ["nowhere.Orders"]}, ["E007"]),
    "no dotted path": ({"ADAPTERS": ["Orders"]}, ["E007"]),
    "empty path": ({"ADAPTERS": [""]}, ["E007"]),
    "another class": ({"ADAPTERS": ["datetime.timedelta"]}, ["E007"]),
    "a function": ({"ADAPTERS": [f"{HERE}.policy"]}, ["E007"]),
    "abstract": ({"ADAPTERS": [f"{HERE}.Abstract"]}, ["E007"]),
    "wants an argument": ({"ADAPTERS": [f"{HERE}.Picky"]}, ["E007"]),
    "raises": ({"ADAPTERS": [f"{HERE}.Explosive"]}, ["E007"]),
    "empty kind": ({"ADAPTERS": [f"{HERE}.Nameless"]}, ["E008"]),
    "no kind": ({"ADAPTERS": [f"{HERE}.Kindless"]}, ["E008"]),
    "kind with a colon": ({"ADAPTERS": [f"{HERE}.Colon"]}, ["E008"]),
    "kind too long": ({"ADAPTERS": [f"{HERE}.Endless"]}, ["E008"]),
    "duplicate kind": ({"ADAPTERS": [f"{HERE}.Orders", f"{HERE}.OrdersAgain"]}, ["E008"]),
    "named twice": ({"ADAPTERS": [f"{HERE}.Orders"] * 2}, ["E008"]),
    "no task": ({"ADAPTERS": [f"{HERE}.Taskless"]}, ["E008"]),
    "adapter's unknown key": ({"ADAPTERS": [f"{HERE}.Misspelt"]}, ["E002"]),
    "adapter's zero": ({"ADAPTERS": [f"{HERE}.Zero"]}, ["E004"]),
    "adapter's policy is no dict": ({"ADAPTERS": [f"{HERE}.Listed"]}, ["E001"]),
    "several": ({**ORDERS, "CLOCK": 5, "RUN_TIMEOUT": 0, "KINDS": {"order": {"BACKOF": []}}}, ["E005", "E004", "E002"]),
    "a broken adapter's kind": ({"ADAPTERS": ["nowhere.Orders"], "KINDS": {"order": {"RUN_TIMEOUT": 5}}}, ["E007"]),
}


@pytest.mark.parametrize(("given", "ids"), WRONG_SETTINGS.values(), ids=WRONG_SETTINGS.keys())
def test_wrong_setting_has_check_id_and_stops_every_reader(given, ids):
    with override_settings(REAPER=given):
        found = conf.problems()
        assert [problem.id for problem in found] == [f"reaper.{each}" for each in ids]
        for problem in found:
            assert problem.message.endswith(".")
            assert problem.hint.endswith((".", "?"))
        for read in (conf.adapters, lambda: conf.policy(Orders()), conf.get_settings):
            with pytest.raises(ImproperlyConfigured) as raised:
                read()
            assert found[0].message in str(raised.value)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({**ORDERS, "RUN_TIMOUT": 5}, "Did you mean RUN_TIMEOUT?"),
        ({**ORDERS, "run_timeout": 5}, "Did you mean RUN_TIMEOUT?"),
        ({**ORDERS, "ADAPTER": []}, "Did you mean ADAPTERS?"),
        ({**ORDERS, "KINDS": {"order": {"QUEUE_TIMEOT": 5}}}, "Did you mean QUEUE_TIMEOUT?"),
        ({**ORDERS, "KINDS": {"Order": {}}}, "Did you mean order?"),
        ({**ORDERS, "KINDS": {"crawl": {}}}, "Known are: order."),
        ({"ADAPTERS": [f"{HERE}.Misspelt"]}, "Did you mean run_timeout?"),
        ({**ORDERS, "ON_TIMEOUT": "retry"}, 'Use "fail" or "requeue".'),
    ],
)
def test_hint_names_nearest_known_name(given, hint):
    with override_settings(REAPER=given):
        (problem,) = conf.problems()
        assert problem.hint == hint


def test_problem_names_the_place_of_the_mistake():
    with override_settings(REAPER={**ORDERS, "RUN_TIMEOUT": 0, "KINDS": {"order": {"BACKOFF": [-5]}}}):
        assert [problem.message for problem in conf.problems()] == [
            'REAPER["RUN_TIMEOUT"]: expected a duration above zero, got 0.',
            'REAPER["KINDS"]["order"]["BACKOFF"]: expected a duration above zero, got -5.',
        ]


def test_missing_reaper_setting_is_reported_as_no_adapters(settings):
    del settings.REAPER
    assert [problem.id for problem in conf.problems()] == ["reaper.E006"]


def test_policy_of_unlisted_adapter_is_validated():
    with named("Orders"), pytest.raises(ImproperlyConfigured, match="run_timout"):
        conf.policy(Misspelt())
