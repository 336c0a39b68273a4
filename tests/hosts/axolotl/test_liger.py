"""Liger's RMSNorm, RoPE and SwiGLU kernels beside OTR, run in Triton's interpreter."""

from benchmarks.hosts.axolotl import ENV
from benchmarks.hosts.liger_on_cpu import ENVIRONMENT, NORM_RAN
from tests.hosts.agreement import losses, same_training

LIGER = ["benchmarks.hosts.axolotl_plugins.LigerOnCPU", "axolotl.integrations.liger.LigerPlugin"]
KERNELS = {"liger_rope": True, "liger_rms_norm": True, "liger_glu_activation": True, "max_steps": 2}


def test_sft_with_ligers_kernels_trains_as_the_host_does(axolotl):
    plain, _ = axolotl.train("plain", env=ENVIRONMENT, plugins=LIGER, **KERNELS)
    ours, printed = axolotl.train("ours", env=ENVIRONMENT, plugins=[*LIGER, "otr"], otr={"objective": "sft"}, **KERNELS)
    assert "OTR is active: objective sft" in printed
    assert NORM_RAN in printed
    assert len(losses(plain)) == 2
    same_training(ours, plain, norms=2e-5)


def test_without_interpreter_and_gpu_ligers_kernels_fail(axolotl):
    """If this training succeeded, the test above would not have run Liger's kernels."""
    recipe = axolotl.recipe("no interpreter", plugins=[*LIGER, "otr"], **KERNELS)
    done = axolotl.call("train", str(recipe), check=False, env={"PYTHONPATH": ENV["PYTHONPATH"]})
    assert done.returncode != 0
    assert "liger_kernel" in done.stderr
