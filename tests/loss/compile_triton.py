"""Compiles the Triton kernels for GPUs that need not be there: target by target, in a process without the interpreter.

Run as a script: prints one line of JSON a kernel.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from otr_plugin.loss.triton import launch, loss_kernel, threshold_kernel

TARGETS = {  # and the logits' type that is tried there
    "sm_80": (("cuda", 80, 32), "fp16"),
    "sm_89": (("cuda", 89, 32), "bf16"),
    "sm_90": (("cuda", 90, 32), "fp32"),
    "gfx942": (("hip", "gfx942", 64), "bf16"),
}
VOCABULARY = 151_936
TYPES = {
    "stride": "i32", "labels": "*i64", "uniforms": "*fp32", "thresholds": "*fp32", "stats": "*fp32", "ends": "*fp64",
    "tops": "*fp32", "tokens": "*i32", "distances": "*fp32", "count": "i32", "vocabulary": "i32", "samples": "i32",
    "inverse_temperature": "fp32", "beta": "fp32", "nll_weight": "fp32", "draws_to_miss": "fp32", "top_k": "fp32",
    "top_p": "fp32",
}  # fmt: skip
TILES = triton.next_power_of_2(triton.cdiv(VOCABULARY, launch.TILE))
ROWS = {
    "CUT": False,
    "MEAN_BASELINE": False,
    "WITH_GRAD": True,
    "TILES": TILES,
    "TILE_STEPS": TILES.bit_length() - 1,
    "SAMPLE_STEPS": 9,
    "TILE": launch.TILE,
    "DRAWS": launch.DRAWS,
    "SCALE": None,
    "CAP": None,
}
EVERYTHING = {"CUT": True, "MEAN_BASELINE": True, "SCALE": 0.5, "CAP": 30.0}
VARIANTS = {
    "sft": (loss_kernel.loss_kernel, ROWS | {"OBJECTIVE": 0}),
    "dft": (loss_kernel.loss_kernel, ROWS | {"OBJECTIVE": 1}),
    "exact": (loss_kernel.loss_kernel, ROWS | {"OBJECTIVE": 2}),
    "sampled": (loss_kernel.loss_kernel, ROWS | {"OBJECTIVE": 3}),
    "exact, everything": (loss_kernel.loss_kernel, ROWS | EVERYTHING | {"OBJECTIVE": 2}),
    "sampled, everything": (loss_kernel.loss_kernel, ROWS | EVERYTHING | {"OBJECTIVE": 3}),
    "threshold": (
        threshold_kernel.threshold_kernel,
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
    """A thread's local memory, as NVIDIA's tool tells it."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return int(told.stdout.split("LOCAL:")[1].split()[0])


def main():
    for target, (description, logits) in TARGETS.items():
        for variant, (kernel, constants) in VARIANTS.items():
            asm = compile_one(kernel, constants, logits, description).asm
            made = {"target": target, "variant": variant, "binary": len(asm.get("cubin") or asm["hsaco"])}
            if "cubin" in asm:
                made["spilled"] = bytes_spilled(asm["cubin"])
                made["atomics"] = len(re.findall(r"\b(?:atom|red)\.", asm["ptx"]))
            print(json.dumps(made))


if __name__ == "__main__":
    main()
