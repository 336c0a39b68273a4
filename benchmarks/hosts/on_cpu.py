"""Axolotl plugins that let a CPU do what Axolotl does on GPUs only."""

from typing import Any

from axolotl.integrations.base import BasePlugin


class Liger(BasePlugin):
    """Liger's kernels in Triton's interpreter, which has no libdevice."""

    def register(self, cfg: Any) -> None:
        import triton.language as tl
        from liger_kernel.ops import rms_norm

        rms_norm.rsqrt = lambda x: 1 / tl.sqrt(x)


class Ranks(BasePlugin):
    """Several processes: Axolotl gives each a GPU by number."""

    def register(self, cfg: Any) -> None:
        from axolotl.loaders.model import ModelLoader

        own = ModelLoader._set_device_map_config

        def on_cpu(self: Any) -> None:
            own(self)
            self.model_kwargs["device_map"] = "cpu"

        ModelLoader._set_device_map_config = on_cpu
