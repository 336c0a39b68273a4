"""`otr memory` with transformers, PEFT, bitsandbytes and Liger: a step without values counts what a real one takes."""

import json

import pytest
import yaml

from benchmarks.performance.memory_on_paper import CASES, FAMILIES, SHAPE, SMALL, compare, config_of
from tests.command.driver import otr

RECIPE = {
    "base_model": "somebody/tiny",
    "sequence_len": 1024,
    "micro_batch_size": 1,
    "plugins": ["otr"],
    "otr": {},
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 8,
    "lora_target_linear": True,
    "gradient_checkpointing": True,
    "flash_attention": True,
    "lora_mlp_kernel": False,
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")  # of libraries, about a CPU
def test_fake_tensors_count_as_real_ones_and_as_pytorchs_own_allocator(name):
    cell = compare(name)
    assert cell["fake"] == pytest.approx(cell["real"], rel=0.02)
    assert cell["fake"] == pytest.approx(cell["allocator"], rel=0.02)


@pytest.fixture
def words(tmp_path):
    recipe, config = tmp_path / "recipe.yaml", tmp_path / "tiny.json"
    recipe.write_text(yaml.safe_dump(RECIPE))
    config.write_text(
        json.dumps({"model_type": "qwen3", **SHAPE, **FAMILIES["qwen3"], "vocab_size": 32000, "num_hidden_layers": 2})
    )
    return "memory", recipe, "--config", tmp_path


def test_the_verb_compares_losses(words):
    found = otr(*words, "--gpu", "24", "--against", "sft", "--json").json
    this, whole, fused = found["estimates"]
    assert this["peak_bytes"] == sum(this["parts"].values())
    assert whole["peak_bytes"] > 1.5 * this["peak_bytes"]
    assert whole["parts"]["logits"] > 4 * 1024 * 32000  # float32 ones, and more
    assert fused["peak_bytes"] < whole["peak_bytes"]
    assert found["compared_with_a_card"] is False
    assert found["exit_code"] == 0


def test_a_model_without_kernels_of_liger_has_no_estimate_with_its_loss(words, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps({"model_type": "olmoe", **SHAPE, **FAMILIES["olmoe"]}))
    found = otr(*words, "--against", "sft", "--json").json
    assert [each["name"] for each in found["estimates"]] == ["this recipe", "SFT, whole logits"]
    assert found["not_estimated"] == {"SFT, Liger's fused loss": "Liger has no kernels for olmoe"}


def test_the_verb_finds_the_longest_sequence(words):
    done = otr(*words, "--gpu", "0.65", "--longest", "--json")
    assert (done.exit_code, done.json["fits"]) == (1, False)
    (this,) = done.json["estimates"]
    assert this["peak_bytes"] > done.json["gpu"]["usable_bytes"]
    assert 0 < (this["longest"] or 128) < 1024


def test_what_is_printed(words, tmp_path):
    done = otr(*words, "--gpu", "24", "--png", tmp_path / "memory.png")
    assert done.exit_code == 0, done.stderr
    assert "somebody/tiny, OTR, 1 row of 1,024 tokens" in done.stdout
    assert "not yet compared with a card" in done.stdout
    assert "fits: 24 GiB have" in done.stdout
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_whose_config_is_not_found(words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = otr(*words[:2])
    assert done.exit_code == 2
    assert "the config of 'somebody/tiny' was not found" in done.stderr
    assert "Give it with --config FILE" in done.stderr


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ({"model_type": "of-nobody"}, 3, "code from a hub is not run"),
        ({"model_type": "clip"}, 3, "it is no causal language model"),
        ({"no": "type"}, 2, "has no model_type"),
    ],
)
def test_configs_that_are_refused(words, tmp_path, config, code, message):
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(config))
    done = otr(*words[:2], "--config", path)
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_peft_converts_nothing_to_float32_that_a_gpus_autocast_takes_as_it_is():
    """PEFT looks at the autocast of GPUs. The copies in float32 would be as large as all inputs of the adapters."""
    from otr_plugin.command.memory import step
    from otr_plugin.command.memory.plan import Adapter, FourBit, TrainingPlan

    adapter = Adapter(8, "all-linear")
    peaks = {}
    for autocast in ("bfloat16", None):
        plan = TrainingPlan("axolotl", "m", 1024, 1, autocast=autocast, adapter=adapter, four_bit=FourBit())
        peaks[autocast] = step.run(config_of("llama"), plan, None).peak.parts
    activations = 4
    assert peaks[None][activations] > 1.2 * peaks["bfloat16"][activations]


def test_every_host_and_adapter_is_among_the_recipes():
    assert len(CASES) >= 12
    assert {family for family, _ in CASES.values()} == set(FAMILIES)


def test_a_folder_of_configs_without_the_models_names_what_it_has(words, tmp_path):
    (tmp_path / "tiny.json").rename(tmp_path / "tin.json")
    done = otr(*words)
    assert done.exit_code == 2
    assert "It has tin.json: name the file, if one has the model's shape" in done.stderr
