"""What a host may import, and what is in the wheel that it installs."""

import ast
import inspect
import shutil
import subprocess
import sys
import textwrap
import zipfile
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import reaper
from reaper import api
from reaper.adapters import RunAdapter
from reaper.adapters.model_mapping import ModelMapping

ROOT = Path(__file__).parents[2]
DOORS = (
    "reaper",
    "reaper.adapters",
    "reaper.api",
    "reaper.celery_commands",
    "reaper.signals",
    "reaper.testing",
)


@pytest.mark.parametrize("door", DOORS)
def test_public_module_lists_its_names_and_each_is_documented(door):
    module = import_module(door)
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, name


def test_package_docstring_names_every_public_module():
    for door in DOORS[1:]:
        assert f"\n    {door} " in reaper.__doc__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's name and its files' names. Built from a copy: setuptools reuses what an old build left behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "reaper", source / "reaper", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return path.name, archive.namelist()


@pytest.mark.xdist_group("wheel")
def test_wheel_has_version_type_marker_templates_and_migrations(wheel):
    name, files = wheel
    assert f"-{reaper.__version__}-" in name
    assert "reaper/py.typed" in files
    assert "reaper/migrations/0001_initial.py" in files
    assert any(file.startswith("reaper/templates/admin/reaper/") for file in files)
    assert any(file.startswith("reaper/static/reaper/") for file in files)


@pytest.mark.xdist_group("wheel")
def test_wheel_has_every_module_of_the_package_and_nothing_of_the_host(wheel):
    _, files = wheel
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "reaper").rglob("*.py")}
    assert {file for file in files if file.endswith(".py")} == modules


def public_names(*classes):
    return {name for cls in classes for name in (*vars(cls), *cls.__annotations__) if not name.startswith("_")}


def test_adapter_guide_names_every_attribute_and_method_of_an_adapter():
    guide = (ROOT / "docs/ADAPTERS.md").read_text()
    names = public_names(RunAdapter, ModelMapping) - {"model_class", "phase_of"}
    assert [name for name in sorted(names) if f"`{name}" not in guide] == []


def test_adapter_guide_uses_every_function_of_the_api_but_one():
    guide = (ROOT / "docs/ADAPTERS.md").read_text()
    assert [name for name in api.__all__ if f"api.{name}(" not in guide] == ["adapter_for"]


def test_every_attribute_of_an_adapter_has_a_docstring():
    for cls in (RunAdapter, ModelMapping):
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body)
        for node, after in pairwise(body):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                assert isinstance(after, ast.Expr), ast.unparse(node)
                assert isinstance(after.value, ast.Constant), ast.unparse(node)
