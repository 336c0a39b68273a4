"""`python -m benchmarks gpu --small`: killed, resumed, and its page; and the rules of the pieces."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.gpu import command, fit, loss, memory, on_paper, page, record, right, where
from benchmarks.gpu.record import Context, Record
from benchmarks.paths import ROOT

HERE = ("loss", "where")
COMMAND = [sys.executable, "-m", "benchmarks", "gpu", "--small", "--pieces", *HERE]


def kept(out, name):
    return json.loads((out / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The results of a call that was killed after its first piece, and of the same call again."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    first = subprocess.Popen(
        [*COMMAND, "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(3000):  # tenths of a second
        if (out / "where.json").exists() or first.poll() is not None:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = kept(out, "loss"), sorted(kept(out, "where")["cells"])
    assert len(before[0]["cells"]) == len(loss.cells(small=True))
    done = subprocess.run([*COMMAND, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "cell loss" not in done.stdout
    assert kept(out, "loss") == before[0], "the first piece was measured again"
    assert len(kept(out, "where")["cells"]) >= len(before[1])
    return out


def test_every_cell_is_measured(out):
    for name in HERE:
        cells = kept(out, name)["cells"]
        assert list(cells) == command.PIECES[name].cells(True)
        assert not any("error" in one or "unfinished" in one for one in cells.values())


def test_results_say_where_they_are_from(out):
    content = kept(out, "loss")
    assert content["identity"]["card"] == record.NO_GPU
    assert content["provenance"]["command"] == "make gpu SMALL=1"
    assert {"date", "machine", "versions"} <= content["provenance"].keys()


def test_contenders_that_are_missing_are_listed(out):
    for one in kept(out, "loss")["cells"].values():
        assert {loss.LIGER, loss.CUT, loss.TRL, loss.PYTORCH, loss.GIB, loss.QUARTER} <= one["contenders"].keys()
        assert one["contenders"][loss.CUT] == {"failed": "not installed"}
    assert "| Cut Cross Entropy | not installed | not installed |" in (out / "page.md").read_text()


def test_the_page_has_tables_plots_and_what_is_missing(out):
    text = (out / "page.md").read_text()
    for piece in command.PIECES.values():
        assert f"## {piece.TITLE}" in text
    assert text.count("Not measured.") == len(command.PIECES) - len(HERE)
    assert page.TOY in text
    plots = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert plots == ["loss.png", "where.png"]
    for plot in plots:
        assert (out / plot).read_bytes()[:4] == b"\x89PNG"


def test_results_of_another_card_or_version_are_not_mixed(out, monkeypatch):
    path = out / "loss.json"
    assert Record.of(path, small=True).cells
    monkeypatch.setattr(record, "identity", lambda small: {"card": "another"})
    assert not Record.of(path, small=True).cells


def test_a_cell_that_fails_or_is_unfinished_is_measured_again(tmp_path):
    found = Record.of(tmp_path / "x.json", small=True)
    for name, figures in {"a": {"error": "no"}, "b": {"unfinished": "3 runs"}, "c": {"rates": 1}}.items():
        found.keep(name, figures)
    assert Record.of(tmp_path / "x.json", small=True).missing(["a", "b", "c", "d"]) == ["a", "b", "d"]


def test_an_error_of_a_cell_is_kept_and_does_not_end_the_piece(tmp_path, monkeypatch, capsys):
    def measure(cell, context):
        if cell == loss.cells(True)[0]:
            raise RuntimeError("no such kernel")
        return {"contenders": {}}

    monkeypatch.setattr(loss, "measure", measure)
    command.measure_missing("loss", Context("cpu", True, time.monotonic() + 60, tmp_path))
    cells = kept(tmp_path, "loss")["cells"]
    assert [one.get("error") for one in cells.values()] == ["RuntimeError: no such kernel", None]
    text = page.write(tmp_path, {"loss": loss})
    assert "RuntimeError: no such kernel" in text


def test_time_that_is_left_goes_to_pieces_that_get_on(tmp_path, monkeypatch):
    """The study gets on in each of three calls; a cell of the loss fails in the same way each time."""
    calls = []

    def call(name, small, out, minutes, *_):
        calls.append((name, round(minutes)))
        return name == "study" and calls.count(("study", 8)) < 3

    monkeypatch.setattr(command, "_call", call)
    with command.Progress() as bars:
        command.run_pieces(["loss", "study"], False, tmp_path, time.monotonic() + 60 * 39.9, bars)
    assert calls == [("loss", 8), ("study", 7), ("loss", 8), *[("study", 8)] * 3]


def test_a_record_gets_on_when_figures_change(tmp_path):
    found = Record.of(tmp_path / "x.json", small=True)
    found.keep("a", {"error": "no", "took": 1.0})
    before = found.figures()
    found.keep("a", {"error": "no", "took": 2.0})
    assert found.figures() == before
    found.keep("a", {"unfinished": "3 runs", "took": 2.0})
    assert found.figures() != before


def test_after_its_minutes_a_piece_measures_no_more(tmp_path):
    command.measure_missing("loss", Context("cpu", True, time.monotonic() - 1, tmp_path))
    assert not (tmp_path / "loss.json").exists()


# One cell of each piece that takes longer


def measured(name, cell, out, seconds=300.0):
    environment = command._environment(command.PIECES[name])
    code = (
        "import json, pathlib, sys, time\n"
        f"from benchmarks.gpu import {name}, record\n"
        f"context = record.Context('cpu', True, time.monotonic() + {seconds}, pathlib.Path({str(out)!r}))\n"
        f"print(json.dumps({name}.measure({cell!r}, context)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert command.PIECES[name].lines({cell: found})
    return found


def test_a_tiny_model_trains_under_every_cap(tmp_path):
    found = measured("fit", "tiny, OTR", tmp_path)
    assert found["weights"] == "NF4"
    assert found["caps"]["8"]["tokens"] == fit.LONGEST_ON_CPU
    assert found["caps"]["8"]["tokens a second"] > 0


@pytest.mark.parametrize("cell", memory.cells(True)[1:2])
def test_an_estimate_is_the_count_of_real_tensors(cell, tmp_path):
    found = measured("memory", cell, tmp_path)
    assert found["estimate"] == found["counted"] > 0


def test_the_tests_of_the_kernel_run(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = right._run(right.ANYWHERE, "counts and 200 and torch.float16", 300)
    assert found == {"tests": 1, "passed": 1, "skipped": 0, "failed": []}
    assert "unfinished" in right._run(right.ANYWHERE, "counts", 0.01)


# The rules


def test_the_budgets_add_up_to_forty_minutes():
    assert sum(piece.MINUTES for piece in command.PIECES.values()) == command.IN_ALL
    assert all(piece.MINUTES <= command.AT_MOST for piece in command.PIECES.values())
    for name, (seconds, _) in on_paper.seconds().items():
        assert seconds <= 60 * command.PIECES[name].MINUTES, name


def found(ours, other, megabytes=(100.0, 1000.0)):
    return {
        loss.GIB: {"seconds": ours, "megabytes": megabytes[0]},
        loss.FLOOR: {"seconds": other, "megabytes": megabytes[1]},
        loss.BY_HAND: {"seconds": other, "megabytes": megabytes[1]},
        loss.LIGER: {"failed": "not installed"},
    }


@pytest.mark.parametrize(
    ("figures", "bar", "text"),
    [
        (found([1.1, 5.0, 1.1], [1.0, 4.9, 1.0]), 0, "met: 1.1 ×"),  # by rounds: one of them was slow
        (found([1.38, 1.38], [1.0, 1.0]), 0, "**missed by 20%**: 1.38 ×"),
        (found([1.0], [1.0]), 3, "Liger's fused linear CE: not installed"),
        (found([1.0], [1.0]), 4, "met: 0.1 ×"),
        (found([1.0], [1.0], (250.0, 1000.0)), 4, "**missed by 100%**: 0.25 ×"),
        (found([1.0], [1.0], (None, None)), 4, f"{loss.GIB}: not measured"),
    ],
)
def test_bars_are_met_or_missed(figures, bar, text):
    assert loss.verdict(figures, loss.BARS[bar]) == text


@pytest.mark.parametrize("largest", [0, 511, 512, 1023, 5000, 40_000])
@pytest.mark.parametrize("start", [512, 4096])
def test_the_longest_sequence_is_found(largest, start):
    tokens, at_limit = fit.longest(lambda length: length <= largest, start, 2**16)
    assert not at_limit
    assert tokens <= largest
    assert largest - tokens < max(fit.STEP, tokens / fit.RESOLUTION) + fit.STEP
    assert fit.longest(lambda length: True, 512, 2**16) == (2**16, True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn", "matrix products"),
        ("void cutlass::device_kernel<at::cuda::...>", "matrix products"),
        ("loss_kernel", "ours: loss kernel"),
        ("threshold_kernel", "ours: thresholds"),
        ("void at_cuda_detail::cub::DeviceSegmentedRadixSortKernel<...>", "sort of the uniforms"),
        ("void at::native::distribution_elementwise_grid_stride_kernel<float, 4>", "random numbers"),
        ("Memcpy DtoH (Device -> Pinned)", "copies and fills"),
        ("void at::native::reduce_kernel<512, 1>", "other"),
    ],
)
def test_kernels_are_sorted_by_what_they_are_for(name, kind):
    assert where.kind_of(name) == kind


def test_the_recipes_are_those_for_one_gpu():
    assert memory.cells(False)
    assert not [name for name in memory.cells(False) if re.search(r"\dx\d+gb", name)]


def test_the_groups_hold_every_test_of_their_files_once():
    tests = right._tests(right.ON_GPU)
    groups = [group for group in right.GROUPS.values() if group.file == right.ON_GPU]
    assert [sum(group.has(test) for group in groups) for test in tests] == [1] * len(tests)
