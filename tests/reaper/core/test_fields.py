"""The docstrings of fields, at run time."""

import dataclasses

import pytest

from reaper.conf.settings import Settings
from reaper.core.brake import MassSilence
from reaper.core.decisions import Decision
from reaper.core.facts import Evidence, History, Liveness, MessageLocation, Phase, RunFacts
from reaper.core.fields import field_docs
from reaper.core.policy import Action, Mode, Policy, SweepScope


class Example:
    """A class with every sort of field."""

    first: int
    """A docstring over
    two lines."""
    second = 5
    """An assignment without a type."""
    third: int = 7

    def method(self):
        """Do not take this for the docstring of a field."""


def test_docstring_below_a_field_is_returned_on_one_line():
    assert field_docs(Example) == {
        "first": "A docstring over two lines.",
        "second": "An assignment without a type.",
    }


def test_class_without_source_has_no_docstrings():
    namespace = {}
    exec('class Sourceless:\n    first: int\n    """A docstring."""\n', namespace)  # noqa: S102
    assert field_docs(namespace["Sourceless"]) == {}


@pytest.mark.parametrize("cls", [RunFacts, Evidence, History, Policy, Decision, Settings])
def test_every_field_of_a_dataclass_has_a_docstring(cls):
    assert list(field_docs(cls)) == [each.name for each in dataclasses.fields(cls)]


@pytest.mark.parametrize("cls", [Phase, MessageLocation, Liveness, Action, Mode, SweepScope])
def test_every_member_of_an_enum_has_a_docstring(cls):
    assert list(field_docs(cls)) == list(cls.__members__)


def test_every_field_of_a_named_tuple_has_a_docstring():
    assert list(field_docs(MassSilence)) == list(MassSilence._fields)
