"""Builds the sdist and the wheel once, with the build backend from PyPI, and makes fresh environments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.paths import ROOT


def run(*command: str | Path, folder: Path, umask: int = -1, env: dict[str, str] | None = None) -> str:
    """Run a command, fail the test if the command fails, and return everything that it printed.

    PYTHONPATH is removed: a user's shell does not add this checkout to Python's path.
    """
    env = {name: value for name, value in (env or os.environ).items() if name != "PYTHONPATH"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
    done = subprocess.run(command, cwd=folder, env=env, umask=umask, **options)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-6000:]}"
    return done.stdout


class Environment:
    """A new virtual environment, which holds pip and nothing else."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", folder, folder=folder.parent)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        purelib = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
        self.site_packages = Path(purelib.strip())

    def pip(self, *arguments: str | Path) -> str:
        return run(self.python, "-m", "pip", *arguments, folder=self.bin)

    def install(self, wheel: Path) -> None:
        """Install a wheel without its dependencies."""
        self.pip("install", "--quiet", "--no-deps", "--no-index", wheel)


class Builder(Environment):
    """An environment with the build backend, at the version that locks/build.txt pins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pip("install", "--quiet", "--require-hashes", "--no-deps", "-r", ROOT / "locks" / "build.txt")

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
