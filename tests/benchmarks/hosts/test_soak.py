"""A soak of a few steps in the real TRL."""

from benchmarks.soak.command import largest_difference, soak


def test_both_runs_are_measured_and_log_the_same_loss(tmp_path):
    runs = soak("trl", tmp_path, steps=40, block=2)
    for one in runs.values():
        assert len(one["milliseconds"]) == len(one["megabytes"]) == 20
        assert len(one["objects"]) == 4
        assert len(one["log"]["loss"]) == 40
        assert len(one["log"]["eval_loss"]) == 10
    assert "otr/hit_rate" in runs["otr"]["log"]
    assert "otr/hit_rate" not in runs["plain"]["log"]
    assert largest_difference({"runs": runs}) < 1e-6
