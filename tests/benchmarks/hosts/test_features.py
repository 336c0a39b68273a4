"""`python -m benchmarks features` runs twins, keeps their results, and runs no twin again that it has."""

import json
import subprocess
import sys

from benchmarks.paths import ROOT


def features(out, *arguments):
    command = [sys.executable, "-m", "benchmarks", "features", "--host", "transformers", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_are_kept_and_resumed(tmp_path):
    told = features(tmp_path, "--only", "DoRA", "--only", "label smoothing")
    assert "Trainer 4/4" in told, "DoRA is compared with LoRA, and LoRA with full fine-tuning"
    results = json.loads((tmp_path / "features-transformers.json").read_text())
    assert {"command", "date", "machine", "versions"} <= results.keys()
    assert list(results["cells"]) == ["full fine-tuning", "LoRA", "DoRA", "label smoothing"]
    assert [cell["result"] for cell in results["cells"].values()] == ["same digits"] * 3 + ["refused"]
    assert "label_smoother would compute the loss" in results["cells"]["label smoothing"]["message"]
    told = features(tmp_path, "--only", "DoRA", "--only", "rsLoRA")
    assert "DoRA" not in told
    assert "Trainer 1/1 rsLoRA: same digits" in told


def test_a_feature_without_a_name_in_the_table_is_an_error(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "features", "--only", "Dora", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "No feature has the name Dora. The names are: full fine-tuning; " in done.stderr
