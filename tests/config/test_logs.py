"""Every log line has one form, whichever logger writes it."""

import json
import logging.config

import pytest
from celery import shared_task

from config import logs


@pytest.fixture
def written(capsys):
    """A function that logs with this configuration and returns the lines; the root logger is restored afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def written(write, **options):
        logging.config.dictConfig(logs.configuration(stream="STDOUT", level="INFO", **options))
        write()
        return capsys.readouterr().out.splitlines()

    yield written
    root.handlers[:], root.level = before


def fail():
    try:
        raise ValueError("no\nnumber")
    except ValueError:
        logging.getLogger("any").exception("two\nlines %s", 1)


def test_json_record_with_newlines_is_one_line(written):
    (line,) = written(fail, as_json=True)
    record = json.loads(line)
    assert {"time", "level", "logger", "message", "exc_info"} == set(record)
    assert record["level"] == "ERROR"
    assert record["logger"] == "any"
    assert record["message"] == "two\nlines 1"
    assert "ValueError: no" in record["exc_info"]


def test_json_record_of_a_task_has_its_id_and_name(written):
    @shared_task(name="tests.speak")
    def speak():
        logging.getLogger("any").info("hello")

    line, *_ = written(lambda: speak.apply(task_id="the-id"), as_json=True)
    record = json.loads(line)
    assert record["message"] == "hello"
    assert record["task_id"] == "the-id"
    assert record["task_name"] == "tests.speak"


def test_record_in_development_is_plain_text(written):
    (line,) = written(lambda: logging.getLogger("django.request").info("hello"), as_json=False)
    assert line.endswith("INFO django.request: hello")
