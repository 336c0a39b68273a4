"""The package as a stranger meets it: what importing costs, and whether the README tells the truth."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import yaml

import otr_plugin
from benchmarks import figures
from benchmarks.paths import ROOT
from otr_plugin import OTRConfig

README = (ROOT / "README.md").read_text()
HOSTS = {"axolotl", "llamafactory", "trl", "swift", "transformers", "peft"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_neither_torch_nor_a_host():
    loaded = set(python("import otr_plugin, sys; print(*sys.modules)").split())
    assert not loaded & (HOSTS | {"torch", "pydantic"})
    loaded = set(python("from otr_plugin import OTRConfig, otr_loss; import sys; print(*sys.modules)").split())
    assert not loaded & HOSTS


def test_every_public_name_loads():
    assert all(getattr(otr_plugin, name) for name in otr_plugin.__all__ if name != "OTRPlugin")
    if importlib.util.find_spec("axolotl") is None:
        with pytest.raises(RuntimeError, match=r"otr_plugin\.OTRPlugin cannot be imported: No module named 'axolotl'"):
            _ = otr_plugin.OTRPlugin
    assert dir(otr_plugin) == sorted(otr_plugin.__all__)
    with pytest.raises(AttributeError, match="module 'otr_plugin' has no attribute 'nothing'"):
        _ = otr_plugin.nothing


def test_the_readmes_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        hit_rate = float(re.search(r"tensor\(([^)]*)\)", python(block))[1])
        assert 0 <= hit_rate <= 1


def test_the_readmes_settings_are_the_defaults():
    block, swifts = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert block["otr"] == OTRConfig().model_dump()
    for name, value in swifts["ENV"].items():
        assert OTRConfig().model_dump()[name.removeprefix("OTR_").lower()] == value


def test_the_readmes_figures_come_from_result_files():
    assert len(figures.BLOCK.findall(README)) == len(figures.RENDERERS)
    assert figures.with_figures(README) == README, "python -m benchmarks readme"


@pytest.mark.parametrize("stem", ["loss-cpu", "axolotl-cpu"])
def test_a_results_page_is_its_file_rendered(stem):
    path = ROOT / "benchmarks" / "results" / stem
    results = json.loads(path.with_suffix(".json").read_text())
    assert path.with_suffix(".md").read_text() == figures.RENDERERS[stem].render(results)


def test_the_readmes_tree_is_there():
    tree = README.split("## What is where")[1].split("##")[0]
    above = [ROOT]
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip() or indent > 12:
            continue
        level = (indent - 4) // 2
        path = above[level] / line.split()[0]
        assert path.exists(), line
        above[level + 1 :] = [path]


def test_every_module_is_in_the_readmes_tree():
    for path in (ROOT / "otr_plugin").rglob("*.py"):
        if path.name != "__init__.py" or path.parent.name == "loss":
            assert f" {path.name} " in README, path.name


def test_the_benchmark_runs(tmp_path):
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


def test_the_gpu_benchmark_runs_as_far_as_a_cpu_goes(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--small", "--rounds", "1", "--out", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "x.json").read_text())
    assert [(cell["trained"], cell["trainable"]) for cell in results["cells"]] == [
        (1.0, False),
        (1.0, True),
        (0.25, False),
        (0.25, True),
    ]
    for cell in results["cells"]:
        assert all("failed" not in one for one in cell["contenders"].values())
    assert results["loss kernel"][0]["gigabytes a second"].keys() == {"copy", "sampled", "exact", "dft", "sft"}
    assert "a check on a CPU that the benchmark runs" in (tmp_path / "x.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed here")
def test_the_study_says_what_it_needs(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "learning", "--size", "smoke", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = "learning: it needs transformers, scipy, matplotlib; not installed here: transformers, matplotlib. Install"
    assert said in done.stderr
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


def test_the_contenders_compute_the_same():
    """A benchmark that compares different functions compares nothing."""
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
    # Two estimates from different draws are alike, on the scale of the exact gradient, without being equal.
    by_hand, sampled, exact = (gradients[n][1] for n in ("OTR by hand, whole logits", "ours: sampled", "ours: exact"))
    for estimate in (by_hand, sampled):
        assert torch.nn.functional.cosine_similarity(estimate.flatten(), exact.flatten(), dim=0) > 0.8
