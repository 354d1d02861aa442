"""The systemd units: as systemd itself reads them, and next to docker-compose.yml, whose commands are run in tests."""

import configparser
import re
import shlex
import shutil
import subprocess

import pytest

from tests.deploy import compose
from tests.processes import ROOT

UNITS = sorted((ROOT / "ops" / "systemd").glob("*.service"))
LASTING = [unit for unit in UNITS if unit.stem != "crawler-migrate"]
SERVICES = compose.services({**compose.DOTENV, "CRAWL_CONCURRENCY": "4"})


def service(unit):
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str
    parser.read(unit)
    return parser["Service"]


def verify(folder, unit):
    """Return systemd-analyze's findings for a unit whose programs and files are those of this checkout."""
    for each in UNITS:
        text = each.read_text().replace("/opt/crawler/venv/bin/", "/bin/true --").replace("/opt/crawler", "/")
        (folder / each.name).write_text(text)
    name = unit.name.replace("@.", "@1.")
    if name != unit.name:
        shutil.copy(folder / unit.name, folder / name)
    words = ["systemd-analyze", "verify", "--man=no", f"./{name}"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return [line for line in done.stderr.splitlines() if "crawler" in line]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed: apt-get install systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_passes_systemd_verify(unit, tmp_path):
    assert verify(tmp_path, unit) == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed: apt-get install systemd")
def test_invalid_unit_fails_systemd_verify(tmp_path):
    wrong = tmp_path / "crawler-wrong.service"
    wrong.write_text(UNITS[0].read_text().replace("Restart=", "Restrat="))
    words = ["systemd-analyze", "verify", "--man=no", f"./{wrong.name}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "Restrat" in done.stderr
    assert "/opt/crawler/venv/bin/celery is not executable" in done.stderr


def test_each_compose_service_has_a_unit():
    names = {unit.stem.removeprefix("crawler-").rstrip("@") for unit in UNITS}
    assert names == {name for name in SERVICES if "build" in SERVICES[name]}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_runs_the_command_of_its_compose_service(unit):
    name = unit.stem.removeprefix("crawler-").rstrip("@")
    command = SERVICES[name]["command"]
    if command[0] == "sh":
        command = shlex.split(command[-1].replace("$CRAWL_CONCURRENCY", "4"))[1:]
    ours = shlex.split(service(unit)["ExecStart"].replace("/opt/crawler/venv/bin/", "").replace("%%", "%"))
    if "-n" in ours and "-n" not in command:
        ours = ours[: ours.index("-n")]
    assert ours == command


@pytest.mark.parametrize("unit", LASTING, ids=lambda unit: unit.stem)
def test_unit_stops_its_tasks_gently_and_restarts_after_a_crash(unit):
    settings = service(unit)
    assert settings["KillMode"] == "mixed"
    assert settings["Restart"] == "always"
    assert settings["Environment"].startswith("DEBUG=0 ")


def test_worker_stop_timeout_exceeds_the_crawl_time_limit():
    (worker,) = (unit for unit in UNITS if unit.stem == "crawler-worker@")
    minutes = int(re.fullmatch(r"(\d+)min", service(worker)["TimeoutStopSec"])[1])
    assert minutes * 60 >= int(SERVICES["worker"]["environment"]["CRAWL_TIME_LIMIT"]) + 30
