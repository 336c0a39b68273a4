"""What the hosts' tests of recipes share: reading with the host's own reader, and a derandomised search."""

from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.fuzz.strategy import cases


def search(checker, examples):
    """Reads recipes with up to two mutations; fails with the smallest that is read otherwise than a person reads it."""

    @settings(
        max_examples=examples,
        phases=[Phase.generate, Phase.shrink],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(checker.host))
    def read(case):
        found = checker.problem(case)
        assert found is None, f"{found[0]}\n{case}\ngot: {found[1]}"

    read()
