"""What every host's tests share: when two runs count as the same training, and what a run with OTR must compute."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.hosts import objectives
from otr_plugin import OTRConfig
from otr_plugin.loss.reference import otr_loss_on_logits
from otr_plugin.metrics import PREFIX, ROW_METRICS
from tests.draws import uniforms

METRICS = {PREFIX + name for name in ROW_METRICS}  # what OTR adds to every entry of the training log


def losses(log):
    return [(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]


def same_training(ours, plain, *, norms):
    """The same number of steps, losses equal to printed precision, gradient norms equal within the share `norms`."""
    assert losses(plain), "nothing was logged"
    for (loss, norm), (own_loss, own_norm) in zip(losses(ours), losses(plain), strict=True):
        assert loss == pytest.approx(own_loss, rel=2e-6)
        assert norm == pytest.approx(own_norm, rel=norms)


def same_objectives(host, runs):
    """The host's own objectives and ours: losses and gradient norms are equal step by step, but for a known factor."""
    found = objectives.ratios(host, runs)
    assert found.keys() == objectives.TWINS[host].keys()
    for name, each in found.items():
        assert len(each["losses"]) == 5
        assert each["losses"] == pytest.approx([each["factor"]] * 5, rel=2e-5), name  # otr/objective has six decimals
        assert each["norms"] == pytest.approx([each["factor"]] * 5, rel=5e-5), name


def same_after_resume(unbroken, resumed, weights=None):
    """Final checkpoints of two runs, one of them resumed: the same weights bit for bit, and the same log.

    The log holds otr/hit_rate and otr/objective, which differ if a single draw does. `weights` are the folders of the
    weights, if they are not in the checkpoints.
    """
    want, got = (load_file(folder / "model.safetensors") for folder in weights or (unbroken, resumed))
    assert got.keys() == want.keys()
    for name in want:
        assert torch.equal(got[name], want[name]), name
    states = (json.loads((folder / "trainer_state.json").read_text()) for folder in (unbroken, resumed))
    want, got = ([entry for entry in state["log_history"] if "loss" in entry] for state in states)
    assert any("otr/hit_rate" in entry for entry in want), "nothing was logged"
    assert [_trained(entry) for entry in got] == [_trained(entry) for entry in want]


def _trained(entry):
    """What training computed, without speeds and times."""
    return {key: entry[key] for key in entry if key in ("step", "loss", "grad_norm") or key.startswith("otr/")}


LOAD_EVERYTHING = """
import pathlib, sys
sys.modules["otr_plugin"] = None  # an import of it raises
import torch, transformers
files = [p for p in pathlib.Path(sys.argv[1]).rglob("*") if p.suffix in (".bin", ".pt", ".pth")]
assert any(p.name == "training_args.bin" for p in files), "nothing was saved"
for path in files:
    torch.load(path, weights_only=False, map_location="cpu")
for state in pathlib.Path(sys.argv[1]).rglob("trainer_state.json"):
    transformers.TrainerState.load_from_json(state)
print(len(files), "files loaded")
"""


def loads_without_this_package(folder):
    """What a run has saved, training_args.bin among it, can be loaded where this package is not installed."""
    env = {**os.environ, "OTR_PLUGIN_AUTOLOAD": "0", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD_EVERYTHING, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "files loaded" in done.stdout


# One example repeated, so that batches are the same in every host and in every order. Draws differ all the same.
PROMPT, ANSWER, EXAMPLES = "7+5=", "12.", 16
# Settings that every host's recipe shares. Each host trains two examples a step with AdamW, and clips the norm at 1.
RECIPE = {"plugins": ["otr"], "otr": {"samples": 16}, "max_steps": 4, "learning_rate": 0.01, "seed": 3}
BATCH = 2


# What a rank trains on, of the positions of each example. On one process, all of them.
WHOLE = slice(None)


def by_the_specification(folder, *, eos, width, answer, pieces, cut_first):
    """The log of AdamW with the specification's gradient: whole logits, autograd, and draws by the documented key.

    `pieces` are the positions of each rank. `cut_first`: the labels are cut into pieces before they are shifted, so the
    first label of a piece is lost; and each rank averages over its own tokens.
    """
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).train(), AutoTokenizer.from_pretrained(folder)
    config = OTRConfig(**RECIPE["otr"])
    prompt, answer = ([*tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (PROMPT, answer))
    answer += [tokenizer.eos_token_id] * eos
    padding = [0] * ((width or 0) - len(prompt) - len(answer))
    ids = torch.tensor([prompt + answer + padding] * BATCH)
    mask = torch.tensor([[1] * len(prompt + answer) + padding] * BATCH)
    labels = torch.tensor([[-100] * len(prompt) + answer + [-100] * len(padding)] * BATCH)

    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["learning_rate"], weight_decay=0)
    log = []
    for step in range(RECIPE["max_steps"]):
        logits = model(input_ids=ids, attention_mask=mask).logits
        of_ranks = [shift(labels[:, piece]) if cut_first else shift(labels)[:, piece] for piece in pieces]
        total = sum((of_rank != -100).sum() for of_rank in of_ranks)
        loss, nll, sums = 0, 0, Counter()
        for rank, (piece, shifted) in enumerate(zip(pieces, of_ranks, strict=True)):
            shifted = shifted.reshape(-1)
            drawn = uniforms(len(shifted), config.samples, seed=RECIPE["seed"], step=step, micro_batch=0, rank=rank)
            of_rank, its_sums = otr_loss_on_logits(logits[:, piece].flatten(0, 1), shifted, config, uniforms=drawn)
            share = 1 / len(pieces) if cut_first else its_sums["tokens"] / total
            loss += share * of_rank
            nll += float(share * its_sums["nll"] / its_sums["tokens"])
            sums.update({name: value.item() for name, value in its_sums.items()})
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        averages = {f"otr/{name}": sums[name] / sums["tokens"] for name in ("objective", "hit_rate", "entropy")}
        log.append({"loss": nll, "grad_norm": norm} | averages)
    return log, model


def shift(labels):
    return torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]


def same_as_the_specification(
    log, folder, *, eos=True, width=None, answer=ANSWER, pieces=(WHOLE,), cut_first=False, saved=None
):
    """`eos`, `width`: whether the host ends an example with an end-of-text token, and to what width it pads.

    `saved` is the folder of the model after training, which is loaded without OTR.
    """
    log = [entry for entry in log if "loss" in entry]
    wanted_log, model = by_the_specification(
        folder, eos=eos, width=width, answer=answer, pieces=pieces, cut_first=cut_first
    )
    for entry, wanted in zip(log, wanted_log, strict=True):
        for name, value in wanted.items():
            assert entry[name] == pytest.approx(value, rel=2e-4, abs=2e-6), name
    if saved is not None:
        start, end = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, saved))
        for name, weight in model.state_dict().items():
            update = weight - start[name]
            assert (end[name] - weight).abs().max() < 1e-3 * update.abs().max(), name
