"""The soak's slopes and intervals."""

import json

import numpy as np
import pytest

from benchmarks.paths import RESULTS
from benchmarks.soak.command import HOSTS, largest_difference, metrics_table, of_metrics, slope, table
from benchmarks.soak.trend import _quantile, trend


def test_the_slope_of_a_line_is_exact():
    found = trend(range(50), [3 + 0.5 * x for x in range(50)])
    assert found.slope == pytest.approx(0.5)
    assert found.half_width < 1e-12
    assert not found.contains_zero
    assert trend(range(50), [7] * 50) == (0, 0)


def test_the_quantile_is_students():
    t = pytest.importorskip("scipy.stats").t
    for freedom in (3, 10, 78):
        assert _quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.8])
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

    def run(leak, drift):
        nll = list(2 + drift * np.arange(200) + 0.01 * random.normal(size=200))
        return {
            "milliseconds": list(5 + 0.1 * random.normal(size=100)),
            "megabytes": list(600 + leak * np.arange(100) + 0.1 * random.normal(size=100)),
            "objects": [500_000.0] * 20,
            "log": {"otr/nll": nll, "loss": nll, "eval_loss": [2.0]},
        }

    result = {"host": "trl", "steps": 20_000, "runs": {"plain": run(0, 0), "otr": run(0.05, 0.001)}}
    found = slope(result, result["runs"]["otr"]["megabytes"])
    assert found.slope == pytest.approx(0.05 * 50, rel=0.2)  # 10,000 steps are 50 blocks
    assert not found.contains_zero
    drift = of_metrics(result)["otr/nll"]
    assert drift.slope == pytest.approx(0.1, rel=0.2)
    assert not drift.contains_zero
    assert largest_difference(result) > 0.05
    assert "| TRL | with OTR | +2." in "\n".join(table([result]))
    assert "0 of 1 intervals contain 0" in "\n".join(metrics_table([result]))


@pytest.mark.parametrize("host", HOSTS)
def test_the_kept_soak_is_long_and_its_losses_are_those_of_the_plain_run(host):
    result = json.loads((RESULTS / f"soak-{host}.json").read_text())
    assert result["steps"] >= 20_000
    assert largest_difference(result) < 1e-6
