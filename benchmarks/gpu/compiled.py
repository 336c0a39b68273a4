"""Compiles the Triton kernels for GPUs, none of which has to be present, and reads what the binaries take.

    python -m benchmarks.gpu.compiled [TARGET ...] [--logits fp32] [--only VARIANT ...]

prints one line of JSON for each target and variant. It is a program of its own because Triton compiles nothing in a
process in which its interpreter is on.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from otr_plugin.loss.entropy import MOST_PROBABLE
from otr_plugin.loss.triton import launch
from otr_plugin.loss.triton.loss_kernel import DFT, EAFT, EXACT, POWER, SAMPLED, SFT, loss_kernel
from otr_plugin.loss.triton.threshold_kernel import threshold_kernel
from otr_plugin.loss.tuned import Settings, settings_of

VOCABULARY = 151_936
SAMPLES = 256
TYPES = {
    "stride": "i32", "labels": "*i64", "uniforms": "*fp32", "thresholds": "*fp32", "row_metrics": "*fp32",
    "ends": "*fp64", "tops": "*fp32", "tokens": "*i32", "distances": "*fp32", "count": "i32", "vocabulary": "i32",
    "samples": "i32", "inverse_temperature": "fp32", "beta": "fp32", "nll_weight": "fp32", "missing_draws": "fp32",
    "top_k": "fp32", "top_p": "fp32", "token_weights": "*fp32", "alpha": "fp32", "log_largest_entropy": "fp32",
    "min_label_prob": "fp32", "max_label_prob": "fp32",
}  # fmt: skip
# Triton specialises kernels for pointers and numbers that are divisible by 16.
DIVISIBLE = ("stride", "vocabulary", "samples")
TILES = triton.next_power_of_2(triton.cdiv(VOCABULARY, launch.TILE))
LOSS: dict[str, Any] = {
    "CUT": False,
    "MEAN_BASELINE": False,
    "WITH_GRAD": True,
    "HAS_THRESHOLDS": False,
    "HAS_WEIGHTS": False,
    "MOST_PROBABLE": MOST_PROBABLE,
    "TILES": TILES,
    "TILE_STEPS": TILES.bit_length() - 1,
    "SAMPLE_STEPS": SAMPLES.bit_length(),
    "TILE": launch.TILE,
    "SCALE": None,
    "CAP": None,
    **launch.METRIC_COLUMNS,
}
SCALED = {"SCALE": 0.5, "CAP": 30.0}
WEIGHTED = {"HAS_THRESHOLDS": True, "HAS_WEIGHTS": True}
ROLLOUT = {"CUT": True, "MEAN_BASELINE": True}
OBJECTIVES: dict[str, Any] = {
    "sampled": SAMPLED.value,
    "exact": EXACT.value,
    "sft": SFT.value,
    "dft": DFT.value,
    "power": POWER.value,
    "eaft": EAFT.value,
}
DRAWING = ("sampled", "exact")
THRESHOLD: dict[str, Any] = {"BY_COUNT": False, "BY_MASS": False, "SCALE": None, "CAP": None}


class Variant(NamedTuple):
    kernel: Any
    constants: dict[str, Any]
    divisible: tuple[str, ...] = DIVISIBLE


def _variants() -> Iterator[tuple[str, Variant]]:
    for name, value in OBJECTIVES.items():
        own = LOSS | {"OBJECTIVE": value}
        yield name, Variant(loss_kernel, own)
        yield f"{name}, token weights and thresholds", Variant(loss_kernel, own | WEIGHTED)
        if name in DRAWING:
            yield f"{name}, top_k or top_p", Variant(loss_kernel, own | {"CUT": True})
        yield (
            f"{name}, all options",
            Variant(loss_kernel, own | WEIGHTED | SCALED | (ROLLOUT if name in DRAWING else {})),
        )
    yield "sampled, odd vocabulary", Variant(loss_kernel, LOSS | {"OBJECTIVE": SAMPLED.value}, ("stride", "samples"))
    yield "sampled, no gradient", Variant(loss_kernel, LOSS | {"OBJECTIVE": SAMPLED.value, "WITH_GRAD": False})
    yield "top_k", Variant(threshold_kernel, THRESHOLD | {"BY_COUNT": True})
    yield "top_p", Variant(threshold_kernel, THRESHOLD | {"BY_MASS": True})
    yield (
        "top_k and top_p, all options",
        Variant(threshold_kernel, THRESHOLD | SCALED | {"BY_COUNT": True, "BY_MASS": True}),
    )


VARIANTS = dict(_variants())


class Processor(NamedTuple):
    """What the programs on one processor share, from the makers' tables; registers are those of a lane."""

    target: tuple[str, Any, int]
    registers: int  # 32-bit, of all threads (AMD: of a lane of one of the four SIMDs)
    warps: int
    shared: int  # bytes
    reserved: int = 0  # bytes of shared memory that every program takes beside its own


KEPT = ("sm_80", "sm_89", "sm_90", "gfx942")  # in the result file
PROCESSORS = {
    "sm_80": Processor(("cuda", 80, 32), 65536, 64, 164 * 1024, 1024),
    "sm_86": Processor(("cuda", 86, 32), 65536, 48, 100 * 1024, 1024),
    "sm_89": Processor(("cuda", 89, 32), 65536, 48, 100 * 1024, 1024),
    "sm_90": Processor(("cuda", 90, 32), 65536, 64, 228 * 1024, 1024),
    "sm_100": Processor(("cuda", 100, 32), 65536, 64, 228 * 1024, 1024),
    "sm_120": Processor(("cuda", 120, 32), 65536, 48, 100 * 1024, 1024),
    "gfx942": Processor(("hip", "gfx942", 64), 512, 32, 64 * 1024),
}


def compiled(variant: Variant, target: tuple[str, Any, int], settings: Settings, logits: str = "bf16") -> Any:
    """Triton's result of compiling the variant as launch.py would launch it."""
    constants = variant.constants | {"BLOCK": settings.block}
    if variant.kernel is loss_kernel:
        constants |= {"DRAWS": settings.draws}
    types = TYPES | {"logits": f"*{logits}"} | dict.fromkeys(constants, "constexpr")
    names = variant.kernel.arg_names
    signature = {name: types[name] for name in names}
    divisible = [name for name in names if signature[name].startswith("*") or name in variant.divisible]
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs=constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    options = {"num_warps": settings.warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget(*target), options=options)


def figures(result: Any) -> dict[str, int]:
    """Registers of a thread, bytes that it spills, bytes of shared memory, and the number of instructions."""
    found = _of_nvidia(result) if "cubin" in result.asm else _of_amd(result.asm["amdgcn"])
    return found | {"shared": result.metadata.shared, "binary": len(result.asm.get("cubin") or result.asm["hsaco"])}


def _of_nvidia(result: Any) -> dict[str, int]:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(result.asm["cubin"])
        usage = _printed(tools / "cuobjdump", "--dump-resource-usage", file.name)
        code = _printed(tools / "nvdisasm", "-c", file.name)
    # The compiler keeps what does not fit into registers in the thread's stack; only older tools call it LOCAL.
    taken = {name: int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}  # type: ignore[index]
    return {
        "registers": taken["REG"],
        "spilled": taken["STACK"] + taken["LOCAL"],
        "instructions": len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        "atomics": len(re.findall(r"\b(?:atom|red)\.", result.asm["ptx"])),
    }


def _of_amd(code: str) -> dict[str, int]:
    names = ("vgpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
    taken = {name: int(re.search(rf"\.{name}:\s+(\d+)", code)[1]) for name in names}  # type: ignore[index]
    return {
        "registers": taken["vgpr_count"],
        "scalar registers": taken["sgpr_count"],
        # Scalars that do not fit are kept in vector registers, and take no memory.
        "scalars in vectors": taken["sgpr_spill_count"],
        "spilled": taken["private_segment_fixed_size"] + 4 * taken["vgpr_spill_count"],
        "instructions": len(re.findall(r"^\t[a-z]\w+", code, re.MULTILINE)),
        "atomics": len(re.findall(r"^\t(?:global|flat|buffer)_atomic", code, re.MULTILINE)),
    }


def _printed(*command: Any) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def programs_at_once(taken: dict[str, int], processor: Processor, warps: int) -> int:
    """How many programs a processor runs at one time, by the registers, warps and shared memory that they take."""
    by_warps = processor.warps // warps
    if processor.target[0] == "hip":  # four SIMDs, each with its own registers, handed out in groups of 8
        waves = min(processor.warps // 4, processor.registers // _up(max(taken["registers"], 1), 8))
        by_registers = 4 * waves // warps
    else:  # handed out to a warp in groups of 256
        by_registers = processor.registers // (warps * _up(32 * taken["registers"], 256))
    by_shared = processor.shared // max(taken["shared"] + processor.reserved, 1)
    return min(by_warps, by_registers, by_shared)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.compiled")
    parser.add_argument("targets", nargs="*", default=KEPT, metavar="TARGET", help=f"of {', '.join(PROCESSORS)}")
    parser.add_argument("--logits", choices=("bf16", "fp16", "fp32"), default="bf16", help="their type")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, metavar="VARIANT")
    args = parser.parse_args()
    for name in args.targets:
        processor, settings = PROCESSORS[name], settings_of(name)
        for variant in args.only:
            taken = figures(compiled(VARIANTS[variant], processor.target, settings, args.logits))
            programs = programs_at_once(taken, processor, settings.warps)
            share = programs * settings.warps / processor.warps
            line = {"target": name, "variant": variant, **taken, "programs": programs, "occupancy": share}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
