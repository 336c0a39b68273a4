"""What importing the package costs, its public names, and the benchmarks that need no host."""

import ast
import importlib.util
import json
import subprocess
import sys

import pytest

import otr_plugin
from benchmarks.paths import RESULTS, ROOT
from benchmarks.performance import axolotl_step, gradient_size, loss

HOSTS = {"axolotl", "llamafactory", "trl", "swift", "transformers", "peft"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_neither_torch_nor_a_host():
    loaded = set(python("import otr_plugin, sys; print(*sys.modules)").split())
    assert not loaded & (HOSTS | {"torch", "pydantic"})
    loaded = set(python("from otr_plugin import OTRConfig, otr_loss; import sys; print(*sys.modules)").split())
    assert not loaded & HOSTS


def test_every_public_name_can_be_imported():
    assert all(getattr(otr_plugin, name) for name in otr_plugin.__all__ if name != "OTRPlugin")
    if importlib.util.find_spec("axolotl") is None:
        with pytest.raises(RuntimeError, match=r"otr_plugin\.OTRPlugin cannot be imported: No module named 'axolotl'"):
            _ = otr_plugin.OTRPlugin
    assert dir(otr_plugin) == sorted(otr_plugin.__all__)
    with pytest.raises(AttributeError, match="module 'otr_plugin' has no attribute 'nothing'"):
        _ = otr_plugin.nothing


@pytest.mark.parametrize(
    ("stem", "benchmark"),
    [("loss-cpu", loss), ("axolotl-cpu", axolotl_step), ("gradient-size-cpu", gradient_size)],
)
def test_a_results_page_is_rendered_from_its_file(stem, benchmark):
    results = json.loads((RESULTS / f"{stem}.json").read_text())
    assert (RESULTS / f"{stem}.md").read_text() == benchmark.render(results)


def test_the_cpu_benchmark_runs(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "loss",
        "--small",
        "--rounds",
        "1",
        "--out",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "x.json").read_text())
    assert {"command", "date", "machine", "versions"} <= results.keys()
    for cell in results["sizes"] + results["growth"]:
        assert {"bare GEMMs", "OTR by hand, whole logits", "ours: sampled", "ours: exact"} <= cell["contenders"].keys()
        for one in cell["contenders"].values():
            assert one["seconds"] > 0
            assert one["megabytes"] >= 0


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed here")
def test_the_study_names_the_packages_that_are_missing(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "learning", "--size", "smoke", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    message = (
        "learning: it needs transformers, scipy, matplotlib; not installed here: transformers, matplotlib. Install"
    )
    assert message in done.stderr
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


def test_all_contenders_compute_the_same_function():
    """A benchmark of contenders that compute different functions would be meaningless."""
    import torch

    from benchmarks.performance.contenders import Case, Size, available

    gradients = {}
    for name, step in available().items():
        case = Case.make(Size(64, 16, 500), trainable=True)
        torch.manual_seed(0)
        step(case)
        gradients[name] = case.hidden.grad, case.weight.grad
    entropy = gradients["F.cross_entropy, whole logits"]
    for name in ("F.linear_cross_entropy, chunks of 512", "TRL's fused head", "ours: sft"):
        for got, want in zip(gradients.get(name, entropy), entropy, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
    # Two estimates from different draws are not equal, but both point along the gradient of `estimator: exact`.
    by_hand, sampled, exact = (gradients[n][1] for n in ("OTR by hand, whole logits", "ours: sampled", "ours: exact"))
    for estimate in (by_hand, sampled):
        assert torch.nn.functional.cosine_similarity(estimate.flatten(), exact.flatten(), dim=0) > 0.8


FORBIDDEN_MODULES = {
    *("asyncio", "ctypes", "ftplib", "http", "marshal", "multiprocessing", "pickle", "requests", "shelve", "shutil"),
    *("smtplib", "socket", "socketserver", "ssl", "subprocess", "tempfile", "urllib", "urllib3", "webbrowser"),
}
WRITERS = {
    "hosts/axolotl/adapter.py": {"write_text"},  # adds OTR's settings to the model card that Axolotl wrote
    "command/verbs/share.py": {"unlink"},  # replaces an earlier result of `otr share`
    "hosts/run_record.py": {"write_text"},  # otr_run.json
    "hosts/resources.py": {"open"},  # reads files in pieces, to hash them
    "command/files.py": {"write_bytes"},  # writes the files that a verb of `otr` is told to write
}
# `otr check --level data` lets a host write what it prepares to a temporary folder.
ALLOWED_MODULES = {"command/data_level.py": {"tempfile"}}
FORBIDDEN_CALLS = {"eval", "exec", "open", "__import__", "system", "popen", "write_text", "write_bytes", "unlink"}


PACKAGE = ROOT / "otr_plugin"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_the_package_opens_no_connection_starts_no_process_and_writes_no_file(module):
    """What SECURITY.md promises. Code that is executed from text, or unpickled, could do anything."""
    tree = ast.parse((PACKAGE / module).read_text())
    imported, called, loaders = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call):
            called.add(getattr(node.func, "id", None) or getattr(node.func, "attr", None))
        elif isinstance(node, ast.Attribute) and "oader" in node.attr:
            loaders.add(node.attr)
    assert imported & FORBIDDEN_MODULES == ALLOWED_MODULES.get(module, set())
    assert called & FORBIDDEN_CALLS == WRITERS.get(module, set())
    assert all("Safe" in name for name in loaders if name.endswith("Loader"))
