"""docker-compose.yml as Compose reads it, and the image that the Dockerfile describes, without a container engine."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.processes import ROOT

# What .env must name; nothing else is set.
DOTENV = {"SECRET_KEY": "k3y" * 20, "ALLOWED_HOSTS": "crawler.example", "POSTGRES_PASSWORD": "s3cret"}
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<how>[?-])(?P<text>[^}]*))?\})")


class NotSet(Exception):
    """A variable that must be set is not."""


def services(dotenv=DOTENV):
    """Return the services by name, with the variables filled in."""
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return filled(document["services"], dotenv)


def filled(value, dotenv):
    if isinstance(value, dict):
        return {key: filled(each, dotenv) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, dotenv) for each in value]
    return VARIABLE.sub(lambda found: variable(found, dotenv), value) if isinstance(value, str) else value


def variable(found, dotenv):
    if found["escaped"]:
        return "$"
    value = dotenv.get(found["name"], "")
    if not value and found["how"] == "?":
        raise NotSet(found["text"])
    return value or (found["text"] if found["how"] == "-" else "")


def health_check(service):
    """Return the command of a service's health check, as the engine would execute it."""
    kind, *words = service["healthcheck"]["test"]
    return words if kind == "CMD" else ["/bin/sh", "-c", *words]


def instructions():
    """Return the Dockerfile's instructions as (name, words)."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def locked(file):
    """Return a lock's requirements with their hashes."""
    text = re.sub(r"\\\n", " ", re.sub(r"^ *#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE))
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line)
    return {requirement: frozenset(re.findall(r"sha256:\w+", rest)) for requirement, rest in pairs}


class Image:
    """A folder that stands for the image: /app and /venv below it, and nothing else that Python could import.

    Its packages are links to those that make setup has installed from requirements/dev.lock, by hash; a test checks
    that requirements/host.lock names the same ones.
    """

    def __init__(self, folder: Path) -> None:
        self.app, self.venv = folder / "app", folder / "venv"
        self.app.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True, timeout=60)
        self.python = self.venv / "bin" / "python"
        for requirement in locked("requirements/host.lock"):
            self.install(requirement.partition("==")[0])
        for name, rest in instructions():
            if name == "COPY" and not rest.startswith("--from"):
                self.copy(shlex.split(rest))
            elif name == "RUN" and "-m venv" not in rest and "pip install" not in rest:
                self.run(rest)

    def install(self, name: str) -> None:
        """Link to a package, and copy its programs."""
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return  # for another platform
        packages = Path(distribution.locate_file(""))
        target = self.venv / packages.relative_to(sys.prefix)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (target / top).symlink_to(packages / top)
        for script in (file for file in distribution.files or () if file.parts[0] == ".."):
            if script.parent.name == "bin":
                text = Path(distribution.locate_file(script)).read_text().replace(sys.executable, str(self.python))
                program = self.venv / "bin" / script.name
                program.write_text(text)
                program.chmod(0o755)

    def copy(self, words: list[str]) -> None:
        """Do what COPY does: a folder's content into a folder, files into one."""
        *sources, target = words
        for source in sources:
            if source.endswith("/"):
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, self.app / target, ignore=ignored, dirs_exist_ok=True)
            else:
                (self.app / target).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, self.app / target)

    def run(self, command: str) -> None:
        """Do what RUN does."""
        command = command.replace("/venv/", f"{self.venv}/")
        subprocess.run(["/bin/sh", "-c", command], cwd=self.app, env=self.environment(), check=True, timeout=60)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the image's own variables, without any of the tests'."""
        path = f"{self.venv}/bin{os.pathsep}{os.defpath}"
        image = dict(pair.split("=", 1) for name, rest in instructions() if name == "ENV" for pair in shlex.split(rest))
        return {**image, "PATH": path, "HOME": "/nonexistent", **more}
