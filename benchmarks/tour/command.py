"""A tour of the command `otr`: the commands run for real, in a terminal, in an environment that has Axolotl.

A clone of this repository is installed into a virtual environment that sees the packages of Axolotl's. Then a recipe of
the quickstart, a small model for a CPU, gets OTR and is trained. The pages show what the terminal showed: tour.json has
the lines with their times, and tour.svg is the recording. To run it, commit first: the clone has what is committed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

from rich.text import Text

from benchmarks import provenance
from benchmarks.paths import RESULTS, ROOT
from benchmarks.tour import drawing
from benchmarks.tour.terminal import record

RECIPE = "example_configs/axolotl/quickstart-sft.yaml"
COMMANDS = (
    "pip install --quiet .",
    "otr add recipe.yaml --in-place",
    "otr check recipe.yaml",
    "otr memory recipe.yaml --gpu rtx3060",
    "axolotl train recipe.yaml --num-epochs 1 --output-dir out/otr",
)
SCRIPTS = ("axolotl", "accelerate")
MOST, LAST = 40, 14  # lines: of output that is longer than MOST, the last ones are shown
RESULT = RESULTS / "tour.json"


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    results = provenance.collect(("otr-plugin", "axolotl", "torch", "transformers"))
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place, "otr-plugin")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        shutil.copyfile(clone / RECIPE, clone / "recipe.yaml")
        environment = make_environment(Path(place, "venv"))
        hidden = {place: "~", sysconfig.get_path("purelib"): "~/venv", str(Path.home()): "~"}
        results["steps"] = [step(words, clone, environment, hidden) for words in COMMANDS]
    RESULT.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    RESULT.with_suffix(".svg").write_text(drawing.svg(results["steps"]))


def make_environment(folder: Path) -> dict[str, str]:
    """A virtual environment with the packages of the running one; and the variables with which commands run in it."""
    venv.create(folder, with_pip=True)
    theirs = sysconfig.get_path("purelib")
    ours = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(ours, "host.pth").write_text(f"{theirs}\n")
    for name in SCRIPTS:
        script = Path(sys.executable).with_name(name).read_text().splitlines()
        path = folder / "bin" / name
        path.write_text("\n".join([f"#!{folder}/bin/python", *script[1:]]) + "\n")
        path.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": ""}
    return (
        kept | offline | {"PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    )


def step(words: str, folder: Path, environment: dict[str, str], hidden: dict[str, str]) -> dict[str, Any]:
    """Run a command, and keep what is shown of its output."""
    print(f"$ {words}", flush=True)
    found = record(shlex.split(words), folder, environment)
    if found.exit_code:
        sys.exit("\n".join([*found.lines, f"`{words}` ended with exit code {found.exit_code}"]))
    lines = [(when, hide(line, hidden)) for when, line in zip(found.times, found.lines, strict=True)]
    while lines and not Text.from_ansi(lines[-1][1]).plain.strip():
        lines.pop()
    left_out = len(lines) - LAST if len(lines) > MOST else 0
    if left_out:
        lines[:left_out] = [(lines[left_out][0], f"\x1b[2m… {left_out} lines\x1b[0m")]
    print("\n".join(line for _, line in lines), flush=True)
    times = {"seconds": found.seconds, "cpu_seconds": found.cpu_seconds}
    return {"command": words, **times, "left_out": left_out, "lines": lines}


def hide(line: str, hidden: dict[str, str]) -> str:
    """The line without this machine's folders."""
    for folder, name in sorted(hidden.items(), key=lambda item: -len(item[0])):
        line = line.replace(folder, name)
    return line
