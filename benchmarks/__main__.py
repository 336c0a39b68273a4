"""Measures what OTR costs and what it does, beside the alternatives: python -m benchmarks --help."""

from __future__ import annotations

import argparse

from benchmarks import figures
from benchmarks.engines import command as engines
from benchmarks.faults import command as faults
from benchmarks.hosts.features import command as features
from benchmarks.learning import command as learning
from benchmarks.performance import axolotl_step, fit, gpu, gradient_size, loss, objectives, objectives_picture, slices
