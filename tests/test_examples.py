"""example_configs/: twins that differ in what OTR needs, and in nothing else."""

import pytest

from benchmarks.paths import EXAMPLES

HOSTS = ("axolotl", "llamafactory", "swift", "trl")
OTR_LINES = ("plugins: [otr]", "  - otr", "otr:", "  objective: otr", "loss_type: otr", "  OTR_OBJECTIVE: otr", "")
TWINS = sorted(path for host in HOSTS for path in (EXAMPLES / host).glob("*-otr.yaml"))


def test_every_example_has_its_twin():
    assert {path.parent.name for path in TWINS} == set(HOSTS)
    assert {path.name for path in EXAMPLES.iterdir()} == {*HOSTS, "small", "transformers"}
    for host in HOSTS:
        twins = [path.name for path in TWINS if path.parent.name == host]
        expected = {*twins, *(name.replace("-otr.yaml", "-sft.yaml") for name in twins)}
        assert {path.name for path in (EXAMPLES / host).glob("*.yaml")} == expected


@pytest.mark.parametrize("path", TWINS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_twins_differ_in_the_otr_lines_only(path):
    name = path.stem.removesuffix("-otr")
    otr, sft = (p.read_text().splitlines() for p in (path, path.with_name(f"{name}-sft.yaml")))
    without = [line for line in otr if line not in OTR_LINES]
    # Of the recipe's name, and of its output.
    for end in (f"{name}-", "quickstart/", "quickstart/llamafactory/", "quickstart/swift/", "quickstart/trl/"):
        without = [line.replace(f"{end}otr", f"{end}sft") for line in without]
    assert without == [line for line in sft if line]
