"""The compilers' figures of the kernels, and the rule by which launch settings become the default."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import kernels, sweep, tune
from benchmarks.paths import RESULTS, ROOT
from otr_plugin.loss import tuned
from otr_plugin.loss.tuned import Settings

BEST = {"block": 4096, "warps": 16, "programs": 2, "draws": 8, "chunk_bytes": 2**28}


@pytest.fixture(scope="module")
def kept():
    return json.loads(kernels.RESULT.read_text())


def test_the_kept_figures_are_those_of_these_kernels(kept):
    assert kept["source"] == kernels.source(), "python -m benchmarks kernels"


def test_the_page_is_rendered_from_the_file(kept):
    assert kernels.RESULT.with_suffix(".md").read_text() == kernels.render(kept)


def test_every_variant_is_kept_for_every_target(kept):
    compiled = pytest.importorskip("benchmarks.gpu.compiled")
    pairs = [(one["target"], one["variant"]) for one in kept["kernels"]]
    assert pairs == [(target, variant) for target in compiled.KEPT for variant in compiled.VARIANTS]
    assert set(kernels.SHOWN) <= set(compiled.VARIANTS)


def test_at_most_a_few_words_of_a_kernel_are_spilled(kept):
    assert max(one["spilled"] for one in kept["kernels"]) <= 16
    assert {one["atomics"] for one in kept["kernels"]} == {0}


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "programs"),
    [
        ("sm_90", 8, 128, 0, 2),
        ("sm_90", 8, 129, 0, 1),  # registers are handed out in groups of 8 a thread
        ("sm_90", 8, 32, 0, 8),
        ("sm_89", 8, 32, 0, 6),  # it has fewer warps
        ("sm_89", 4, 16, 40 * 1024, 2),  # shared memory
        ("gfx942", 8, 128, 0, 2),
        ("gfx942", 8, 64, 0, 4),
    ],
)
def test_programs_at_once(target, warps, registers, shared, programs):
    compiled = pytest.importorskip("benchmarks.gpu.compiled")
    taken = {"registers": registers, "shared": shared}
    assert compiled.programs_at_once(taken, compiled.PROCESSORS[target], warps) == programs


# Launch settings


def cells(best):
    launch = {name: value for name, value in best.items() if name != "chunk_bytes"}
    return {
        "sweep of the launch": {"best": launch},
        "sweep of the chunks": {"best": {"chunk_bytes": best["chunk_bytes"]}},
    }


def keep(folder, card, architecture, date, found):
    (folder / f"gpu-{card}").mkdir()
    content = {"identity": {"architecture": architecture}, "provenance": {"date": date}, "cells": found}
    (folder / f"gpu-{card}" / "where.json").write_text(json.dumps(content))


def test_the_table_of_the_package_is_that_of_the_kept_sweeps():
    table = json.loads(tuned.TABLE.read_text()) if tuned.TABLE.exists() else {}
    assert table == tune.table_of(RESULTS), "python -m benchmarks tune"


def test_the_best_settings_of_a_sweep_are_used_on_that_architecture(tmp_path, monkeypatch):
    later = BEST | {"warps": 4}
    keep(tmp_path, "a", "sm_90", "2030-01-02", cells(later))
    keep(tmp_path, "b", "sm_90", "2030-01-01", cells(BEST))
    keep(tmp_path, "c", "sm_89", "2030-01-01", {"sweep of the launch": {"best": {"warps": 4}}})  # not finished
    keep(tmp_path, "d", tuned.INTERPRETER, "2030-01-01", cells(BEST))
    table = tmp_path / "tuned.json"
    command = [sys.executable, "-m", "benchmarks", "tune", "--results", str(tmp_path), "--out", str(table)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    monkeypatch.setattr(tuned, "TABLE", table)
    assert tuned.settings_of("sm_90") == Settings(**later)
    assert tuned.settings_of("sm_89") == Settings()
    assert tuned.settings_of(tuned.architecture(torch.device("cpu"))) == Settings(**BEST)


def test_launches_read_the_table(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from otr_plugin import OTRConfig
    from otr_plugin.loss.memory_plan import budget_of
    from otr_plugin.loss.triton import launch
    from otr_plugin.metrics import ROW_METRICS

    table = tmp_path / "tuned.json"
    table.write_text(json.dumps({tuned.INTERPRETER: BEST}))
    monkeypatch.setattr(tuned, "TABLE", table)
    launched = {}

    class Kernel:
        def __getitem__(self, grid):
            return lambda *_, **options: launched.update(options, grid=grid)

    monkeypatch.setattr(launch, "loss_kernel", Kernel())
    logits, labels = torch.randn(9, 5000), torch.zeros(9, dtype=torch.long)
    options = {"vocabulary": 5000, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    launch.compute_chunk(
        logits, labels, torch.rand(9, 8), torch.empty(9, len(ROW_METRICS)), OTRConfig(samples=8), **options
    )
    assert (launched["grid"], launched["BLOCK"], launched["num_warps"], launched["DRAWS"]) == ((2,), 4096, 16, 8)
    assert budget_of(2**40, tuned.INTERPRETER) == 2**28
    assert budget_of(2**40, "sm_90") == 2**30


def test_a_setting_becomes_the_default_only_if_it_is_clearly_faster(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from benchmarks.gpu.record import Context
    from otr_plugin.loss.triton import launch

    times = {(2048, 3): 1.0, (256, 1): 0.99, (256, 3): 0.5}

    def seconds(config):
        settings = launch.settings_of("any")
        if settings.draws != Settings().draws:
            raise RuntimeError("out of registers")
        return times[settings.block, settings.programs]

    context = Context("cpu", small=True, deadline=0.0, out=tmp_path)
    found = sweep.launches(seconds, context)
    assert found["best"] == {"block": 256, "warps": 8, "programs": 3, "draws": 32}
    assert [entry for entry in found["tried"] if "failed" in entry]
    times[256, 3] = 0.99
    assert sweep.launches(seconds, context)["best"] == {"block": 2048, "warps": 8, "programs": 3, "draws": 32}
    assert launch.settings_of is tuned.settings_of
