"""The keys of a recipe that a GPU does not support. Reads keys only, so that no such GPU has to be here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from otr_plugin.command.gpus import GPU

# Keys with which a host computes in bfloat16, and their values that do.
BF16 = {
    "bf16": ("true", "full"),
    "bfloat16": ("true",),
    "pure_bf16": ("true",),
    "torch_dtype": ("bfloat16",),
    "dtype": ("bfloat16",),
    "bf16_full_eval": ("true",),
}
# Keys that choose a kernel of attention, and the values that are flash attention's.
FLASH = {
    "flash_attention": ("true",),
    "flash_attn": ("fa2",),
    "attn_implementation": ("flash_attention_2",),
    "attn_impl": ("flash_attn", "flash_attention_2"),
}
FLASH_3 = {"attn_implementation": ("flash_attention_3",), "attn_impl": ("flash_attention_3",), "flash_attn": ("fa3",)}
TRITON = (7, 0)  # PyTorch compiles Triton kernels from this compute capability on (torch.utils._triton)


def problems(recipe: Mapping[str, Any], gpu: GPU) -> list[str]:
    """One for each key whose value the GPU cannot run."""
    card = f"{gpu.title} has compute capability {gpu.sm}"
    found = []
    if not gpu.bf16:
        fix = "set it to false, and `fp16: true`" if not recipe.get("fp16") else "set it to false or float16"
        found += [f"`{key}: {value}`: bfloat16 needs sm_80, and {card}: {fix}" for key, value in _set(recipe, BF16)]
    if gpu.capability < (8, 0):
        fix = "choose sdpa"
        found += [
            f"`{key}: {value}`: FlashAttention 2 needs sm_80, and {card}: {fix}" for key, value in _set(recipe, FLASH)
        ]
    if gpu.capability[0] != 9:
        fix = "choose FlashAttention 2, or sdpa"
        found += [
            f"`{key}: {value}`: FlashAttention 3 needs sm_90, and {card}: {fix}" for key, value in _set(recipe, FLASH_3)
        ]
    if gpu.capability < TRITON and _kernel(recipe) == "triton":
        found.append(f"`kernel: triton` in `otr`: Triton needs sm_{TRITON[0]}{TRITON[1]}, and {card}: set it to auto")
    return found


def _set(recipe: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    for key, values in keys.items():
        if key in recipe and str(recipe[key]).lower() in values:
            yield key, recipe[key]


def _kernel(recipe: Mapping[str, Any]) -> Any:
    """The setting in the block `otr`, or in ms-swift's variables."""
    settings, variables = recipe.get("otr"), recipe.get("ENV")
    if isinstance(variables, Mapping) and "OTR_KERNEL" in variables:
        return variables["OTR_KERNEL"]
    return settings.get("kernel") if isinstance(settings, Mapping) else None
