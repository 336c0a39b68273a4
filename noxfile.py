"""The project's test sessions: one for the core, one for each host, and a few more.

Each session has its own virtual environment, because the hosts pin versions that exclude each other. Sessions with
`venv_backend="none"` run in Axolotl's environment instead. locks/ pins every package by version and hash. Environments
are kept between runs. Arguments after `--` go to pytest: `nox -s trl -- -k resume`.
"""

import re
import shutil
import sys
from pathlib import Path

import nox
import nox.command

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True
nox.options.sessions = [
    "lint",
    "core",
    "axolotl",
    "models",
    "trl-1.9",
    "benchmarks",
    "packaging",
    "llamafactory",
    "trl",
    "swift",
    "docs",
]

PYPROJECT = nox.project.load_toml("pyproject.toml")

# Which session runs which tests. Every test file belongs to exactly one session; tests/test_sessions.py checks it.
TESTS: dict[str, list[str]] = {
    "core": PYPROJECT["tool"]["pytest"]["ini_options"]["testpaths"],  # what plain `pytest` runs
    "axolotl": ["tests/hosts/axolotl", "tests/distributed/test_axolotl.py"],
    "models": [
        "tests/model",
        "tests/extend",
        "tests/hosts/transformers",
        "tests/distributed/test_model.py",
        "tests/distributed/test_engines.py",
        "tests/distributed/test_trainer_engines.py",
        "tests/distributed/test_faults.py",
        "tests/distributed/test_tensor_parallel.py",
        "tests/distributed/test_sequence_parallel.py",
    ],
    "benchmarks": ["tests/benchmarks/gpu", "tests/benchmarks/hosts", "tests/benchmarks/learning"],
    "packaging": ["tests/packaging"],
    "llamafactory": ["tests/hosts/llamafactory", "tests/distributed/test_llamafactory.py"],
    "trl": ["tests/hosts/trl", "tests/distributed/test_trl.py"],
    "swift": ["tests/hosts/swift", "tests/distributed/test_swift.py"],
    "docs": ["tests/site"],
}


# The environments that hold the plugin; the others hold tools.
WITH_PLUGIN = ("core", "axolotl", "llamafactory", "trl", "swift")

# What is not among the hashes is not installed. Without isolation, pip builds with the locked build tools.
LOCKED = ("--quiet", "--require-hashes", "--no-deps", "--no-build-isolation")


def install(session: nox.Session, name: str) -> None:
    """Install the packages of locks/NAME.txt and, if its tests need the plugin, the plugin as a link to this folder."""
    session.log(f"installing locks/{name}.txt; a host takes some minutes the first time")
    session.install(*LOCKED, "-r", "locks/build.txt")
    if name in WITH_PLUGIN:
        # Where pip finds a build of PyTorch for the CPU, which PyPI does not have, the CUDA libraries are not needed.
        session.install(*LOCKED, "-r", "locks/torch-cpu.txt", silent=True, success_codes=[0, 1])
        installed = session.run_install("python", "-m", "pip", "show", "torch", silent=True, success_codes=[0, 1])
        if "+cpu" not in str(installed):
            session.install(*LOCKED, "-r", "locks/torch.txt", "-r", "locks/cuda.txt")
    session.install(*LOCKED, "-r", f"locks/{name}.txt")
    if name in WITH_PLUGIN:
        session.install("--quiet", "--no-deps", "--no-build-isolation", "-e", ".")
    if name == "llamafactory":
        # It imports torchaudio at its start but needs it for speech only, so an empty module takes its place.
        stub = "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'torchaudio.py').touch()"
        session.run_install("python", "-c", stub)


def skip_before(session: nox.Session, python: tuple[int, int], name: str) -> None:
    if sys.version_info < python:
        session.skip(f"{name} needs Python {python[0]}.{python[1]}")


def pytest_arguments(session: nox.Session, tests: list[str]) -> list[str]:
    """The arguments after `--`; the session's own tests are added unless one of them starts with tests/."""
    if any(argument.startswith("tests/") for argument in session.posargs):
        return session.posargs
    return [*session.posargs, *(str(path) for pattern in tests for path in sorted(Path().glob(pattern)))]


def run_in_axolotls_environment(session: nox.Session, tests: list[str]) -> None:
    python = Path(".nox/axolotl/bin/python")
    if not python.exists():
        session.error("this session runs in Axolotl's environment; `nox -s axolotl --install-only` makes it")
    session.run(python, "-m", "pytest", *pytest_arguments(session, tests), external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def core(session: nox.Session) -> None:
    """Types, and the tests that need no host."""
    install(session, "core")
    session.run("mypy")
    session.run("pytest", *pytest_arguments(session, TESTS["core"]))


@nox.session
def axolotl(session: nox.Session) -> None:
    """The plugin in the real Axolotl."""
    install(session, "axolotl")
    session.run("pytest", *pytest_arguments(session, TESTS["axolotl"]))


@nox.session(venv_backend="none")
def models(session: nox.Session) -> None:
    """`attach` on models of many families, and transformers' own Trainer."""
    run_in_axolotls_environment(session, TESTS["models"])


@nox.session(name="trl-1.9", venv_backend="none")
def trl_in_axolotl(session: nox.Session) -> None:
    """Reading, connecting and training by session trl's tests, with the older TRL that Axolotl depends on."""
    tests = ("recipes_that_failed", "settings", "connecting", "train")
    run_in_axolotls_environment(session, [f"tests/hosts/trl/test_{name}.py" for name in tests])


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """The quickstart, the study, and the benchmark of a step in Axolotl."""
    run_in_axolotls_environment(session, TESTS["benchmarks"])


@nox.session(venv_backend="none")
def packaging(session: nox.Session) -> None:
    """The sdist and the wheel: their files, their metadata, and the wheel in a fresh environment with Axolotl."""
    run_in_axolotls_environment(session, TESTS["packaging"])


@nox.session
def llamafactory(session: nox.Session) -> None:
    """The plugin in the real LLaMA-Factory."""
    skip_before(session, (3, 11), "LLaMA-Factory 0.9.5")
    install(session, "llamafactory")
    session.run("pytest", *pytest_arguments(session, TESTS["llamafactory"]))


@nox.session
def trl(session: nox.Session) -> None:
    """The plugin in the real TRL."""
    skip_before(session, (3, 11), "TRL 1.16.0")
    install(session, "trl")
    session.run("pytest", *pytest_arguments(session, TESTS["trl"]))


@nox.session
def swift(session: nox.Session) -> None:
    """The plugin in the real ms-swift."""
    install(session, "swift")
    session.run("pytest", *pytest_arguments(session, TESTS["swift"]))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, and check the links, images and anchors of its pages."""
    skip_before(session, (3, 11), "Zensical")
    install(session, "docs")
    shutil.rmtree("site", ignore_errors=True)  # Zensical keeps pages whose source was deleted
    session.run("zensical", "build", "--strict", "--clean")
    # The option keeps pytest from loading tests/conftest.py, which imports torch.
    session.run("pytest", "--confcutdir=tests/site", *pytest_arguments(session, TESTS["docs"]))


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The core's tests with the oldest supported Python, PyTorch and pydantic. Downloads gigabytes."""
    oldest_versions = ["torch==2.6.0", "pydantic==2.7.0", "numpy<2.3"]
    session.install("--quiet", *oldest_versions, *nox.project.dependency_groups(PYPROJECT, "core"), "-e", ".")
    session.run("pytest", *pytest_arguments(session, TESTS["core"]))


# The tests of tests/distributed that need DeepSpeed, in an environment of their own for each host. Axolotl's has Ray,
# too, and an older TRL.
ENGINES = {
    "axolotl": ("engines", "trainer_engines", "faults", "sequence_parallel", "axolotl", "trl"),
    "trl": ("trl",),
    "llamafactory": ("llamafactory",),
    "swift": ("swift",),
}


@nox.session
@nox.parametrize("host", list(ENGINES), ids=list(ENGINES))
def engines(session: nox.Session, host: str) -> None:
    """Every engine for several ranks, with DeepSpeed and Ray: the table in docs/several-gpus.md, and its tests."""
    if host in ("trl", "llamafactory"):
        skip_before(session, (3, 11), host)
    install(session, host)
    session.install(*LOCKED, "-r", "locks/deepspeed.txt")
    # DeepSpeed compiles an operator here. A process that was killed while it compiled has left a lock, for which the
    # next one would wait without an end.
    compiled = Path(session.virtualenv.location, "torch_extensions")
    for left in compiled.rglob("lock"):
        left.unlink()
    session.env["TORCH_EXTENSIONS_DIR"] = str(compiled)
    session.run("python", "-c", "from benchmarks.hosts.engines_on_cpu import import_deepspeed; import_deepspeed()")
    if host == "axolotl":
        session.install(*LOCKED, "-r", "locks/ray.txt")
        session.run("python", "-m", "benchmarks", "engines", *session.posargs)
    session.run("pytest", "-rs", *(f"tests/distributed/test_{name}.py" for name in ENGINES[host]))


@nox.session
def audit(session: nox.Session) -> None:
    """Look up known vulnerabilities of all locked packages. SECURITY.md explains those that are accepted."""
    install(session, "audit")
    accepted = re.findall(r"^\| `([^`]+)` \|", Path("SECURITY.md").read_text(), re.MULTILINE)
    options = ["--disable-pip", "--require-hashes", "--progress-spinner=off", *session.posargs]
    options += [f"--ignore-vuln={name}" for name in accepted]
    vulnerable = []
    for lock_file in sorted(Path("locks").glob("*.txt")):  # one at a time, because they have different versions
        try:
            session.run("pip-audit", *options, "-r", str(lock_file))
        except nox.command.CommandFailed:
            vulnerable.append(lock_file.name)
    if vulnerable:
        session.error(f"findings in {', '.join(vulnerable)}: upgrade the packages, or explain them in SECURITY.md")


@nox.session
def lock(session: nox.Session) -> None:
    """Write locks/ from pyproject.toml. Versions stay as they are; `-- --upgrade-package trl` changes one."""
    install(session, "lock")
    session.run("python", "locks/write.py", *session.posargs)
