"""What a recipe says about OTR is the run's config, or one error with its line. Without a host, from text alone."""

import time

import pytest
import yaml

from otr_plugin import OTRConfig
from otr_plugin.hosts.mentions import is_close_to, mentions_otr, reads_as_setting
from otr_plugin.hosts.mistakes import Host, problems_in_arguments, problems_in_text
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.recipes import RecipeError, read_recipe

HOST = Host("Host", {"use_dft": "set it to false"}, own_keys=("temperature",))
SWEEPING_HOST = Host("Host", {}, has_plugins=True, dotted_keys=True)


def read(recipe, host=HOST, **more):
    return read_recipe(host, yaml.safe_load(recipe), RecipeText(recipe, "recipe.yml"), **more)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("plugins: [otr]", {}),
        ("plugins: otr", {}),
        ("plugins: [otr_plugin.OTRPlugin]\notr:", {}),
        ("plugins: [otr]\notr: {}", {}),
        ("plugins:\n- otr\notr:\n  samples: 16\n  top_k: null", {"samples": 16}),
        ('{"plugins": ["otr"], "otr": {"samples": 1e3}}', {"samples": 1000}),
        ("# otr: {samples: 1}\nplugins: [otr] # otr_samples\n", {}),
        ("defaults: &d\n  samples: 16\nplugins: [otr]\notr:\n  <<: *d\n  beta: -0.5", {"samples": 16, "beta": -0.5}),
        ("otr_defaults: &d {samples: 16}\nplugins: [otr]\notr: *d", {"samples": 16}),
        ("base: &b {plugins: [otr], otr: {samples: 16}}\n<<: *b", {"samples": 16}),
        ("<<: {otr: {samples: 16}}\nplugins: [otr]\notr: {samples: 16}", {"samples": 16}),
        ("plugins: [otr]\ntemperature: 0.7\notr: {samples: 16}", {"samples": 16}),
        ("plugins: [otr]\noutput_dir: ./otr\nrun_name: otr\nuse_dft: false", {}),
    ],
)
def test_a_right_recipe_is_read_as_a_person_reads_it(recipe, settings):
    assert read(recipe) == OTRConfig(**settings)


@pytest.mark.parametrize(
    "recipe",
    [
        "output_dir: ./outputs/otr\nrun_name: otr\nhub_model_id: me/otr",
        "samples: 16\nbeta: 0.1\ntemperature: 2",
        "datasets: [{path: otr.jsonl, field: notre_dame}]",
        "plugins: [a.b.Plugin]",
        "ort: {samples: 16}",
        "env: {OTR_HOME: x}",
        "\u6570\u636e\u96c6: x\n\u0442\u0440\u0438: 3",  # Chinese, and three Cyrillic letters
        "{}",
    ],
)
def test_a_recipe_without_otr_is_none_of_its_business(recipe):
    assert read(recipe, SWEEPING_HOST) is None


PLUGIN = "plugins: [otr]\n"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        # twice
        (PLUGIN + "otr: {samples: 1}\notr: {beta: 0}", "recipe.yml:3: `otr` is also on line 2, and YAML keeps one"),
        (PLUGIN + "plugins: [a]", "recipe.yml:2: `plugins` is also on line 1"),
        ("plugins: [a]\n" + PLUGIN, "recipe.yml:2: `plugins` is also on line 1"),
        (PLUGIN + "otr:\n  samples: 1\n  samples: 2", "recipe.yml:4: `samples` is also on line 3"),
        (PLUGIN + "otr:\n  <<: {samples: 1}\n  samples: 2", "recipe.yml:4: `samples` replaces the other value"),
        ("<<: {otr: {beta: 0}}\n" + PLUGIN + "otr: {}", "recipe.yml:3: `otr` replaces the other value that"),
        ("plugins: [otr, otr_plugin.OTRPlugin]", "names otr twice: name it once"),
        # not indented
        (PLUGIN + "otr:\nsamples: 16", "recipe.yml:3: `samples:` is not below `otr:`: indent it by two spaces"),
        (PLUGIN + "otr:\ntemperature: 2", "recipe.yml:3: `temperature:` is not below `otr:`"),
        (PLUGIN + "otr:\n\u00a0\u00a0samples: 16", "recipe.yml:3: `samples:` is not below `otr:`"),
        (PLUGIN + "otr:\n\u2003sampels: 16", "recipe.yml:3: `sampels:` is not below `otr:`"),
        (PLUGIN + "otr: {samples: 16}\nbeta: -0.5", "recipe.yml:3: `beta:` is not below `otr:`"),
        # spelled otherwise
        (PLUGIN + "Otr: {samples: 16}", "recipe.yml:2: `Otr:`: the plugin is named by `plugins: [otr]`"),
        ("otr_samples: 16", "recipe.yml:1: `otr_samples:`: write `samples:` below `otr:`"),
        ("otr-sampels: 16", "recipe.yml:1: `otr-sampels:`: write `samples:` below `otr:`"),
        ("otrSamples: 16", "recipe.yml:1: `otrSamples:`: "),
        ("use_otr: true", "recipe.yml:1: `use_otr:`: the plugin is named by"),
        ("\u043etr: {}", "recipe.yml:1: `\u043etr:`: the plugin is named by"),  # a Cyrillic o
        ("\u043e\u0442\u0433: {}", "recipe.yml:1: "),  # three Cyrillic letters that look like otr
        ("\uff4f\uff54\uff52: {}", "recipe.yml:1: "),  # full width
        ("o\u200btr: {}", "recipe.yml:1: "),  # a space of no width
        (PLUGIN + "lora:\n  otr: {samples: 16}", "recipe.yml:3: `otr:` below `lora:`: "),
        ("lora:\n  plugins: [otr]", "recipe.yml:2: `plugins:` below `lora:`: "),
        ("env: {OTR_SAMPLES: 16}", "recipe.yml:1: `OTR_SAMPLES:` below `env:`: write `samples:` below `otr:`"),
        ("otr.samples: 16", "recipe.yml:1: `otr.samples:`: write `samples:` below `otr:`"),
        (PLUGIN + "ort: {samples: 16}", "recipe.yml:2: `ort:` holds settings of OTR: write `otr:`"),
        (PLUGIN + "otrr: {beta: 0, samples: 16}", "recipe.yml:2: `otrr:` holds settings of OTR: write `otr:`"),
        # plugins
        ("plugin: [otr]", "recipe.yml:1: `plugin:` should be `plugins:`"),
        ("Plugins:\n- otr", "recipe.yml:1: `Plugins:` should be `plugins:`"),
        ("plugins: [OTR]", "recipe.yml:1: `OTR` under `plugins:` is not this plugin: write `otr`"),
        ("plugins:\n- a\n- otr_plugin.OTR", "recipe.yml:3: `otr_plugin.OTR` under `plugins:` is not this plugin"),
        ("plugins: [{otr: {samples: 1}}]", "should be a list of names, such as `[otr]`, but it has {'otr"),
        ("plugins:\n- otr:\n    samples: 1", "recipe.yml:2: `plugins:` should be a list of names"),
        ("plugins: [[otr]]", "should be a list of names, such as `[otr]`, but it has ['otr']"),
        ("plugins: {otr: {}}", "should be a list of names, such as `[otr]`, but it has {'otr': {}}"),
        ("plugins: [null]", "should be a list of names, such as `[otr]`, but it has None"),
        ("plugins: 5", "should be a list of names, such as `[otr]`, but it has 5"),
        (PLUGIN.replace("otr", "otr, another"), "the recipe has ['another'] under `plugins:`, but the only"),
        ("loss_type: otr", "recipe.yml:1: `loss_type: otr` does not switch OTR on here"),
        # settings
        ("otr: {samples: 16}", "recipe.yml:1: `otr:` is a setting of OTR, but `plugins:` ([]) does not name otr"),
        ("otr:", "recipe.yml:1: `otr:` is a setting of OTR, but `plugins:` ([]) does not name otr"),
        (PLUGIN + "otr: {otr: {nll_weight: 1e-05}}", "recipe.yml:2: unknown key 'otr'"),
        (PLUGIN + "otr: [samples]", "recipe.yml:2: `otr:` should hold settings"),
        (PLUGIN + "otr: true", "recipe.yml:2: `otr:` should hold settings"),
        (PLUGIN + "otr:\n  samples: 0", "recipe.yml:3: samples should be greater than or equal to 1, got 0"),
        (PLUGIN + "otr:\n  1: 2", "recipe.yml:3: unknown key '1'"),
        (PLUGIN + "otr:\n  estimator: exact\n  samples: 16", "recipe.yml:4: samples: 16 has no effect with"),
        (PLUGIN + "use_dft: 'false'", "recipe.yml:2: `use_dft: 'false'`: set it to false"),
        ("- " + PLUGIN, "recipe.yml:1: the recipe should consist of keys and values"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_one_error_with_its_line(recipe, message):
    parsed = yaml.safe_load(recipe)
    with pytest.raises(RecipeError) as error:
        read_recipe(HOST, parsed if isinstance(parsed, dict) else {}, RecipeText(recipe, "recipe.yml"))
    assert message in str(error.value)
    assert len(error.value.problems) == 1, error.value


def test_all_problems_are_in_one_message_in_the_order_of_the_file():
    with pytest.raises(RecipeError) as error:
        read("Otr: {}\nplugins: [OTR]\notr_samples: 16")
    first, *lines = str(error.value).splitlines()
    assert first == "otr: 3 problems"
    assert [line.split(": ")[0] for line in lines] == ["  recipe.yml:1", "  recipe.yml:2", "  recipe.yml:3"]


def test_the_command_line_replaces_single_settings():
    text = RecipeText(PLUGIN + "otr: {samples: 16, beta: -0.5}", "recipe.yml")
    recipe = {"plugins": ["otr"], "otr": {"samples": 32, "beta": -0.5}}
    assert read_recipe(HOST, recipe, text, overrides={"top_k": 4}) == OTRConfig(samples=32, beta=-0.5, top_k=4)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ({"plugins": ["otr"], "otr": {"samples": 32}}, {}, "recipe.yml:2: `beta` was dropped when the command line"),
        ({"plugins": ["a"]}, {}, "recipe.yml:1: `plugins:` names otr, but the command line replaced the list by ['a']"),
        ({"plugins": ["OTR"]}, {}, "the command line: `OTR` under `plugins:` is not this plugin"),
        ({"otr_samples": 3}, {}, "the command line: `otr_samples`: write `samples:` below `otr:`"),
        ({"plugins": ["otr"]}, {"samples": 0}, "the command line: samples should be greater than or equal to 1, got 0"),
        ({"plugins": ["otr"]}, {"sampels": 3}, "the command line: unknown key 'sampels': did you mean 'samples'?"),
    ],
)
def test_the_command_line_is_held_to_the_same_rule(recipe, overrides, message):
    file = "plugins: [otr]\notr: {samples: 16, beta: -0.5}\n"
    with pytest.raises(RecipeError) as error:
        read_recipe(HOST, {**yaml.safe_load(file), **recipe}, RecipeText(file, "recipe.yml"), overrides=overrides)
    assert message in str(error.value)


def test_settings_on_the_command_line_alone_need_the_plugin_too():
    message = r"the command line: `--otr.beta` is a setting of OTR, but `plugins:` \(\[\]\) does not name otr"
    with pytest.raises(RecipeError, match=message):
        read("seed: 3", overrides={"beta": 0})


def test_a_sweep_writes_settings_with_dots():
    assert read("plugins: [otr]\notr: {beta: 0}\notr.samples: 16", SWEEPING_HOST) == OTRConfig(beta=0, samples=16)
    with pytest.raises(RecipeError, match=r"recipe\.yml:2: unknown key 'sampels'"):
        read("plugins: [otr]\notr.sampels: 16", SWEEPING_HOST)


@pytest.mark.parametrize("name", ["OTR_SAMPLES", "otr_samples", "OTRSAMPLES", "OTR-SAMPELS", "OTR"])
def test_a_variable_that_only_ms_swift_reads_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "16")
    for recipe in ("seed: 3", PLUGIN):
        with pytest.raises(RecipeError, match=f"the environment: {name}=16: Host does not read it"):
            read(recipe)


@pytest.mark.parametrize(
    "name", ["OTR_PLUGIN_TRACE", "OTR_PLUGIN_AUTOLOAD", "OTR_HOME", "OTRS_VERSION", "NOTR_SAMPLES"]
)
def test_another_variable_is_not(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert read("seed: 3") is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--otr.samples", "16", "--otr.top-k=4", "--otr__top_p=1", "--otr--top-k=4"], None),
        (["--wandb-name", "otr", "--plugins", "a.B"], None),
        (["--otr.sampels", "16"], "`--otr.sampels`: write `--otr.samples VALUE`"),
        (["--otr-samples=16"], "`--otr-samples`: write `--otr.samples VALUE`"),
        (["--otr", "{samples: 16}"], "`--otr`: write `--otr.samples VALUE`"),
        (["--plugin", "otr"], "`--plugin`: the plugin is named by"),
        (["otr.samples=16"], "`otr.samples`: write `--otr.samples VALUE`"),  # as LLaMA-Factory's users write
        (["run_name=otr"], None),
    ],
)
def test_options_that_mention_otr_are_checked(arguments, problem):
    found = problems_in_arguments(arguments)
    assert (not found) if problem is None else (len(found) == 1 and problem in found[0])


def test_names_are_compared_by_words():
    for name in ("otr", "OTR", "use_otr", "otr2", "0tr", "OTRPlugin", "my.otr.Plugin", "trainOTR", "\u00f3tr"):
        assert mentions_otr(name), name
    for name in ("notre_dame", "control", "otrageous", "protractor", "xotr", "", 5, None):
        assert not mentions_otr(name), name
    assert not reads_as_setting("OTR_HOME")
    assert is_close_to("plug-ins", "plugins")
    assert not is_close_to("external_plugins", "plugins")


def test_a_billion_laughs_take_no_time():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    start = time.monotonic()
    assert problems_in_text(RecipeText("\n".join([*lines, "otr_x: *a39"]), "recipe.yml"), HOST)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "a: &a [*a]\notr_x: 1", "\x00", "a: [", "? {a: b}\n: otr", "!!python/name:os.system x: y"]
)
def test_strange_text_is_no_crash(text):
    problems_in_text(RecipeText(text, "recipe.yml"), HOST)
