"""What `otr memory` estimates for the recipes of the gallery: benchmarks/results/gallery.json. It can be resumed.

It runs in an environment that has peft, bitsandbytes and Liger's kernels, such as .nox/axolotl. Each recipe takes about
a minute. The configs of the models are in example_configs/model_configs/, so nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks import provenance
from benchmarks.gallery import page
from benchmarks.gallery.recipes import HOSTS, card_of, config_of, model_of, recipes
from benchmarks.paths import RESULTS, ROOT

RESULT = RESULTS / "gallery.json"
PACKAGES = ("otr-plugin", "torch", "transformers", "peft", "bitsandbytes", "liger-kernel")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--again", action="store_true", help="estimate recipes again whose estimates are kept")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    kept = json.loads(RESULT.read_text())["recipes"] if RESULT.exists() and not args.again else {}
    found: dict[str, Any] = {}
    for path in (path for host in HOSTS for path in recipes(host)):
        name = path.relative_to(ROOT).as_posix()
        source = path.read_text()
        if kept.get(name, {}).get("source") == source:
            found[name] = kept[name]
        else:
            found[name] = {"source": source, **estimate(path)}
        _, gigabytes = card_of(path)
        print(f"{name}: {found[name].get('error') or described(found[name], gigabytes)}", flush=True)
        results = provenance.collect(PACKAGES)
        RESULT.write_text(json.dumps(results | {"recipes": found}, indent=1) + "\n")
    page.plot(results | {"recipes": found}, RESULT.with_suffix(".png"))


def estimate(path: Path) -> dict[str, Any]:
    """The document that `otr memory` prints, without the course over time; or its error."""
    recipe = yaml.safe_load(path.read_text())
    _, gigabytes = card_of(path)
    words = [str(path.relative_to(ROOT)), "--gpu", str(gigabytes), "--against", "sft", "--json"]
    words += ["--config", str(config_of(model_of(recipe)))]
    command = [sys.executable, "-m", "otr_plugin.command", "memory", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        return {"error": json.loads(done.stdout)["error"] if done.stdout else done.stderr.strip().splitlines()[-1]}
    document = json.loads(done.stdout)
    kept = ("plan", "estimates", "not_estimated", "not_counted", "compared_with_a_card")
    return {name: document[name] for name in kept}


def described(result: dict[str, Any], gigabytes: int) -> str:
    return ", ".join(
        f"{each['name']}: {each['peak_bytes'] / 2**30:.1f} of {gigabytes} GiB" for each in result["estimates"]
    )
