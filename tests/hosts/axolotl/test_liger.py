"""Liger's norm, rope and SwiGLU kernels beside OTR: run for real, in Triton's interpreter."""

from benchmarks.hosts.axolotl import ENV
from tests.hosts.agreement import losses, same_training

ENVIRONMENT = {"TRITON_INTERPRET": "1", "PYTHONPATH": ENV["PYTHONPATH"]}
LIGER = ["benchmarks.hosts.on_cpu.Liger", "axolotl.integrations.liger.LigerPlugin"]
KERNELS = {"liger_rope": True, "liger_rms_norm": True, "liger_glu_activation": True, "max_steps": 2}


def test_sft_with_ligers_kernels_is_the_hosts_own_training(axolotl):
    plain, _ = axolotl.train("plain", env=ENVIRONMENT, plugins=LIGER, **KERNELS)
    ours, printed = axolotl.train("ours", env=ENVIRONMENT, plugins=[*LIGER, "otr"], otr={"objective": "sft"}, **KERNELS)
    assert "OTR is active: objective sft" in printed
    assert len(losses(plain)) == 2
    same_training(ours, plain, norms=2e-5)


def test_the_kernels_do_run(axolotl):
    """Without an interpreter and without a GPU they cannot."""
    recipe = axolotl.recipe("no interpreter", plugins=[*LIGER, "otr"], **KERNELS)
    done = axolotl.call("train", str(recipe), check=False, env={"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]})
    assert done.returncode != 0
    assert "liger_kernel" in done.stderr
