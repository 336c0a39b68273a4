"""`otr doctor`: what is installed here, and whether a host would find OTR."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import click

from otr_plugin.command.console import GOOD, PROBLEM, emit, table, verb

PACKAGES = ("otr-plugin", "torch", "transformers", "triton", "pydantic")


@verb()
@click.option("--gpu", is_flag=True, help="Import torch, and look for a GPU that Triton runs on.")
def command(gpu: bool, as_json: bool) -> int:
    """Show which hosts are installed, and whether they would find OTR."""
    hosts = _hosts()
    versions = {"python": platform.python_version(), **{name: _version(name) or "-" for name in PACKAGES}}
    autoload, advice = _autoload()
    problems = [advice] if advice and any(host["installed"] for host in hosts) else []
    triton = _triton(gpu)
    code = PROBLEM if problems else GOOD
    if as_json:
        document = {"hosts": hosts, "versions": versions, "autoload": autoload, "triton": triton, "problems": problems}
        emit({**document, "exit_code": code})
        return code
    rows = [[host["title"], host["installed"] or "-", ", ".join(host["tried"]), host["note"]] for host in hosts]
    table("Hosts", ["host", "installed", "tried", "note"], rows)
    more = [["autoload", autoload], ["Triton", triton]]
    click.echo()
    table("This environment", ["what", "found"], [*([name, found] for name, found in versions.items()), *more])
    for problem in problems:
        click.echo(f"problem: {problem}")
    return code


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hosts() -> list[dict[str, Any]]:
    from otr_plugin.command.recipes import HOSTS

    hosts: list[dict[str, Any]] = []
    for host in HOSTS.values():
        found = _version(host.package)
        note = ""
        if found and found not in host.tried:
            note = "untried: the first step compares OTR's loss with the model's own, and stops if they differ"
        hosts.append({"name": host.name, "title": host.title, "installed": found, "tried": host.tried, "note": note})
    return hosts


def _autoload() -> tuple[str, str | None]:
    """Whether this process, as every other, waits for a host; and what to do if it does not."""
    from otr_plugin.autoload import finder

    if finder() is not None:
        return "active: hosts find the short name otr", None
    if os.environ.get("OTR_PLUGIN_AUTOLOAD") == "0":
        advice = "unset OTR_PLUGIN_AUTOLOAD, or name the plugin `otr_plugin.OTRPlugin` in Axolotl"
        return "switched off by OTR_PLUGIN_AUTOLOAD=0", f"hosts will not find OTR: {advice}"
    advice = "install the package with pip, into the environment of the host; a folder on PYTHONPATH is not enough"
    return f"otr_autoload.pth is in no site-packages folder of {sys.prefix}", f"hosts will not find OTR: {advice}"


def _triton(gpu: bool) -> str:
    if find_spec("triton") is None:
        return "not installed: `kernel: auto` takes PyTorch's kernel"
    if not gpu:
        return "installed; `otr doctor --gpu` tries it on this machine's GPU, which takes seconds"
    import torch

    from otr_plugin.loss.dispatch import why_not_triton

    if not torch.cuda.is_available():
        return "installed, but torch finds no GPU here: `kernel: auto` takes PyTorch's kernel"
    reason = why_not_triton(torch.device("cuda"), torch.bfloat16)
    return f"usable on {torch.cuda.get_device_name()}" if reason is None else f"not usable: {reason}"
