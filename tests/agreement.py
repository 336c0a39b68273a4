"""Whether two runs of a host were the same training, step by step."""

import pytest


def losses(log):
    return [(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]


def same_training(ours, plain, *, norms):
    """Losses to printed precision, and gradient norms to this share; of as many steps."""
    assert losses(plain), "nothing was logged"
    for (loss, norm), (own_loss, own_norm) in zip(losses(ours), losses(plain), strict=True):
        assert loss == pytest.approx(own_loss, rel=2e-6)
        assert norm == pytest.approx(own_norm, rel=norms)
