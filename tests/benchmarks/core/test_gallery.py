"""The gallery's recipes, their miniatures and their cards."""

import json

import pytest
import yaml

from benchmarks.gallery import page
from benchmarks.gallery.recipes import HOSTS, card_of, config_of, model_of, recipes
from benchmarks.paths import ROOT

GALLERY = page.gallery()
REPLACED = yaml.safe_load((ROOT / "benchmarks" / "gallery" / "replaced.yaml").read_text())


def test_every_host_has_recipes():
    assert {path.parent.name for path in GALLERY.values()} == set(HOSTS) == set(REPLACED)
    assert len(GALLERY) == sum(len(recipes(host)) for host in HOSTS), "two hosts have a recipe of the same name"


@pytest.mark.parametrize("name", GALLERY)
def test_the_name_agrees_with_the_recipe(name):
    recipe = yaml.safe_load(GALLERY[name].read_text())
    model = model_of(recipe).rpartition("/")[2].lower()
    assert model.split("-")[0] == name.split("-")[0]
    assert ("qlora" in name) == page.method(recipe).startswith("QLoRA")
    assert ("full" in name) == page.method(recipe).startswith("full fine-tune")
    assert ("fsdp2" in name) == ("FSDP2" in page.method(recipe))
    assert ("zero3" in name) == ("ZeRO-3" in page.method(recipe))
    assert (card_of(GALLERY[name])[0] > 1) == ("fsdp2" in name or "zero3" in name)


@pytest.mark.parametrize("name", GALLERY)
def test_the_models_sizes_are_there(name):
    config = json.loads(config_of(model_of(yaml.safe_load(GALLERY[name].read_text()))).read_text())
    assert config["model_type"] in ("llama", "qwen2", "qwen3", "gemma2", "olmoe")


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen3-1.7B", 1.72), ("Qwen2.5-3B", 3.09), ("Llama-3.2-3B", 3.21)], ids=str
)
def test_the_sizes_make_the_number_of_parameters_that_the_authors_state(name, billions):
    config = json.loads((ROOT / "example_configs" / "model_configs" / f"{name}.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim", width // heads)
    attention = width * size * 2 * (heads + config["num_key_value_heads"])
    total = layers * (attention + 3 * width * config["intermediate_size"]) + config["vocab_size"] * width
    assert config["tie_word_embeddings"]
    assert total / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_miniature_keeps_what_makes_the_recipe():
    """What is replaced does not decide how the model is trained."""
    kept = {"adapter", "load_in_4bit", "quantization_bit", "lora_r", "lora_rank", "sample_packing", "packing", "seed"}
    kept |= {"neat_packing", "plugins", "otr", "loss_type", "ENV", "gradient_accumulation_steps", "tuner_type"}
    kept |= {"micro_batch_size", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "finetuning_type"}
    for settings in REPLACED.values():
        assert not kept & settings.keys()


def test_an_estimate_counts_only_for_the_recipe_that_it_was_made_of():
    path = GALLERY["qwen3-8b-qlora-24gb"]
    key = path.relative_to(ROOT).as_posix()
    estimates = [
        {"name": "this recipe", "peak_bytes": 9 * 2**30},
        {"name": "SFT, whole logits", "peak_bytes": 15 * 2**30},
    ]
    result = {"source": path.read_text(), "estimates": estimates, "not_counted": ["a | b"]}
    assert page.estimate({"recipes": {key: result}}, path) == (
        "9.0 of 24 GiB; SFT, whole logits: 15.0 GiB; not counted: a \\| b"
    )
    assert page.estimate({"recipes": {key: result | {"source": "other"}}}, path) == "to come"
    assert page.estimate({"recipes": {}}, path) == "to come"
    failed = {"source": path.read_text(), "error": f"{key}: cannot tell how much memory this recipe takes"}
    assert (
        page.estimate({"recipes": {key: failed}}, path) == "`otr memory`: cannot tell how much memory this recipe takes"
    )
