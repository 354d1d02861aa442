"""The hand-written docs: links lead somewhere, commands exist, and the glossary names code that exists."""

import re
import shlex
import subprocess

import pytest

from reaper.management.commands.reaper import Command
from reaper.schedules import SCHEDULES
from tests.processes import ROOT

FROZEN = {"docs/RUNBOOK-ORIGINAL.md"}  # its words and links are kept as they were
NAMES = subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()
PAGES = {name: (ROOT / name).read_text() for name in NAMES if name not in FROZEN}
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
COMMAND = re.compile(r"^ {4,}manage\.py (reaper [^\n#]+)", re.MULTILINE)
COMMANDS = sorted({match[1].strip() for page in PAGES.values() for match in COMMAND.finditer(page)})
TARGET = re.compile(r"(?:`|^    )make ([a-z]+)", re.MULTILINE)


def anchors_of(page):
    """Return the anchors that a Markdown viewer gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_in_page_lead_to_files_and_headings(name):
    for path, anchor in LINK.findall(PAGES[name]):
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), path
        if anchor:
            assert anchor in anchors_of(target.read_text()), f"{path}#{anchor}"


@pytest.mark.parametrize("line", COMMANDS)
def test_management_commands_in_docs_parse(line):
    name, *words = shlex.split(line)
    Command().create_parser("manage.py", name).parse_args(words)


def test_make_targets_in_docs_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {target for page in PAGES.values() for target in TARGET.findall(page)} <= targets


def test_names_in_glossary_exist_in_the_code():
    folders = [ROOT / "reaper", ROOT / "apps"]
    words = {
        word
        for folder in folders
        for path in folder.rglob("*.py")
        for word in re.findall(r"[A-Za-z_]\w*", path.read_text())
    }
    rows = re.findall(r"^\|[^|]+\|[^|]+\|([^|]+)\|[^|]*\|$", PAGES["docs/GLOSSARY.md"], flags=re.MULTILINE)
    names = {name for cell in rows for name in re.findall(r"`([A-Za-z_./]+)`", cell)}
    assert len(names) > 50
    assert {name for name in names if not set(name.split(".")) <= words and not (ROOT / name).exists()} == set()


@pytest.mark.parametrize(
    "name", sorted(set(PAGES) - {"docs/internals/GUARDS.md"})
)  # generated, with paths relative to tests/
def test_paths_in_page_exist(name):
    named = set(re.findall(r"`((?:reaper|apps|config|tools|tests|ops|docs|requirements)/[\w./-]+)`", PAGES[name]))
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_reaper_packages_are_all_in_the_architecture_page():
    packages = {path.stem for path in (ROOT / "reaper").iterdir() if path.is_dir() or path.suffix == ".py"}
    layers = PAGES["docs/ARCHITECTURE.md"].partition("## Layers")[2]
    unnamed = {package for package in packages if f"`{package}`" not in layers}
    assert unnamed <= {"__init__", "__pycache__", "migrations", "static", "templates"}


def test_schedules_in_docs_match_those_that_migrate_creates():
    section = PAGES["docs/OPERATING.md"].partition("## Schedules")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (reaper: .+) \| `(.+)` \| (\d+) (s|day) \|$", section, flags=re.MULTILINE)
    seconds = {"s": 1, "day": 86_400}
    assert [(name, task, int(number) * seconds[unit]) for name, task, number, unit in rows] == [
        (each.name, each.task, each.every.total_seconds()) for each in SCHEDULES
    ]
