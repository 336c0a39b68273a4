"""The Python code of the pages that needs a model of transformers runs as it stands."""

import re

import pytest

from benchmarks.paths import ROOT
from tests.model.families import batch, tiny

BLOCKS = {
    f"{page} {i}": code
    for page in ("README.md", "docs/from-python.md")
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE))
    if "attach(model" in code
}


def test_both_pages_show_attach():
    assert len({name.split()[0] for name in BLOCKS}) == 2


@pytest.mark.parametrize("code", BLOCKS.values(), ids=BLOCKS)
def test_it_runs(code):
    model = tiny("llama")
    names = {"model": model, "batches": [batch(seed=seed) for seed in range(2)]}
    exec(compile(code, "docs", "exec"), names)
    if "detach" in code:
        assert names["step"] == 1
    else:
        model.train()
        assert model(**batch()).loss.requires_grad
        assert names["handle"].take_metrics()["otr/nll"] > 0
