"""One virtual environment for each thing that is tested: the core, and each host.

Hosts pin versions that exclude each other, so no environment holds two. Versions are pinned by the files in
constraints/, and environments are kept between runs.
"""

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "core", "axolotl", "models", "trl-1.9", "benchmarks", "llamafactory", "trl", "swift"]
nox.options.error_on_missing_interpreters = True

GROUPS = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, group: str, *more: str, constraints: str = "core") -> None:
    packages = nox.project.dependency_groups(GROUPS, group)
    session.install("--quiet", "-c", f"constraints/{constraints}.txt", *packages, *more)


def install_host(session: nox.Session, group: str, name: str, python: tuple[int, int] = (3, 10)) -> None:
    """A host, then the plugin under the same constraints: a version that it changed would be an error."""
    if sys.version_info < python:
        session.skip(f"{name} needs Python {python[0]}.{python[1]}")
    session.log(f"{name} and all that it needs are installed here: some minutes, the first time")
    install(session, group, "torch", constraints=group)
    install(session, group, "-e", ".", constraints=group)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, which needs nothing installed but ruff."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def core(session: nox.Session) -> None:
    """Types, and tests of the loss. Arguments go to pytest: nox -s core -- -k parity"""
    install(session, "test", "-e", ".")
    session.run("mypy")
    session.run("pytest", *session.posargs)


@nox.session
def axolotl(session: nox.Session) -> None:
    """The real Axolotl, with the plugin in its environment."""
    install_host(session, "axolotl", "Axolotl")
    session.run("pytest", *(session.posargs or ["tests/hosts/axolotl", "tests/distributed/test_axolotl.py"]))


def in_axolotls_environment(session: nox.Session, *tests: str) -> None:
    python = Path(".nox/axolotl/bin/python")
    if not python.exists():
        session.error("this runs in Axolotl's environment: nox -s axolotl --install-only makes it")
    session.run(python, "-m", "pytest", *(session.posargs or tests), external=True)


@nox.session(venv_backend="none")
def models(session: nox.Session) -> None:
    """attach() on models of many families, and transformers' own Trainer. In Axolotl's environment."""
    in_axolotls_environment(session, "tests/model", "tests/hosts/transformers", "tests/distributed/test_model.py")


@nox.session(name="trl-1.9", venv_backend="none")
def trl_in_axolotl(session: nox.Session) -> None:
    """The TRL that Axolotl brings. In Axolotl's environment."""
    in_axolotls_environment(session, "tests/hosts/trl")


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """The quickstart, the study, and the benchmark of a step in Axolotl. In Axolotl's environment."""
    in_axolotls_environment(session, "tests/benchmarks/hosts", "tests/benchmarks/learning")


@nox.session
def llamafactory(session: nox.Session) -> None:
    """The real LLaMA-Factory, with the plugin added to its environment."""
    install_host(session, "llamafactory", "LLaMA-Factory 0.9.5", python=(3, 11))
    # A CPU's torch cannot load these, which are built for CUDA. LLaMA-Factory only imports torchaudio.
    session.run_install("python", "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio", "torchvision")
    stub = "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'torchaudio.py').touch()"
    session.run_install("python", "-c", stub)
    session.run("pytest", *(session.posargs or ["tests/hosts/llamafactory"]))


@nox.session
def trl(session: nox.Session) -> None:
    """The real TRL, with the plugin added to its environment. Session trl-1.9 tests the one that Axolotl brings."""
    install_host(session, "trl", "TRL 1.16.0", python=(3, 11))
    session.run("pytest", *(session.posargs or ["tests/hosts/trl"]))


@nox.session
def swift(session: nox.Session) -> None:
    """The real ms-swift, with the plugin added to its environment."""
    install_host(session, "swift", "ms-swift")
    session.run("pytest", *(session.posargs or ["tests/hosts/swift"]))


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The tests on the oldest Python, PyTorch and pydantic that are promised. Downloads gigabytes."""
    session.install(
        "--quiet",
        "torch==2.6.0",
        "pydantic==2.7.0",
        "numpy<2.3",
        *nox.project.dependency_groups(GROUPS, "test"),
        "-e",
        ".",
    )
    session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """benchmarks/results/loss-cpu.*, with TRL's fused head beside ours."""
    install(session, "test", "trl==1.16.0", "-e", ".")
    session.run("python", "-m", "benchmarks", "loss", *session.posargs)
