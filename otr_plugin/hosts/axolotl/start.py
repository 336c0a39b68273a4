"""Patches Axolotl when a process imports it.

The patches add the short name `otr` and options such as `--otr.samples 16`, and refuse recipes in which OTR would be
misread: the command itself does so before it starts a launcher, and every process that loads a recipe does it again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.axolotl.recipe import HOST
from otr_plugin.hosts.mentions import PLUGIN_NAMES, is_plugin_name, mentions_otr
from otr_plugin.hosts.mistakes import (
    COMMAND_LINE,
    problem_with_plugin,
    problems_in_arguments,
    problems_in_environment,
    problems_in_text,
    runs_as,
)
from otr_plugin.hosts.patching import replace
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.recipes import RecipeError, named_plugins, read_recipe, refuse
from otr_plugin.hosts.resume import resumed_without_otr
from otr_plugin.hosts.run_record import remember


def patch_load_plugin(module: ModuleType) -> None:
    """Makes `plugins: [otr]` load the plugin. Axolotl's load_plugin accepts only names such as module.Class."""
    original = getattr(module, "load_plugin", None)
    if original is None:  # Axolotl then rejects `otr` by itself
        return

    def load_plugin(plugin_name: str) -> Any:
        if not is_plugin_name(plugin_name):
            return original(plugin_name)
        from otr_plugin import OTRPlugin  # raises RuntimeError, as Axolotl logs an ImportError and trains without OTR

        return OTRPlugin()

    replace(module, "load_plugin", load_plugin, "the short name otr, which is not module.Class")


def patch_cli_options(module: ModuleType) -> None:
    """Adds one command-line option (names, parameter, type, help) for each setting, such as `--otr.samples 16`."""
    original = getattr(module, "AXOLOTL_CONFIG_CLI_OPTIONS", None)
    if isinstance(original, tuple) and all(len(option) == 4 for option in original):
        options = tuple(
            ((f"--otr.{name.replace('_', '-')}",), f"otr__{name}", None, field.description)
            for name, field in OTRConfig.model_fields.items()
        )
        replace(module, "AXOLOTL_CONFIG_CLI_OPTIONS", original + options, "options such as --otr.samples 16")


def patch_commands(module: ModuleType) -> None:
    """Refuses a wrong recipe in Axolotl's command itself, before it starts other processes, and without a traceback."""
    original = getattr(module, "filter_none_kwargs", None)  # decorates every command that takes a recipe
    if original is None:  # the processes that load the recipe refuse it
        return

    def filter_none_kwargs(command: Callable[..., Any]) -> Callable[..., Any]:
        filtered = original(command)

        @functools.wraps(filtered)
        def check_and_run(*args: Any, **options: Any) -> Any:
            try:
                check_command(options)
            except RecipeError as error:
                raise import_module("click").ClickException(str(error)) from None
            return filtered(*args, **options)

        return check_and_run

    replace(module, "filter_none_kwargs", filter_none_kwargs, "refuses wrong recipes before a process is started")


def check_command(options: Mapping[str, Any]) -> None:
    """Raise RecipeError for a recipe or options in which OTR would be misread. Imports nothing that they name."""
    refuse(problems_in_arguments(sys.argv[1:]))
    text = RecipeText.read(options.get("config"))
    if options.get("sweep"):
        sweep = RecipeText.read(options["sweep"])
        refuse(_problems_in_sweep(sweep, text))
    refuse([*problems_in_text(text, HOST, _may_be_otr_unread), *problems_in_environment(HOST)])
    recipe = text.value
    if not isinstance(recipe, dict):
        return
    names = named_plugins(recipe)
    if any(map(mentions_otr, names)) and not any(map(is_plugin_name, names)):
        return  # a class by another name: the processes that load it find out whether it is this plugin
    prefix = "otr__"
    settings = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    settings = {name: value for name, value in settings.items() if value is not None}
    read_recipe(HOST, recipe, text, overrides=settings)


def _may_be_otr_unread(name: Any) -> bool:
    """Whether the name may be this plugin's, by its spelling."""
    return is_plugin_name(name) or (
        isinstance(name, str) and name.startswith("otr_plugin.") and name.endswith(".OTRPlugin")
    )


def _problems_in_sweep(sweep: RecipeText, text: RecipeText) -> list[str]:
    """A sweep replaces whole keys of the recipe: over `otr` it would drop the recipe's other settings."""
    problems = problems_in_text(sweep, HOST)
    block = sweep.line_of("otr")
    if block is not None and text.line_of("otr") is not None:
        problems.append(
            f"{sweep.place(block)}: a sweep over `otr` replaces the block `otr:` of {text.name}: sweep over single "
            "settings, as in `otr.samples: [16, 256]`"
        )
    return problems


def patch_prepare_plugins(module: ModuleType) -> None:
    """Refuses recipes in which OTR would be misread: Axolotl drops unknown keys, and plugins that it cannot import."""
    original = getattr(module, "prepare_plugins", None)
    if original is None:
        return

    def prepare_plugins(cfg: Any) -> None:
        if runs_as("axolotl"):
            refuse(problems_in_arguments(sys.argv[1:]))
        text = RecipeText.read(cfg.get("axolotl_config_path"))
        names = named_plugins(cfg)
        refuse(problems_in_text(text, HOST, _may_be_otr))
        refuse(
            [f"{COMMAND_LINE}: {wrong}" for name in names if (wrong := problem_with_plugin(name, HOST, _may_be_otr))]
        )
        if any(map(mentions_otr, names)):
            cfg["plugins"] = names  # Axolotl would take a string apart into letters
        else:
            read_recipe(HOST, cfg, text, is_otr=_may_be_otr)  # raises if the command line has replaced `plugins:`
        if cfg.get("use_ray"):
            _require_short_name(names, text)
        original(cfg)
        _require_loaded(names, text)
        if read_recipe(HOST, cfg, text, is_otr=_loaded_otr) is not None:
            remember("axolotl", _without_commands_own(cfg, text), cfg.get("output_dir"))
        else:
            checkpoint = cfg.get("resume_from_checkpoint") or bool(cfg.get("auto_resume_from_checkpoints"))
            if warning := resumed_without_otr(checkpoint, cfg.get("output_dir")):
                import_module("axolotl.utils.logging").get_logger("axolotl.otr").warning(warning)

    replace(module, "prepare_plugins", prepare_plugins, "an error for recipes in which OTR would be misread")


def _without_commands_own(cfg: Any, text: RecipeText) -> dict[str, Any]:
    """The recipe without what Axolotl's commands add to it, which are options and no keys."""
    written = {entry.key for entry in text.top()}
    options = getattr(sys.modules.get("axolotl.cli.args"), "TrainerCliArgs", None)
    added = {"axolotl_config_path", *getattr(options, "__dataclass_fields__", ())} - written
    return {key: cfg[key] for key in cfg if key not in added}


def _may_be_otr(name: Any) -> bool:
    """Whether the name is this plugin's, or the class's by another path in this package, which is imported."""
    if is_plugin_name(name):
        return True
    if not isinstance(name, str) or not name.startswith("otr_plugin."):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        return isinstance(getattr(import_module(module), attribute), type) and attribute == "OTRPlugin"
    except (ImportError, AttributeError):
        return False


def _loaded_otr(name: Any) -> bool:
    adapter = sys.modules.get("otr_plugin.hosts.axolotl.adapter")
    return is_plugin_name(name) or (adapter is not None and adapter.loads_otr(name))


def _require_short_name(names: list[Any], text: RecipeText) -> None:
    """Axolotl leaves a path out that a Ray worker cannot import, and trains without it. A short name is an error."""
    refuse(
        [
            f"{text.place(text.line_of('plugins'))}: `{name}` under `plugins:` with `use_ray`: a worker that lacks "
            "this package would train without OTR: write `otr`, which ends such a worker with an error"
            for name in names
            if name != PLUGIN_NAMES[0] and _may_be_otr(name)
        ]
    )


def _require_loaded(names: list[Any], text: RecipeText) -> None:
    """Axolotl logs that a plugin cannot be imported, and trains without it."""
    from axolotl.integrations.base import PluginManager

    loaded = PluginManager.get_instance().plugins
    refuse(
        [
            f"{text.place(text.line_of('plugins'))}: `{name}` under `plugins:` could not be loaded: write `otr`"
            for name in names
            if mentions_otr(name) and name not in loaded
        ]
    )


PATCHES = {
    "axolotl.integrations.base": patch_load_plugin,
    "axolotl.cli.config_options": patch_cli_options,
    "axolotl.cli.utils.args": patch_commands,
    "axolotl.cli.config": patch_prepare_plugins,
}
