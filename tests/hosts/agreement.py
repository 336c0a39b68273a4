"""Whether two runs were the same training, step by step; and what a run of OTR's has to be, whichever host runs it."""

import hashlib

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from otr_plugin import OTRConfig
from otr_plugin.loss.reference import otr_loss_on_logits


def losses(log):
    return [(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]


def same_training(ours, plain, *, norms):
    """Losses to printed precision, and gradient norms to this share; of as many steps."""
    assert losses(plain), "nothing was logged"
    for (loss, norm), (own_loss, own_norm) in zip(losses(ours), losses(plain), strict=True):
        assert loss == pytest.approx(own_loss, rel=2e-6)
        assert norm == pytest.approx(own_norm, rel=norms)


# One example again and again, so that every host has the same batches in the same order; but other draws for each.
PROMPT, ANSWER, EXAMPLES = "7+5=", "12.", 16
# As every host's recipe has it. Each trains two examples at a time with AdamW, and clips the gradient's norm at 1.
RECIPE = {"plugins": ["otr"], "otr": {"samples": 16}, "max_steps": 4, "learning_rate": 0.01, "seed": 3}
BATCH = 2


def by_the_specification(folder, *, eos, width):
    """What AdamW makes of the specification's gradient: whole logits, autograd, and the draws that are promised."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).train(), AutoTokenizer.from_pretrained(folder)
    config = OTRConfig(**RECIPE["otr"])
    prompt, answer = ([*tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (PROMPT, ANSWER))
    answer += [tokenizer.eos_token_id] * eos
    padding = [0] * ((width or 0) - len(prompt) - len(answer))
    ids = torch.tensor([prompt + answer + padding] * BATCH)
    mask = torch.tensor([[1] * len(prompt + answer) + padding] * BATCH)
    labels = torch.tensor([[-100] * len(prompt) + answer + [-100] * len(padding)] * BATCH)
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].reshape(-1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["learning_rate"], weight_decay=0)
    log = []
    for step in range(RECIPE["max_steps"]):
        key = f"{RECIPE['seed']}/{step}/0/0".encode()  # seed, optimiser step, micro-batch, rank
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
        uniforms = torch.rand(len(shifted), config.samples, generator=torch.Generator().manual_seed(seed))
        logits = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)
        loss, sums = otr_loss_on_logits(logits, shifted, config, uniforms=uniforms)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        averages = {
            f"otr/{name}": (sums[name] / sums["tokens"]).item() for name in ("objective", "hit_rate", "entropy")
        }
        log.append({"loss": (sums["nll"] / sums["tokens"]).item(), "grad_norm": norm} | averages)
    return log


def same_as_the_specification(log, folder, *, eos=True, width=None):
    """Hosts differ in what they put after an example: an end of turn or none, and padding up to a width."""
    log = [entry for entry in log if "loss" in entry]
    for entry, wanted in zip(log, by_the_specification(folder, eos=eos, width=width), strict=True):
        for name, value in wanted.items():
            assert entry[name] == pytest.approx(value, rel=2e-4, abs=2e-6), name
