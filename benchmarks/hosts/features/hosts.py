"""The hosts that have a table."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

from benchmarks.hosts.features.host import Host

MODULES = ("axolotl", "llamafactory", "trl", "swift", "transformers")


def of(name: str) -> Host:
    host: Host = importlib.import_module(f"benchmarks.hosts.features.{name}").HOST
    return host


def installed() -> list[str]:
    """The hosts that this environment has at a tested version."""
    return [name for name in MODULES if result_name(name)]


def result_name(name: str) -> str | None:
    """The name of the result file for the installed version of a host; None for an untested version, or without one."""
    host = of(name)
    try:
        return host.versions.get(version(host.package))
    except PackageNotFoundError:
        return None
