"""Flash Linear Attention has kernels for a GPU alone, and registers models of its own in the place of transformers'."""

import sys

import torch

if not torch.cuda.is_available():
    sys.modules["fla"] = None  # not installed, as far as transformers can see: it has PyTorch's code for a CPU
