"""Writes the lock files in this folder: every package of an environment, with its version and its files' hashes.

    make lock                                        after a change of pyproject.toml
    .venv/bin/nox -s lock -- --upgrade-package trl   a newer version of one package

uv resolves each environment for all platforms and Python versions at once. A lock file has the packages of the
dependency group of the same name in pyproject.toml, and of the extra of the same name if there is one. PyTorch has
files of its own: PyPI's builds, the CUDA libraries that these need, and builds for the CPU, which PyPI does not have.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
PLUGIN = ["pyproject.toml", "--group", "torch"]
# {environment: the packages' sources, and the oldest Python}
ENVIRONMENTS = {
    "build": (["--group", "build"], "3.10"),
    "nox": (["--group", "nox"], "3.10"),
    "lint": (["--group", "lint"], "3.10"),
    "lock": (["--group", "lock"], "3.10"),
    "audit": (["--group", "audit"], "3.10"),
    "docs": (["--group", "docs"], "3.11.5"),
    "core": ([*PLUGIN, "--group", "core"], "3.10"),
    "axolotl": ([*PLUGIN, "--group", "axolotl", "--extra", "axolotl"], "3.10"),
    "llamafactory": ([*PLUGIN, "--group", "llamafactory", "--extra", "llamafactory"], "3.11"),
    "trl": ([*PLUGIN, "--group", "trl", "--extra", "trl"], "3.11"),
    "deepspeed": (["--group", "torch", "--group", "deepspeed"], "3.10"),
    "ray": ([*PLUGIN, "--group", "axolotl", "--extra", "axolotl", "--group", "ray"], "3.10"),
    "swift": ([*PLUGIN, "--group", "swift", "--extra", "swift"], "3.10"),
}
CUDA = re.compile(r"nvidia-(?!ml-py)|cuda-")
# PyTorch's builds for the CPU that somebody has used.
CPU_BUILDS = {
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": (
        "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
    )
}
# A lock file that is installed on top of others holds what one of them lacks.
ON_TOP_OF = {"deepspeed": ("axolotl", "llamafactory", "trl", "swift"), "ray": ("axolotl",)}
# PyPI's builds of these need CUDA, and no test needs them.
LEFT_OUT = ("torchaudio", "torchvision")


def name_of(package: str) -> str:
    return package.split("==")[0]


def locked(names: Iterable[str]) -> str:
    return "".join(path.read_text() for path in (FOLDER / f"{name}.txt" for name in names) if path.exists())


def in_all(names: Sequence[str]) -> set[str]:
    """The packages that each of these lock files has."""
    packages = [set(re.findall(r"^(\S+)==", locked([name]), re.MULTILINE)) for name in names]
    return set.intersection(*packages) if packages else set()


def resolve(sources: list[str], python: str, earlier: str, options: list[str]) -> list[str]:
    """The packages of an environment, each with its marker and hashes; with their earlier versions where possible."""
    output = ["--universal", "--generate-hashes", "--no-annotate", "--no-header"]
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as file:
        file.write(earlier)
        file.flush()  # uv keeps the versions that it finds in its output file
        command = ["uv", "pip", "compile", "--quiet", *sources, "--python-version", python, *output, *options]
        subprocess.run([*command, "--output-file", file.name], check=True, cwd=FOLDER.parent)
        return re.findall(r"^\S+==.*(?:\n    .*)*\n", Path(file.name).read_text(), re.MULTILINE)


def write(name: str, packages: Iterable[str]) -> None:
    (FOLDER / f"{name}.txt").write_text("# `make lock` writes this file.\n" + "".join(packages))


def main(options: list[str]) -> None:
    packages = resolve(["--group", "torch"], "3.10", locked(["torch", "cuda"]), options)
    write("torch", (package for package in packages if name_of(package) == "torch"))
    version = next(iter(CPU_BUILDS)).split("-")[1]
    write("torch-cpu", [f"torch=={version}", *(f" \\\n    --hash={value}" for value in CPU_BUILDS.values()), "\n"])
    write("cuda", (package for package in packages if CUDA.match(package)))
    for name, (sources, python) in ENVIRONMENTS.items():
        below = ON_TOP_OF.get(name, ())
        packages = resolve(sources, python, locked(["torch", "cuda", name, *below[:1]]), options)
        others = {"torch", *LEFT_OUT, *in_all(below)}
        write(name, (p for p in packages if name_of(p) not in others and not CUDA.match(p)))


if __name__ == "__main__":
    main(sys.argv[1:])
