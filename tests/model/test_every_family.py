"""Every family of causal language models in transformers: OTR's `sft` equals the model's own loss and gradients.

A family is skipped if no small model of it can be made or trained here, without OTR. A family that OTR does not support
has to be refused with the reason.
"""

import contextlib

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from otr_plugin import OTRConfig, attach

from .comparison import assert_same_gradients, loss_and_gradients
from .families import TINY, TINY_VISION, batch

MOST_PARAMETERS = 30_000_000
MOE = {
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "router_jitter_noise": 0.0,
    "input_jitter_noise": 0.0,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
OLD_NAMES = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "n_ctx": 64,
    "rotary_dim": 4,
    "d_model": 32,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "num_layers": 2,
}
DROPOUTS = (
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "dropout", "layerdrop"),
    *("activation_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "residual_dropout"),
    *("embedding_dropout", "classifier_dropout"),
)
MAMBA = {
    "state_size": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LOGIT_TRANSFORM = {
    "logits_scaling": 3.0,
    "logit_scale": 0.25,
    "lm_head_multiplier": 0.3,
    "output_multiplier": 0.5,
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 1.5,
}
NO_HEAD_DIM = {"num_key_value_heads": 4, "head_dim": None}
SPARSE_ATTENTION = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4, "mlp_layer_types": ["dense", "sparse"]}
# Settings of single families beyond the general ones; most set one layer of each kind that the family has.
FAMILY_SETTINGS = {
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu", "axk1"),
        MOE | LATENT | NO_HEAD_DIM,
    ),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "axk2"), MOE | LATENT | NO_HEAD_DIM | SPARSE_ATTENTION),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), MOE | LINEAR_ATTENTION),
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": MAMBA | {"mamba_d_head": 8, "lm_head_multiplier": 0.3},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "laurel_rank": 4}
    | {"activation_sparsity_pattern": [0.0, 0.0], "altup_num_inputs": 2},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 3.0},
    "granitemoehybrid": MOE
    | MAMBA
    | {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"], "position_embedding_type": "rope"},
    "jamba": MOE
    | {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": MOE | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "nemotron_h": {"hybrid_override_pattern": "M*", "mamba_num_heads": 4, "mamba_head_dim": 16}
    | {"ssm_state_size": 8, "n_groups": 1, "chunk_size": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "logits_soft_cap": 2.0},
    "zamba2": {"mamba_d_state": 8, "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 8}
    | {"layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1, "adapter_rank": 4},
}
REFUSED = {
    "otr: .* failed after its output head, where OTR computes the loss, and before it called its loss_function": (
        *("cpmant", "trocr", "xlm", "xlnet"),
    ),
    r"otr: the output head of MoshiForCausalLM gives logits of shape \[8, 97\], and the model passes logits of shape "
    r"\[7, 97\] to its loss_function": ("moshi",),
    "otr: the output head received hidden states of shape .* for labels of shape": ("prophetnet",),
}
TRAINED = []  # the families that the tests of this process have trained
WHY_REFUSED = {family: why for why, families in REFUSED.items() for family in families}


def small_config(family):
    """A config of this family with the general settings that it has and the settings of its own."""
    if family in FAMILY_SETTINGS:
        settings = TINY | FAMILY_SETTINGS[family]
        config = AutoConfig.for_model(family, **{name: v for name, v in settings.items() if v is not None})
    else:
        try:
            config = AutoConfig.for_model(family, **TINY)
        except Exception:
            config = AutoConfig.for_model(family)
        for name, value in (TINY | MOE | OLD_NAMES | MAMBA).items():
            if hasattr(config, name):
                with contextlib.suppress(Exception):  # some configs validate a value and refuse it
                    setattr(config, name, value)
    for name, value in LOGIT_TRANSFORM.items():  # values that change the logits; the defaults do not
        if isinstance(getattr(config, name, None), float | int):
            with contextlib.suppress(AttributeError):  # a property derived from other settings
                setattr(config, name, value)
    if hasattr(config, "text_config"):  # a model that also takes images or sound
        for part in vars(config).values():
            for name, value in (TINY_VISION | {"out_hidden_size": 32, "depth": 1, "num_heads": 4}).items():
                if hasattr(part, "model_type") and hasattr(part, name):
                    setattr(part, name, value)
        config.text_config = small_config(config.text_config.model_type)
    for name in DROPOUTS:
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    return config


def small_model(family):
    """A model, its inputs, and its own loss and gradients without OTR. Skips with the reason where there is none."""
    try:
        config = small_config(family)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        size = sum(p.numel() for p in empty.parameters())
        assert size < MOST_PARAMETERS, f"{size:,} parameters"
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().train()
        inputs = batch()
        try:
            own = loss_and_gradients(model, **inputs)
        except TypeError:  # its forward takes no attention mask
            del inputs["attention_mask"]
            own = loss_and_gradients(model, **inputs)
        assert torch.equal(loss_and_gradients(model, **inputs)[0], own[0]), "its loss is not deterministic"
    except Exception as error:  # raised by transformers, or by an assert above
        pytest.skip(f"no small {family} here: {type(error).__name__}: {str(error)[:100]}")
    return model, inputs, own


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_objective_sft_equals_the_familys_own_loss_or_the_family_is_refused(family):
    model, inputs, (want_loss, want) = small_model(family)
    attach(model, OTRConfig(objective="sft"))
    if family in WHY_REFUSED:
        with pytest.raises(RuntimeError, match=WHY_REFUSED[family]):
            loss_and_gradients(model, **inputs)
        return
    for _ in range(2):  # the first forward includes the first-step check, the second does not
        loss, gradients = loss_and_gradients(model, **inputs)
        torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
        assert_same_gradients(gradients, want, 5e-5)
    TRAINED.append(family)


def test_more_than_100_families_were_trained():
    if not TRAINED:
        pytest.skip("the tests above were not selected")
    assert len(TRAINED) > 100
