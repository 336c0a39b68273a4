"""Prepares the process of the tests, before anything imports a host."""

import os
import sys

import torch

# Axolotl reports its use from a thread. Without a network, the thread draws random waiting times until it gives up, and
# Hypothesis fails a search during which anything else draws from Python's random numbers.
os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"

# Hide Flash Linear Attention on a CPU: it replaces models of transformers by its own, which need a GPU.
if not torch.cuda.is_available():
    sys.modules["fla"] = None  # transformers then uses its own PyTorch code
