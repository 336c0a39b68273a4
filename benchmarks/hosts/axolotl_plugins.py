"""Axolotl plugins that make features run on a CPU which Axolotl supports on GPUs only."""

from typing import Any

from axolotl.integrations.base import BasePlugin

from benchmarks.hosts.liger_on_cpu import patch_liger


class LigerOnCPU(BasePlugin):
    """Makes Liger's kernels run in Triton's interpreter."""

    def register(self, cfg: Any) -> None:
        patch_liger()


class RanksOnCPU(BasePlugin):
    """Loads every rank's model on the CPU; Axolotl would assign a GPU to each rank."""

    def register(self, cfg: Any) -> None:
        from axolotl.loaders.model import ModelLoader

        original = ModelLoader._set_device_map_config

        def set_device_map(self: Any) -> None:
            original(self)
            self.model_kwargs["device_map"] = "cpu"

        ModelLoader._set_device_map_config = set_device_map
