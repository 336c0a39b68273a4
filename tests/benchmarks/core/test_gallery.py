"""The gallery's recipes, their miniatures and their cards."""

import json

import pytest
import yaml

from benchmarks.gallery import page
from benchmarks.gallery.recipes import CONFIGS, HOSTS, card_of, config_of, model_of, recipes
from benchmarks.paths import RESULTS, ROOT
from otr_plugin.command.memory.estimate import FUSED, THIS, WHOLE
from otr_plugin.command.memory.reading import plan_of

GALLERY = page.gallery()
ESTIMATES = json.loads((RESULTS / "gallery.json").read_text())["recipes"]
REPLACED = yaml.safe_load((ROOT / "benchmarks" / "gallery" / "replaced.yaml").read_text())

# Of the weights that the models' authors published.
PARAMETERS = {
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-3B": 3_212_749_824,
    "OLMoE-1B-7B-0924": 6_919_161_856,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "gemma-2-9b": 9_241_705_984,
}


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


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_config_makes_as_many_parameters_as_the_published_weights_have(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    width, tied = config["hidden_size"], config["tie_word_embeddings"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim", width // heads)
    family = config["model_type"]
    attention = width * size * 2 * (heads + groups)
    experts = config.get("num_experts", 1)
    mlp = 3 * width * config.get("moe_intermediate_size", config["intermediate_size"]) * experts
    router = width * experts if experts > 1 else 0
    norms = {"gemma2": 4 * width, "qwen3": 2 * width + 2 * size, "qwen3_moe": 2 * width + 2 * size}.get(
        family, 2 * width
    )
    norms += (heads + groups) * size if family == "olmoe" else 0
    biases = (heads + 2 * groups) * size if family == "qwen2" else 0
    layers = config["num_hidden_layers"] * (attention + mlp + router + norms + biases)
    assert layers + (1 if tied else 2) * config["vocab_size"] * width + width == PARAMETERS[name]


def test_every_config_is_counted():
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(PARAMETERS)


@pytest.mark.parametrize("name", [name for name, path in GALLERY.items() if card_of(path)[0] == 1])
def test_both_recipes_of_a_pair_fit_the_card_of_their_name_by_the_estimate(name):
    path = GALLERY[name]
    found = ESTIMATES[path.relative_to(ROOT).as_posix()]
    assert found["source"] == path.read_text(), "python -m benchmarks gallery"
    twin = plan_of(path.with_name(path.name.replace("-otr.", "-sft.")))
    fits = {each["name"]: each["fits"] for each in found["estimates"]}
    assert fits[THIS]
    assert fits[FUSED if twin.liger.fused_loss else WHOLE]


def test_recipes_for_several_gpus_have_the_reason_why_there_is_no_estimate():
    for path in (path for path in GALLERY.values() if card_of(path)[0] > 1):
        assert "split over several GPUs" in ESTIMATES[path.relative_to(ROOT).as_posix()]["error"]


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
