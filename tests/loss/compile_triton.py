"""Compiles the Triton kernels for several GPUs, none of which has to be present.

This is a script, which test_triton.py runs in a process without Triton's interpreter. It prints one line of JSON for
each target and kernel.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompilationError

from otr_plugin.loss.entropy import MOST_PROBABLE
from otr_plugin.loss.triton import launch
from otr_plugin.loss.triton.loss_kernel import DFT, EAFT, EXACT, POWER, SAMPLED, SFT, loss_kernel
from otr_plugin.loss.triton.threshold_kernel import threshold_kernel

TARGETS = {  # the GPU, and the dtype of the logits that is compiled for it
    "sm_80": (("cuda", 80, 32), "fp16"),
    "sm_89": (("cuda", 89, 32), "bf16"),
    "sm_90": (("cuda", 90, 32), "fp32"),
    "gfx942": (("hip", "gfx942", 64), "bf16"),
}
VOCABULARY = 151_936
TYPES = {
    "stride": "i32", "labels": "*i64", "uniforms": "*fp32", "thresholds": "*fp32", "row_metrics": "*fp32",
    "ends": "*fp64", "tops": "*fp32", "tokens": "*i32", "distances": "*fp32", "count": "i32", "vocabulary": "i32",
    "samples": "i32", "inverse_temperature": "fp32", "beta": "fp32", "nll_weight": "fp32", "missing_draws": "fp32",
    "top_k": "fp32", "top_p": "fp32", "token_weights": "*fp32", "alpha": "fp32", "log_largest_entropy": "fp32",
    "min_label_prob": "fp32", "max_label_prob": "fp32",
}  # fmt: skip
TILES = triton.next_power_of_2(triton.cdiv(VOCABULARY, launch.TILE))
LOSS = {
    "CUT": False,
    "MEAN_BASELINE": False,
    "WITH_GRAD": True,
    "HAS_THRESHOLDS": False,
    "HAS_WEIGHTS": False,
    "MOST_PROBABLE": MOST_PROBABLE,
    "TILES": TILES,
    "TILE_STEPS": TILES.bit_length() - 1,
    "SAMPLE_STEPS": 9,
    "TILE": launch.TILE,
    "DRAWS": launch.DRAWS,
    "SCALE": None,
    "CAP": None,
    **launch.METRIC_COLUMNS,
}
LOGITS = {"SCALE": 0.5, "CAP": 30.0}
ALL_OPTIONS = LOGITS | {"CUT": True, "MEAN_BASELINE": True, "HAS_THRESHOLDS": True, "HAS_WEIGHTS": True}
VARIANTS = {
    "sft": (loss_kernel, LOSS | {"OBJECTIVE": SFT.value}),
    "dft": (loss_kernel, LOSS | {"OBJECTIVE": DFT.value}),
    "power": (loss_kernel, LOSS | {"OBJECTIVE": POWER.value}),
    "eaft": (loss_kernel, LOSS | {"OBJECTIVE": EAFT.value}),
    "eaft, all options": (
        loss_kernel,
        LOSS | LOGITS | {"OBJECTIVE": EAFT.value, "HAS_THRESHOLDS": True, "HAS_WEIGHTS": True},
    ),
    "exact": (loss_kernel, LOSS | {"OBJECTIVE": EXACT.value}),
    "sampled": (loss_kernel, LOSS | {"OBJECTIVE": SAMPLED.value}),
    "exact, all options": (loss_kernel, LOSS | ALL_OPTIONS | {"OBJECTIVE": EXACT.value}),
    "sampled, all options": (loss_kernel, LOSS | ALL_OPTIONS | {"OBJECTIVE": SAMPLED.value}),
    "threshold": (
        threshold_kernel,
        {"BY_COUNT": True, "BY_MASS": True, "SCALE": 0.5, "CAP": 30.0},
    ),
}


def compile_one(kernel, constants, logits, target):
    constants = constants | {"BLOCK": launch.BLOCK}
    types = TYPES | {"logits": f"*{logits}"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    options = {"num_warps": launch.WARPS, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget(*target), options=options)


def bytes_spilled(cubin):
    """The local memory of a thread, which NVIDIA's tool reads from the binary. It is used only if registers spill."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return int(usage.stdout.split("LOCAL:")[1].split()[0])


def main():
    for target, (description, logits) in TARGETS.items():
        for variant, (kernel, constants) in VARIANTS.items():
            asm = compile_one(kernel, constants, logits, description).asm
            result = {"target": target, "variant": variant, "binary": len(asm.get("cubin") or asm["hsaco"])}
            if "cubin" in asm:
                result["spilled"] = bytes_spilled(asm["cubin"])
                result["atomics"] = len(re.findall(r"\b(?:atom|red)\.", asm["ptx"]))
            print(json.dumps(result))
    try:
        compile_one(loss_kernel, LOSS | {"OBJECTIVE": -1}, "fp32", TARGETS["sm_90"][0])
    except CompilationError as error:
        print(json.dumps({"variant": "unknown objective", "error": str(error)}))


if __name__ == "__main__":
    main()
