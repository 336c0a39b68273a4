"""The soak's slopes and intervals."""

import numpy as np
import pytest

from benchmarks.soak.command import summary
from benchmarks.soak.trend import trend


def test_the_slope_of_a_line_is_exact():
    found = trend(range(50), [3 + 0.5 * x for x in range(50)])
    assert found.slope == pytest.approx(0.5)
    assert found.half_width < 1e-12
    assert not found.contains_zero


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_interval_covers_the_true_slope_also_of_correlated_blocks(correlation):
    random, n, covered = np.random.default_rng(0), 80, 0
    for _ in range(500):
        noise = random.normal(size=n + 20)
        for i in range(1, len(noise)):
            noise[i] += correlation * noise[i - 1]
        found = trend(range(n), 0.01 * np.arange(n) + noise[20:])
        covered += abs(found.slope - 0.01) <= found.half_width
    assert 0.90 <= covered / 500 <= 0.98


def test_a_leak_and_a_drift_are_seen():
    random = np.random.default_rng(1)

    def one(leak, drift):
        log = {
            name: list(2 + drift * np.arange(200) + 0.01 * random.normal(size=200))
            for name in ("otr/nll", "otr/reward")
        }
        return {
            "milliseconds": list(5 + 0.1 * random.normal(size=100)),
            "megabytes": list(600 + leak * np.arange(100) + 0.1 * random.normal(size=100)),
            "objects": [500_000] * 20,
            "log": log | {"loss": log["otr/nll"], "eval_loss": [2.0]},
        }

    plain, leaking = one(0, 0), one(0.05, 0.001)
    found = summary({"plain": plain, "otr": leaking}, 200)
    slope, half = found["per_10000_steps"]["megabytes"]["otr - plain"]
    assert slope == pytest.approx(0.05 * 50, rel=0.2)  # 10,000 steps are 50 blocks
    assert slope > half
    for slope, half in found["per_10000_steps"]["metrics"].values():
        assert slope == pytest.approx(0.1, rel=0.2)
        assert slope > half
    assert found["largest_difference_from_plain"] > 0.05
