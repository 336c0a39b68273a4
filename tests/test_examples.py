"""example_configs/: recipes that differ only in their OTR lines and their output folder."""

import re

import pytest

from benchmarks.gallery.recipes import recipes
from benchmarks.paths import EXAMPLES
from tests.command.driver import otr

HOSTS = ("axolotl", "llamafactory", "swift", "trl")
QUICKSTART = {"quickstart-sft.yaml", "quickstart-otr.yaml", "quickstart-otr-nll.yaml"}
ADDED = "# One-Token Rollout, added by `otr add`; `otr remove` takes it out again."
OTR_LINES = {
    "otr": (ADDED, "plugins: [otr]", "  - otr", "otr:", "  objective: otr", "loss_type: otr", "  OTR_OBJECTIVE: otr"),
    "otr-nll": ("  nll_weight: 0.1", "  OTR_NLL_WEIGHT: 0.1"),
}
TWINS = sorted(path for host in HOSTS for path in (EXAMPLES / host).glob("*-otr*.yaml"))


def base_of(path):
    """Returns the recipe that this one adds OTR lines to, and what each calls its method."""
    method, base = ("otr-nll", "otr") if path.stem.endswith("-otr-nll") else ("otr", "sft")
    return path.with_name(path.name.replace(f"-{method}.", f"-{base}.")), method, base


def test_every_host_has_the_three_quickstart_recipes():
    assert {path.name for path in EXAMPLES.iterdir()} == {*HOSTS, "small", "model_configs", "transformers"}
    for host in HOSTS:
        assert {path.name for path in (EXAMPLES / host).glob("quickstart-*.yaml")} == QUICKSTART


def test_the_quickstarts_differ_in_one_setting():
    for host in HOSTS:
        paths = [EXAMPLES / host / name for name in sorted(QUICKSTART)]
        with_nll, plain, sft = otr("check", *paths, "--json").json["recipes"]
        assert sft["settings"] is None
        assert plain["settings"] | {"nll_weight": 0.1} == with_nll["settings"]


def test_every_sft_recipe_has_an_otr_twin():
    for host in HOSTS:
        recipes = {path.name for path in (EXAMPLES / host).glob("*.yaml")}
        twins = [path for path in TWINS if path.parent.name == host]
        assert recipes == {path.name for path in twins} | {base_of(path)[0].name for path in twins}


@pytest.mark.parametrize("path", TWINS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_twins_differ_in_the_otr_lines_only(path):
    base, method, base_method = base_of(path)
    lines = [line for line in path.read_text().splitlines() if line]
    common = [line for line in lines if line not in OTR_LINES[method]]
    assert len(common) < len(lines)
    for i, line in enumerate(common):
        if line.startswith("output_dir: "):
            common[i] = line.removesuffix(method) + base_method
        elif line.startswith("#"):
            common[i] = line.replace(f"-{method}.yaml", f"-{base_method}.yaml")
    assert common == [line for line in base.read_text().splitlines() if line]


GALLERY = [path for host in HOSTS for path in recipes(host)]


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_the_twins_of_the_gallery_are_made_by_the_command(path):
    plain = otr("remove", path)
    assert plain.exit_code == 0
    twin = path.with_name(path.name.replace("-otr.", "-sft."))
    folder = f"output_dir: ./outputs/{path.stem}"
    assert plain.stdout.replace(folder, folder.replace("-otr", "-sft")) == twin.read_text()
    assert folder in plain.stdout
    assert otr("check", path, "--strict").exit_code == otr("check", twin, "--strict").exit_code == 0


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_name_says_model_method_and_card(path):
    assert re.fullmatch(r"[a-z]+[a-z0-9.-]*-(full|lora|qlora)(-[a-z0-9]+)*-(\d+x)?\d+gb-otr", path.stem)
    target = re.search(r"-(?:(\d)x)?(\d+)gb-otr$", path.stem)
    count = {None: "one GPU", "2": "two GPUs", "4": "four GPUs"}[target[1]]
    assert f"{count} with {target[2]} GB" in path.read_text().split("\n\n")[0]
