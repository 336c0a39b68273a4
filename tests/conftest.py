"""Hides Flash Linear Attention on a CPU: it replaces models of transformers by its own, which need a GPU."""

import sys

import torch

if not torch.cuda.is_available():
    sys.modules["fla"] = None  # transformers then uses its own PyTorch code
