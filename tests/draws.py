"""The random numbers of a rank's draws, by the documented key, for tests that compute what a run should have drawn."""

import hashlib

import torch


def uniforms(positions, samples, *, seed, step, micro_batch, rank):
    key = f"{seed}/{step}/{micro_batch}/{rank}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
    return torch.rand(positions, samples, generator=torch.Generator().manual_seed(number))
