"""Builds the sdist and the wheel once, with the build backend from PyPI, and makes fresh environments."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from benchmarks.paths import ROOT

# A user's shell has no variable that adds this checkout to Python's path.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str | Path, folder: Path, umask: int = -1) -> str:
    """Run a command without PYTHONPATH, fail the test if the command fails, and return what it printed."""
    done = subprocess.run(command, cwd=folder, env=ENV, umask=umask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class Environment:
    """A new virtual environment, which holds pip and nothing else."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", folder, folder=folder.parent)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        paths = {"base": str(folder), "platbase": str(folder)}
        self.site_packages = Path(sysconfig.get_path("purelib", "venv", paths))

    def pip(self, *arguments: str | Path) -> str:
        return run(self.python, "-m", "pip", *arguments, folder=self.bin)

    def install(self, wheel: Path) -> None:
        """Install a wheel without its dependencies."""
        self.pip("install", "--quiet", "--no-deps", "--no-index", wheel)


class Builder(Environment):
    """An environment with the build backend, at the version that constraints/core.txt pins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pip("install", "--quiet", "-c", ROOT / "constraints" / "core.txt", "hatchling")

    def sdist(self, source: Path, out: Path, umask: int = -1) -> Path:
        run(self.python, "-m", "hatchling", "build", "-t", "sdist", "-d", out, folder=source, umask=umask)
        return next(out.glob("*.tar.gz"))

    def wheel(self, source: Path, out: Path, umask: int = -1) -> Path:
        """Build the wheel of a source tree or an sdist as `pip install` does, with this environment's backend."""
        options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--check-build-dependencies")
        command = (self.python, "-m", "pip", "wheel", *options, "--wheel-dir", out, source)
        run(*command, folder=self.bin, umask=umask)
        return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def builder(tmp_path_factory) -> Builder:
    return Builder(tmp_path_factory.mktemp("builder") / "environment")


@pytest.fixture(scope="session")
def sdist(builder, tmp_path_factory) -> Path:
    return builder.sdist(ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(builder, sdist, tmp_path_factory) -> Path:
    """The wheel that is built from the sdist."""
    return builder.wheel(sdist, tmp_path_factory.mktemp("wheel"))
