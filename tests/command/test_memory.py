"""`otr memory` without a model: how recipes are read, what is refused, and the count itself."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml

from benchmarks.paths import EXAMPLES, RESULTS
from otr_plugin.command.console import Failure
from otr_plugin.command.memory import card, picture
from otr_plugin.command.memory.estimate import LONGEST, STEP, _longest, contenders
from otr_plugin.command.memory.ledger import ACTIVATIONS, BACKWARD, FORWARD, GRADIENTS, Ledger, Moment, Record
from otr_plugin.command.memory.plan import Adapter, FourBit, Liger, settled
from otr_plugin.command.memory.reading import plan_of
from otr_plugin.loss import otr_loss
from tests.command.driver import otr

AXOLOTL = {"base_model": "m", "sequence_len": 512, "micro_batch_size": 2, "adapter": "qlora", "load_in_4bit": True}
FACTORY = {"model_name_or_path": "m", "stage": "sft", "finetuning_type": "lora", "plugins": ["otr"]}
TRL = {"model_name_or_path": "m", "dataset_name": "d", "use_peft": True}
SWIFT = {"model": "m", "tuner_type": "lora", "max_length": 512, "loss_type": "otr"}


@pytest.fixture
def plan(tmp_path):
    def read(recipe):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return plan_of(path)

    return read


def test_axolotls_recipe_of_the_examples():
    plan = plan_of(EXAMPLES / "axolotl" / "qwen3-8b-qlora-24gb-otr.yaml")
    assert (plan.rows, plan.sequence, plan.is_packed, plan.accumulation) == (1, 4096, True, 8)
    assert plan.adapter == Adapter(32, "all-linear", 0.05)
    assert plan.four_bit == FourBit("nf4", double=True)
    assert plan.liger == Liger(rope=True, rms_norm=True, swiglu=True, fused_loss=False)
    assert (plan.weights, plan.autocast, plan.attention) == ("bfloat16", "bfloat16", "flash")
    assert (plan.checkpointing, plan.optimiser) == ("reentrant", "adamw_bnb_8bit")
    assert plan.otr is not None
    assert [note.partition(":")[0] for note in plan.not_counted] == ["lora_mlp_kernel, lora_qkv_kernel, lora_o_kernel"]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            AXOLOTL | {"sample_packing": True, "flash_attention": True},
            {"sequence": 1024, "rows": 1, "attention": "flash"},
        ),
        (AXOLOTL | {"sample_packing": True}, {"sequence": 512, "rows": 2, "attention": "sdpa"}),
        (AXOLOTL | {"gradient_checkpointing": True}, {"checkpointing": "reentrant"}),
        (
            AXOLOTL | {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
            {"checkpointing": "not reentrant"},
        ),
        (AXOLOTL | {"bf16": False, "fp16": True}, {"weights": "float16", "autocast": "float16"}),
        (AXOLOTL | {"bf16": False}, {"weights": "float32", "autocast": None}),
        (
            {"base_model": "m", "sequence_len": 64, "sdp_attention": True},
            {"adapter": None, "float32_modules": ("norm", "embed_tokens", "lm_head")},
        ),
        (
            FACTORY,
            {
                "sequence": 2048,
                "rows": 8,
                "checkpointing": "reentrant",
                "autocast": None,
                "trained_in_float32": True,
                "adapter": Adapter(8, "all-linear"),
                "optimiser": "adamw_torch_fused",
            },
        ),
        (FACTORY | {"pure_bf16": True}, {"weights": "bfloat16", "trained_in_float32": False}),
        (FACTORY | {"enable_liger_kernel": True}, {"liger": Liger(True, True, True, False)}),
        (FACTORY | {"enable_liger_kernel": True, "plugins": []}, {"liger": Liger(True, True, True, True)}),
        (
            TRL,
            {
                "sequence": 1024,
                "rows": 8,
                "weights": "float32",
                "autocast": "bfloat16",
                "checkpointing": "not reentrant",
                "adapter": Adapter(16, None, 0.05),
            },
        ),
        (TRL | {"packing": True, "max_length": 100}, {"sequence": 800, "rows": 1, "is_packed": True}),
        (
            TRL | {"load_in_4bit": True},
            {"four_bit": FourBit(double=False), "adapter": Adapter(16, None, 0.05, dtype="bfloat16")},
        ),
        (
            SWIFT,
            {
                "rows": 1,
                "accumulation": 16,
                "weights": None,
                "autocast": "by weights",
                "checkpointing": "reentrant",
                "adapter": Adapter(8, "all-linear", 0.05),
            },
        ),
        (SWIFT | {"tuner_type": "full", "per_device_train_batch_size": 4}, {"adapter": None, "accumulation": 4}),
    ],
)
def test_what_a_recipe_means(plan, recipe, expected):
    found = plan(recipe)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(("dtype", "autocast"), [("bfloat16", "bfloat16"), ("float32", "float16"), (None, "bfloat16")])
def test_what_a_recipe_leaves_to_the_model(plan, dtype, autocast):
    config = SimpleNamespace(dtype=dtype, max_position_embeddings=4096)
    config.get_text_config = lambda: config
    found = settled(plan({name: value for name, value in SWIFT.items() if name != "max_length"}), config)
    assert (found.weights, found.autocast, found.sequence) == (dtype or "bfloat16", autocast, 4096)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (AXOLOTL | {"deepspeed": "zero3.json"}, "`deepspeed: zero3.json`: the model is split over several GPUs"),
        (AXOLOTL | {"optimizer": "muon"}, "`optimizer: muon`: the state of this optimiser is not modelled"),
        (AXOLOTL | {"load_in_8bit": True}, "`load_in_8bit: True`: 8-bit weights are not modelled"),
        (AXOLOTL | {"adapter": "llama-adapter"}, "only lora and qlora are modelled"),
        (AXOLOTL | {"rl": "dpo"}, "`rl: dpo`: a step of another kind of training"),
        (FACTORY | {"quantization_bit": 8}, "only 4-bit weights of bitsandbytes are modelled"),
        (FACTORY | {"stage": "dpo", "plugins": []}, "`stage: dpo`: a step of another kind of training"),
        (FACTORY | {"finetuning_type": "freeze"}, "only lora and full are modelled"),
        (TRL | {"load_in_8bit": True}, "`load_in_8bit: True`: 8-bit weights are not modelled"),
        (SWIFT | {"quant_method": "hqq", "quant_bits": 4}, "only 4-bit weights of bnb are modelled"),
    ],
)
def test_what_is_not_modelled_ends_with_cannot_tell(plan, recipe, reason):
    with pytest.raises(Failure) as failure:
        plan(recipe)
    assert reason in failure.value.message
    assert failure.value.exit_code == 3


def test_a_key_whose_effect_is_unknown_is_named(plan):
    found = plan(TRL | {"neftune_noise_alpha": 5, "learning_rate": 1e-4})
    assert found.not_counted == ("neftune_noise_alpha: 5",)


def test_a_recipe_that_the_host_refuses_is_a_problem(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(AXOLOTL | {"plugins": ["otr"], "otr": {"sampels": 3}}))
    done = otr("memory", path)
    assert done.exit_code == 1
    assert "unknown key 'sampels'" in done.stderr
    assert "otr check" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--longest",), 2, "--longest needs --gpu"),
        (("--gpu", "a toaster"), 2, "--gpu a toaster: unknown GPU; known are p100,"),
        (("--gpu", "4090"), 2, "--gpu 4090: unknown GPU; did you mean rtx4090?"),
        (("--gpu", "-3"), 2, "--gpu -3: expected the name of a GPU, or its memory in GiB"),
    ],
)
def test_wrong_words(tmp_path, words, code, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(AXOLOTL))
    done = otr("memory", path, *words)
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_where_a_package_is_missing_the_error_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr("otr_plugin.command.verbs.memory.find_spec", lambda name: None if name == "peft" else object())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(AXOLOTL))
    done = otr("memory", path)
    assert done.exit_code == 3
    assert "peft: not installed here" in done.stderr
    assert "run otr in the environment in which Axolotl is installed" in done.stderr


@pytest.mark.parametrize(
    ("text", "gib"), [("rtx4090", 24), ("NVIDIA GeForce RTX 4090", 24), ("a100-80", 80), ("24", 24), ("22.5 GB", 22.5)]
)
def test_cards(text, gib):
    assert card.card(text).gib == gib
    assert card.card(text).usable < gib * card.GIB - card.CONTEXT


def test_the_ledger_counts_storages_once_until_they_are_freed():
    ledger = Ledger(lambda tensor, phase: ACTIVATIONS)
    with ledger:
        one = torch.zeros(1000)  # 4,000 bytes, in granules of 512
        record = ledger.start()
        two = torch.zeros(256)
        view = two.view(16, 16)
        ledger.move(two, GRADIENTS)
        with ledger.during(BACKWARD):
            three = one + 1
            del one
        assert ledger.total == 4096 + 1024
        del two
        assert ledger.total == 4096 + 1024
        del view, three
        assert ledger.total == 0
    assert [(moment.phase, moment.total) for moment in record.moments] == [
        (FORWARD, 4096),
        (FORWARD, 4096 + 1024),
        (BACKWARD, 2 * 4096 + 1024),
    ]
    assert record.peak.parts == (0, 0, 0, 1024, 8192, 0)


def test_what_an_operation_takes_while_it_runs_is_in_the_peak():
    ledger = Ledger(
        lambda tensor, phase: ACTIVATIONS, lambda function, args, result: 512 if "add" in str(function) else 0
    )
    with ledger:
        one = torch.zeros(128)
        record = ledger.start()
        torch.add(one, 1)
    assert record.peak.total == 3 * 512
    assert ledger.total == 512


def test_the_loss_runs_on_fake_tensors_with_known_labels():
    """The number of trained positions decides sizes: half of the labels are trained, and half of the rows count."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from otr_plugin.command.memory.known import KnownValues

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, KnownValues(fake):
        hidden, weight = torch.zeros(100, 8, requires_grad=True), torch.zeros(50, 8, requires_grad=True)
        labels = torch.arange(100) % 50
        labels[::2] = -100
        out = otr_loss(hidden, weight, labels)
        out.loss.backward()
        assert out.metrics["tokens"].item() == 50
        assert hidden.grad.shape == (100, 8)
        assert (labels != -100).nonzero().shape == (50, 1)
        assert torch.unique_consecutive(labels // 1000).tolist() == [-1, 0] * 50


def test_the_value_of_a_tensor_that_depends_on_a_weight_is_not_known():
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    from otr_plugin.command.memory.known import KnownValues

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, KnownValues(fake):
        number = torch.zeros(())
        assert number.item() == 0
        number.uniform_()
        with pytest.raises(DataDependentOutputException):
            number.item()


def test_the_loss_plans_its_chunks_as_on_the_card():
    on_paper = card.CardOnPaper(card.card("8.6"), lambda: 6 * card.GIB)
    assert on_paper.budget() == pytest.approx(2 * card.GIB / 4, rel=1e-6)
    assert card.CardOnPaper(card.card("h100"), lambda: 0).budget() == card.GIB
    assert card.CardOnPaper(card.card("6"), lambda: 7 * card.GIB).budget() == card.GIB  # it does not fit anyway


@pytest.mark.parametrize(
    ("measure", "longest"),
    [
        (lambda tokens: 5 * card.GIB + tokens * 2**20, None),
        (lambda tokens: card.GIB + tokens * 2**20 + max(0, tokens - 5000) * 2**21, None),
        (lambda tokens: card.GIB + tokens**2 * 100, None),
        (lambda tokens: 30 * card.GIB, 0),
        (lambda tokens: card.GIB, LONGEST),
    ],
    ids=["line", "bend", "square", "nothing fits", "everything fits"],
)
def test_the_longest_sequence(measure, longest):
    of = card.card("24")
    tries = []

    def count(tokens):
        tries.append(tokens)
        return measure(tokens)

    found = _longest(count, 4096, measure(4096), card.GIB, of) or 0
    if longest is None:
        assert measure(found) <= of.usable < measure(found + max(STEP, found // 64) + STEP)
        assert found % STEP == 0
        assert len(tries) < 8
    else:
        assert found == pytest.approx(longest, rel=1 / 50)


def test_the_contenders_are_the_same_recipe_with_other_losses(plan):
    base = plan(AXOLOTL | {"plugins": ["otr"], "otr": {}})
    found = contenders(base, "sft")
    assert list(found) == ["this recipe", "SFT, whole logits", "SFT, Liger's fused loss"]
    assert [(one.otr is None, one.liger.fused_loss) for one in found.values()] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert list(contenders(plan(AXOLOTL), "sft")) == ["this recipe", "SFT, Liger's fused loss"]
    assert contenders(plan(AXOLOTL), "otr")["OTR"].otr is not None


def test_the_chart_shows_every_phase_and_the_peak():
    sizes = [("forward", 1), ("forward", 4), ("backward", 2), ("update", 1)]
    moments = [Moment(phase, (gib * card.GIB, 0, 0, 0, 0, 0), gib * card.GIB) for phase, gib in sizes]
    record = Record([moment for moment in moments for _ in range(60)])
    lines = picture.over_time(record)
    assert lines[0].strip().startswith("4.00 GiB")
    assert lines[-1].split("|")[1].strip() == "forward"
    assert "backward" in lines[-1]
    assert "update" in lines[-1]


def test_a_picture_without_matplotlib_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(Failure, match="install it"):
        picture.save(Record([Moment("forward", (1,) * 6, 6)]), None, "t", tmp_path / "p.png")


def test_every_recipe_of_the_kept_comparison_is_within_two_percent():
    """`python -m benchmarks memory` has run them all; tests/hosts/transformers/test_memory.py runs some again."""
    cells = json.loads((RESULTS / "memory-on-paper.json").read_text())["cells"]
    assert len(cells) >= 12
    assert {cell["host"] for cell in cells} == {"axolotl", "llamafactory", "trl", "swift"}
    for cell in cells:
        assert cell["fake"] == pytest.approx(cell["real"], rel=0.02), cell["name"]


def test_a_kernel_of_bitsandbytes_unpacks_the_weight_while_it_runs():
    result = SimpleNamespace(element_size=lambda: 2)
    taken = card.workspace("bitsandbytes.gemm_4bit.default", (None, None, (4096, 1024), None, 64), result)
    assert taken == 4096 * 1024 * 2 + 4096 * 1024 * 4 // 64
