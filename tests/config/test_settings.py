"""Settings from the environment; each invalid variable ends every program with one sentence."""

import os
import runpy
import subprocess
import sys

import pytest

from config.environment import InvalidEnvironment, redact
from tests.processes import ROOT, free_port

PRODUCTION = {
    "DEBUG": "0",
    "SECRET_KEY": "k3y" * 20,
    "ALLOWED_HOSTS": "crawler.example",
    "DATABASE_URL": "postgres://crawler:s3cret@db:5432/crawler",
    "CELERY_BROKER_URL": "redis://:s3cret@redis:6379/0",
}
OURS = [*PRODUCTION, "CSRF_TRUSTED_ORIGINS", "LOG_LEVEL", "LOG_STREAM", "CRAWL_TIME_LIMIT", "CRAWL_SOFT_TIME_LIMIT"]


@pytest.fixture
def load(monkeypatch):
    """A function that evaluates the settings in an environment where only these variables are set."""

    def load(environment):
        for name in OURS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "config" / "settings.py"))

    return load


def test_production_settings_are_secure_and_log_json_to_stdout(load):
    settings = load(PRODUCTION)
    assert settings["DEBUG"] is False
    assert (
        settings["SESSION_COOKIE_SECURE"] is settings["CSRF_COOKIE_SECURE"] is settings["SECURE_SSL_REDIRECT"] is True
    )
    assert settings["SECURE_HSTS_SECONDS"] > 0
    assert settings["LOGGING"]["handlers"]["stream"]["stream"] == "ext://sys.stdout"
    assert "JsonFormatter" in settings["LOGGING"]["formatters"]["line"]["()"]
    database = settings["DATABASES"]["default"]
    assert database["HOST"] == "db"
    assert database["PASSWORD"] == "s3cret"
    assert database["OPTIONS"] == {"connect_timeout": 5}
    assert settings["CELERY_BROKER_URL"] == "redis://:s3cret@redis:6379/0"


@pytest.mark.parametrize(
    "url", ["postgres://crawler@localhost/crawler", "postgres://c@:5432//run/pg/crawler", "sqlite://"]
)
def test_local_database_without_debug_means_development(load, url):
    settings = load({"DATABASE_URL": url, "CELERY_BROKER_URL": "memory://"})
    assert settings["DEBUG"] is True
    assert settings["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"DEBUG": ""}, ["DEBUG is not set although DATABASE_URL names another machine", "write 0 for production"]),
        ({"DEBUG": "maybe"}, ["DEBUG is 'maybe'", "write 1 or 0"]),
        ({"SECRET_KEY": ""}, ["SECRET_KEY is not set", "openssl rand"]),
        ({"SECRET_KEY": "s3cret"}, ["SECRET_KEY is not long enough", "32 random characters"]),
        ({"SECRET_KEY": "django-insecure-s3cret" + "x" * 40}, ["SECRET_KEY"]),
        ({"ALLOWED_HOSTS": " , "}, ["ALLOWED_HOSTS is not set", "crawler.example.com"]),
        (
            {"ALLOWED_HOSTS": "a.example,https://b.example"},
            ["ALLOWED_HOSTS has 'https://b.example'", "host's name alone"],
        ),
        ({"CSRF_TRUSTED_ORIGINS": "crawler.example"}, ["CSRF_TRUSTED_ORIGINS has 'crawler.example'", "https://"]),
        ({"DATABASE_URL": ""}, ["DATABASE_URL is not set", "no default when DEBUG is off"]),
        (
            {"DATABASE_URL": "crawler:s3cret@db/crawler"},
            ["DATABASE_URL is '***@db/crawler'", "postgres://USER:PASSWORD"],
        ),
        ({"DATABASE_URL": "oops://u:s3cret@db/crawler"}, ["DATABASE_URL is 'oops://***@db/crawler'"]),
        ({"DATABASE_URL": "postgres://u:s3c@ret@db:54x/c"}, ["DATABASE_URL is 'postgres://***@db:54x/c'"]),
        ({"DATABASE_URL": "postgres://u:s3cret@db:5432"}, ["DATABASE_URL", "without the database's name"]),
        ({"DATABASE_URL": "postgres://db:x/c?password=s3cret"}, ["DATABASE_URL is 'postgres://db:x/c?***'"]),
        ({"CELERY_BROKER_URL": ""}, ["CELERY_BROKER_URL is not set"]),
        ({"CELERY_BROKER_URL": "http://u:s3cret@redis"}, ["CELERY_BROKER_URL is 'http://***@redis'", "amqp://"]),
        ({"CELERY_BROKER_URL": "redis://ok:1;redis://:s3cret@b:x"}, ["CELERY_BROKER_URL is 'redis://***@b:x'"]),
        ({"CRAWL_TIME_LIMIT": "10m"}, ["CRAWL_TIME_LIMIT is '10m'", "a whole number from 1"]),
        ({"CRAWL_TIME_LIMIT": "0"}, ["CRAWL_TIME_LIMIT is '0'"]),
        ({"CRAWL_SOFT_TIME_LIMIT": "601"}, ["CRAWL_SOFT_TIME_LIMIT is '601'", "from 0 to 600"]),
        ({"LOG_LEVEL": "loud"}, ["LOG_LEVEL is 'LOUD'", "INFO"]),
        ({"LOG_STREAM": "syslog"}, ["LOG_STREAM is 'SYSLOG'", "STDOUT"]),
    ],
)
def test_invalid_variable_raises_one_sentence_without_its_secret(load, changes, expected):
    with pytest.raises(InvalidEnvironment) as mistake:
        load({**PRODUCTION, **changes})
    sentence = str(mistake.value)
    assert "s3c" not in sentence
    assert all(each in sentence for each in expected), sentence
    assert len(sentence.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:p@h/0", "redis://***@h/0"),
        ("u:p@h", "***@h"),
        ("amqp://u:p/@://x@h/v?ssl=p#p", "amqp://***@h/v?***"),
    ],
)
def test_redacted_address_hides_the_password(url, shown):
    assert redact(url) == shown


PROGRAMS = {
    "manage.py": ["manage.py", "check"],
    "gunicorn": ["-m", "gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{free_port()}"],
    "worker": ["-m", "celery", "-A", "config.celery", "worker"],
    "beat": ["-m", "celery", "-A", "config.celery", "beat", "--pidfile="],
}


@pytest.mark.live
@pytest.mark.parametrize("program", PROGRAMS)
def test_program_with_invalid_variable_exits_with_one_sentence(program):
    environment = {**os.environ, **PRODUCTION, "ALLOWED_HOSTS": "", "WEB_CONCURRENCY": "1"}
    words = [sys.executable, *PROGRAMS[program]]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    sentence = (
        "The environment variable ALLOWED_HOSTS is not set: name the site's hosts, such as crawler.example.com.\n"
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == sentence
