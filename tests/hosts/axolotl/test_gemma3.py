"""Gemma 3 as Axolotl loads it: a vision-language model whose forward computes the loss inline."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    PreTrainedTokenizerFast,
)

from tests.hosts.agreement import same_training
from tests.model.test_inline_loss import MODELS

TEXT = {"vocab_size": 64, "max_position_embeddings": 256}
TOKENS = {"image_token": "<img>", "boi_token": "<boi>", "eoi_token": "<eoi>"}


@pytest.fixture(scope="module")
def gemma3(axolotl):
    """A small model with the processor files that Axolotl loads. No example has an image."""
    folder, parts = axolotl.folder / "gemma3", MODELS["gemma3"]
    config = AutoConfig.for_model("gemma3", **parts | {"text_config": parts["text_config"] | TEXT})
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    plain = AutoTokenizer.from_pretrained(axolotl.folder / "model")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, **plain.special_tokens_map, extra_special_tokens=TOKENS
    )
    images = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    Gemma3Processor(image_processor=images, tokenizer=tokenizer, image_seq_length=4).save_pretrained(folder)
    return {"base_model": str(folder), "gradient_accumulation_steps": 2}


def test_sft_is_the_hosts_own_training(axolotl, gemma3):
    plain, _ = axolotl.train("plain", **gemma3)
    ours, printed = axolotl.train("ours", plugins=["otr"], otr={"objective": "sft"}, **gemma3)
    assert "computed inside the trained Linear head of Gemma3ForConditionalGeneration" in printed
    same_training(ours, plain, norms=2e-5)


def test_otr(axolotl, gemma3):
    one_at_a_time = gemma3 | {"gradient_accumulation_steps": 1}  # with accumulation the logged loss is a mean of means
    log, printed = axolotl.train("otr", plugins=["otr"], otr={"samples": 64}, **one_at_a_time)
    assert "OTR is active: objective otr (64 samples" in printed
    steps = [entry for entry in log if "loss" in entry]
    assert steps[-1]["otr/nll"] < steps[0]["otr/nll"] - 0.5, "nothing was learnt"
    for entry in steps:
        assert entry["loss"] == pytest.approx(entry["otr/nll"], rel=1e-4)
