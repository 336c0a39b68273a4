"""What the Triton kernels take of a GPU, by the compilers for sm_80, sm_89, sm_90 and gfx942; it needs no GPU.

Registers of a thread, what it spills, shared memory, instructions, and how many programs a processor runs at one time.
The kernels are those for bfloat16, a vocabulary of 151,936 and 256 draws.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import provenance
from benchmarks.paths import RESULTS, ROOT
from otr_plugin.loss.tuned import Settings

RESULT = RESULTS / "kernels.json"
LOSS = ROOT / "otr_plugin" / "loss"
SHOWN = ("sampled", "sampled, top_k or top_p", "sampled, odd vocabulary", "sampled, all options", "exact", "sft", "dft",
         "power", "eaft", "top_k", "top_p")  # fmt: skip


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    results = provenance.collect(("torch", "triton"))
    results |= {"source": source(), "settings": Settings()._asdict(), "kernels": compile_for()}
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))


def source() -> str:
    """A checksum of the sources on which the binaries depend."""
    files = (*sorted((LOSS / "triton").glob("*.py")), LOSS / "entropy.py", LOSS / "tuned.py")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def compile_for(*arguments: str) -> list[dict[str, Any]]:
    """What benchmarks.gpu.compiled prints, called with these arguments."""
    done = without_interpreter("-m", "benchmarks.gpu.compiled", *arguments)
    if done.returncode:
        raise RuntimeError(f"the kernels do not compile:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def without_interpreter(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments, in a process in which Triton's interpreter is off, so that kernels compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def render(results: dict[str, Any]) -> str:
    lines = ["# The kernels, by the compilers", "", *table(results["kernels"]), "", provenance.describe(results)]
    lines += ["", "All figures, in the order of the compilers:", "", *_everything(results["kernels"])]
    return "\n".join(lines) + "\n"


def docs_table(results: dict[str, Any]) -> list[str]:
    shown = [one for one in results["kernels"] if one["variant"] in SHOWN]
    return [*table(shown), "", provenance.describe(results)]


def table(kernels: list[dict[str, Any]]) -> list[str]:
    """A row for each variant: registers, and programs that a processor runs at one time, for each target."""
    targets = list(dict.fromkeys(one["target"] for one in kernels))
    cells = {(one["variant"], one["target"]): one for one in kernels}
    lines = ["| kernel | " + " | ".join(targets) + " |", "|---|" + "---:|" * len(targets)]
    for variant in dict.fromkeys(one["variant"] for one in kernels):
        lines.append(f"| {variant} | " + " | ".join(_cell(cells[variant, target]) for target in targets) + " |")
    return lines


def _cell(one: dict[str, Any]) -> str:
    spilled = f", {one['spilled']} bytes spilled" if one["spilled"] else ""
    return f"{one['registers']} registers{spilled}: {one['programs']} programs"


def _everything(kernels: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for one in kernels for name in one))
    lines = ["| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    return lines + ["| " + " | ".join(_number(one.get(name, "")) for name in names) + " |" for one in kernels]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
