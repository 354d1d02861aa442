"""Log lines of one form, whoever writes them."""

import json
import logging.config

import pytest
from celery import shared_task

from config import logs


@pytest.fixture
def written(capsys):
    """A function that logs with this configuration and returns the lines; the root logger is afterwards as before."""
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


def test_a_record_is_one_json_object_on_one_line(written):
    (line,) = written(fail, as_json=True)
    record = json.loads(line)
    assert {"time", "level", "logger", "message", "exc_info"} == set(record)
    assert (record["level"], record["logger"], record["message"]) == ("ERROR", "any", "two\nlines 1")
    assert "ValueError: no" in record["exc_info"]


def test_what_a_task_logs_carries_its_id_and_name(written):
    @shared_task(name="tests.speak")
    def speak():
        logging.getLogger("any").info("hello")

    line, *_ = written(lambda: speak.apply(task_id="the-id"), as_json=True)
    record = json.loads(line)
    assert (record["message"], record["task_id"], record["task_name"]) == ("hello", "the-id", "tests.speak")


def test_a_development_machine_reads_text(written):
    (line,) = written(lambda: logging.getLogger("django.request").info("hello"), as_json=False)
    assert line.endswith("INFO django.request: hello")
