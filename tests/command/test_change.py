"""`otr add` and `otr remove`."""

import pytest
import yaml

from benchmarks.paths import EXAMPLES
from otr_plugin import OTRConfig
from otr_plugin.command.recipes import HOSTS
from otr_plugin.hosts.recipe_text import RecipeText
from tests.command.driver import otr
from tests.test_examples import TWINS, base_of

AXOLOTL = "base_model: m\nsequence_len: 64\noutput_dir: out\n"
PLAIN = {
    "axolotl": AXOLOTL,
    "llamafactory": "model_name_or_path: m\nstage: sft\noutput_dir: out\n",
    "trl": "model_name_or_path: m\ndataset_name: d\noutput_dir: out\n",
    "swift": "model: m\ntuner_type: full\noutput_dir: out\n",
}


def plain_twin(path):
    base = path
    while "-otr" in base.stem:
        base = base_of(base)[0]
    return base


@pytest.mark.parametrize("path", TWINS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_add_on_the_plain_twin_gives_a_recipe_that_reads_as_the_other(path, tmp_path):
    out = tmp_path / "otr.yaml"
    options = ["--set", "nll_weight=0.1"] if path.stem.endswith("-nll") else []
    assert otr("add", plain_twin(path), "-o", out, *options).exit_code == 0
    host = HOSTS[path.parent.name]
    want = host.read(RecipeText.read(path))
    assert want is not None
    assert host.read(RecipeText.read(out)) == want
    assert otr("remove", out, "--in-place").exit_code == 0
    assert out.read_bytes() == plain_twin(path).read_bytes()


@pytest.mark.parametrize(("host", "key"), [(host, key) for host in HOSTS for key in HOSTS[host].other_losses])
def test_another_loss_is_switched_off_and_named(tmp_path, host, key):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PLAIN[host] + f"{key}: 0.5  # why\nseed: 1\n")
    done = otr("add", recipe)
    if key in HOSTS[host].other_trainings:
        assert done.exit_code == 1
        assert f"recipe.yaml:4: `{key}: 0.5`: " in done.stderr
        assert done.stdout == ""
        return
    assert done.exit_code == 0
    assert f"switched off `{key}` (0.5) of line 4" in done.stderr
    assert f"# off for otr: {key}: 0.5  # why\nseed: 1\n" in done.stdout
    recipe.write_text(done.stdout)
    assert otr("remove", recipe).stdout == PLAIN[host] + f"{key}: 0.5  # why\nseed: 1\n"


OWN_OBJECTIVES = [
    ("axolotl", "use_eaft: true\n", {"objective": "eaft", "alpha": 1.0}),
    ("axolotl", "use_eaft: true\neaft_alpha: 0.5\n", {"objective": "eaft", "alpha": 0.5}),
    ("llamafactory", "use_dft_loss: true\n", {"objective": "dft"}),
    ("llamafactory", "eaft_alpha: 2\nuse_eaft_loss: true\n", {"objective": "eaft", "alpha": 2}),
    ("trl", "loss_type: dft\n", {"objective": "dft"}),
    ("swift", "enable_dft_loss: true\n", {"objective": "dft"}),
]


@pytest.mark.parametrize(("host", "lines", "settings"), OWN_OBJECTIVES)
def test_an_objective_of_the_hosts_own_is_kept(tmp_path, host, lines, settings):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PLAIN[host] + lines)
    done = otr("add", recipe)
    assert done.exit_code == 0
    assert HOSTS[host].read(RecipeText(done.stdout, "recipe.yaml")) == OTRConfig(**settings)
    for key, value in settings.items():
        assert f": it is `{key}: {value}` of this package now" in done.stderr or value == 1.0
    assert "--set objective=otr trains One-Token Rollout in its place" in done.stderr
    for line in lines.splitlines():
        assert f"# off for otr: {line}" in done.stdout
    kept = recipe.read_text()
    recipe.write_text(done.stdout)
    assert otr("remove", recipe).stdout == kept
    recipe.write_text(kept)
    for assignment in ("objective=otr", "samples=16"):
        done = otr("add", recipe, "--set", assignment)
        assert HOSTS[host].read(RecipeText(done.stdout, "recipe.yaml")).objective == "otr"
        assert "of this package now" not in done.stderr


@pytest.mark.parametrize(("host", "lines", "settings"), OWN_OBJECTIVES)
def test_the_refusal_of_an_objective_of_the_hosts_own_names_ours(tmp_path, host, lines, settings):
    recipe = tmp_path / "recipe.yaml"
    switched_on = "loss_type: otr\n" if host == "swift" else "plugins: [otr]\n"
    recipe.write_text(PLAIN[host] + switched_on + lines)
    want = ", ".join(f"{key}: {value}" for key, value in settings.items())
    assert ("`OTR_OBJECTIVE: dft`" if host == "swift" else f"`otr: {{{want}}}`") in otr("check", recipe).stdout


CCE = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
LIGER = "axolotl.integrations.liger.LigerPlugin"


@pytest.mark.parametrize(
    ("plugins", "names"),
    [
        ("", ["otr"]),
        ("plugins:\n", ["otr"]),
        ("plugins: []\n", ["otr"]),
        (f"plugins: {LIGER}\n", [LIGER, "otr"]),
        (f"plugins: [{LIGER}]  # kernels\n", [LIGER, "otr"]),
        (f"plugins: [\n  {LIGER},  # kernels\n]\n", [LIGER, "otr"]),
        (f"plugins:\n  - {LIGER}  # kernels\n", [LIGER, "otr"]),
        (f"plugins:\n- '{LIGER}'\n", [LIGER, "otr"]),
        (f"plugins:\n  # a\n  - {CCE}  # b\n  # c\n  - {LIGER}\n", [LIGER, "otr"]),
        (f"plugins:\n  - {CCE}\n", ["otr"]),
        (f"plugins: [{LIGER}, {CCE}]\n", [LIGER, "otr"]),
        (f"plugins: {CCE}\n", ["otr"]),
        (f"plugins: [{CCE}]\ncut_cross_entropy: true\n", ["otr"]),
        (f"plugins: [{CCE}]\ncut_cross_entropy: false\n", [CCE, "otr"]),
        (f"plugins:\n  - {LIGER}\nchunked_cross_entropy: true\n", [LIGER, "otr"]),
        (f"x: &p [{LIGER}]\nplugins: *p\n", [LIGER, "otr"]),
    ],
)
def test_a_list_of_plugins_is_extended_and_restored(tmp_path, plugins, names):
    recipe = tmp_path / "recipe.yaml"
    for source in (AXOLOTL + plugins, plugins + AXOLOTL, (AXOLOTL + plugins).rstrip("\n")):
        recipe.write_text(source)
        done = otr("add", recipe)
        assert done.exit_code == 0, done.stderr
        assert yaml.safe_load(done.stdout)["plugins"] == names
        assert (CCE in done.stderr) == (CCE in plugins and CCE not in names)
        recipe.write_text(done.stdout)
        assert otr("remove", recipe).stdout == source
        assert otr("add", recipe).stdout == done.stdout


@pytest.mark.parametrize(
    "rest",
    [
        "ENV:\n",
        "ENV: {}\n",
        "ENV: {USE_HF: 1}\n",
        "ENV:\n    USE_HF: 1  # hub\nseed: 1\n",
        "loss_type: cross_entropy\n",
        "loss_type:\nENV: {\n  USE_HF: 1\n}\n",
    ],
)
def test_swifts_variables_are_extended_and_restored(tmp_path, rest):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PLAIN["swift"] + rest)
    done = otr("add", recipe, "--set", "samples=16")
    document = yaml.safe_load(done.stdout)
    assert document["loss_type"] == "otr"
    assert document["ENV"] == (yaml.safe_load(rest).get("ENV") or {}) | {"OTR_OBJECTIVE": "otr", "OTR_SAMPLES": 16}
    recipe.write_text(done.stdout)
    assert otr("remove", recipe).stdout == PLAIN["swift"] + rest


def test_json_is_extended_and_restored(tmp_path):
    recipe = tmp_path / "recipe.json"
    source = '{\n\t"model": "m",\n\t"tuner_type": "full",\n\t"ENV": {"USE_HF": 1}\n}\n'
    recipe.write_text(source)
    assert otr("add", recipe, "-i").exit_code == 0
    assert '\t"loss_type": "otr", "model": "m"' in recipe.read_text()
    assert '"ENV": {"USE_HF": 1, "OTR_OBJECTIVE": "otr"}' in recipe.read_text()
    assert otr("remove", recipe, "-i").exit_code == 0
    assert recipe.read_text() == source
    recipe.write_text(source.replace('"full"', '"full", "enable_dft_loss": true'))
    done = otr("add", recipe)
    assert done.exit_code == 1
    assert "no line can be switched off: remove enable_dft_loss" in done.stderr


def test_settings_are_changed_where_they_stand(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(AXOLOTL + "plugins: [otr]\notr:\n    samples: 16  # few\n    beta: 0\nseed: 1\n")
    assert otr("add", recipe, "--set", "samples=32", "--set", "top-k=5", "-i").exit_code == 0
    want = "plugins: [otr]\notr:\n    samples: 32  # few\n    beta: 0\n    top_k: 5\nseed: 1\n"
    assert recipe.read_text() == AXOLOTL + want
    assert otr("remove", recipe).stdout == AXOLOTL + "seed: 1\n"


def test_the_twin_differs_in_otr_and_the_output_folder(tmp_path):
    recipe, result, twin = (tmp_path / f"{name}.yaml" for name in ("recipe", "my-otr", "my-sft"))
    recipe.write_text(AXOLOTL + "label_smoothing_factor: 0.1\n")
    done = otr("add", recipe, "--twin", "-o", result, "--json")
    assert done.json["written"] == [str(twin), str(result)]
    off = "# off for otr: label_smoothing_factor: 0.1\n"
    assert twin.read_text() == AXOLOTL.replace("output_dir: out", "output_dir: out-sft") + off
    assert result.read_text().startswith(AXOLOTL + off)
    assert otr("add", recipe, "--twin", "-o", result).exit_code == 0  # the same twin may be there
    twin.write_text("mine\n")
    done = otr("add", recipe, "--twin", "-o", result)
    assert (done.exit_code, "would replace it" in done.stderr) == (2, True)
    assert otr("add", recipe, "--twin").exit_code == 2
    recipe.write_text("base_model: m\n")
    done = otr("add", recipe, "--twin", "-o", result)
    assert (done.exit_code, "add an `output_dir`" in done.stderr) == (1, True)


def test_the_result_goes_where_it_is_wanted(tmp_path):
    recipe, other = tmp_path / "recipe.yaml", tmp_path / "other.yaml"
    recipe.write_bytes(AXOLOTL.replace("\n", "\r\n").encode())
    printed = otr("add", recipe).stdout
    assert printed.count("\r\n") == printed.count("\n") == 7
    assert otr("add", recipe, "-o", other).stdout == ""
    assert other.read_bytes() == printed.encode()
    assert recipe.read_bytes() == AXOLOTL.replace("\n", "\r\n").encode()
    diff = otr("add", recipe, "--diff").stdout
    assert "+plugins: [otr]" in diff
    assert otr("add", recipe, "--json").json["text"] == printed
    assert otr("add", recipe, "--diff", "-i").exit_code == 2
    assert otr("add", recipe, "-i").exit_code == 0
    assert recipe.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--set", "sampels=3"], 2, "did you mean 'samples'?"),
        (["--set", "samples"], 2, "write KEY=VALUE"),
        (["--set", "samples=[3"], 2, "the value is not YAML"),
        (["--host", "keras"], 2, "'keras' is not one of"),
    ],
)
def test_wrong_options(tmp_path, options, code, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(AXOLOTL)
    done = otr("add", recipe, *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("seed: 1\n", 3, "has no key that tells which host it is for: name the host with --host axolotl|"),
        ("base_model: m\nmodel: m\n", 3, "has as many keys of Axolotl (base_model) and ms-swift (model)"),
        (AXOLOTL + "otr: {samples: 3}\n", 1, "mentions OTR in a way that its host refuses"),
        (AXOLOTL + "# off for otr: rl: dpo\n", 1, "run `otr remove` first"),
        (AXOLOTL + "<<: {chunked_cross_entropy: true}\n", 1, "`chunked_cross_entropy` is merged by `<<`"),
        (AXOLOTL + "chunked_cross_entropy: &x true\ny: *x\n", 1, "cannot be edited"),
        (PLAIN["llamafactory"].replace("sft", "dpo"), 1, "`stage: dpo`: set it to sft or pt"),
        (
            AXOLOTL + f"plugins: [{LIGER.replace('liger', 'x').replace('LigerPlugin', 'DiffusionPlugin')}]\n",
            1,
            "Diffusion",
        ),
    ],
)
def test_a_recipe_that_cannot_be_converted(tmp_path, source, code, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(source)
    done = otr("add", recipe, "-i")
    assert (done.exit_code, recipe.read_text()) == (code, source)
    assert words in done.stderr
    assert words in otr("add", recipe, "--json").json["error"]


def test_the_examples_are_left_alone():
    for path in TWINS:
        assert otr("add", path).stdout == path.read_text()
        assert otr("remove", plain_twin(path)).stdout == plain_twin(path).read_text()
    assert EXAMPLES.is_dir()
