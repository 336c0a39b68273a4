"""Lets `plugins: [otr]` mean this plugin, in a host's own command and in every process it starts.

A line in a .pth file imports this module at every Python start. It imports nothing; it adds one finder, which waits
for a few modules of the hosts and adds to them what they have no other way in for. In Axolotl: the plugin's short name,
`--otr.samples 16` on the command line, and an error where a recipe has settings for OTR and no plugin to read them.
In LLaMA-Factory and TRL, which have no plugins: everything. In ms-swift, which has a registry of losses but finds only
files: the name `otr` in it. OTR_PLUGIN_AUTOLOAD=0 switches it off.
"""

import sys

NAMES = ("otr", "otr_plugin.OTRPlugin")


def named_plugins(recipe):
    """What a recipe has under `plugins:`, one name or a list."""
    named = recipe.get("plugins") or []
    return [named] if isinstance(named, str) else list(named)


def nobody_reads(key, named):
    return (
        f"otr: the recipe has `{key}:`, but nothing under `plugins:` that reads it ({named}): it would train without "
        "OTR. Add `plugins: [otr]`, or remove the setting."
    )


def know_the_name(module):
    """axolotl.integrations.base: load_plugin takes a module and a class, "otr" is neither."""
    own = getattr(module, "load_plugin", None)
    if own is None:  # a recipe that names otr then fails in Axolotl, which does not know it
        return

    def load_plugin(plugin_name):
        if plugin_name in NAMES:
            from otr_plugin import OTRPlugin  # a RuntimeError if it cannot be imported: no run without it

            return OTRPlugin()
        return own(plugin_name)

    module.load_plugin = load_plugin


def know_the_options(module):
    """axolotl.cli.config_options: (names, parameter, type, help) of what a command line may override."""
    own = getattr(module, "AXOLOTL_CONFIG_CLI_OPTIONS", None)
    if isinstance(own, tuple) and all(len(option) == 4 for option in own):
        from otr_plugin.config import OTRConfig

        module.AXOLOTL_CONFIG_CLI_OPTIONS = own + tuple(
            ((f"--otr.{name.replace('_', '-')}",), f"otr__{name}", None, field.description)
            for name, field in OTRConfig.model_fields.items()
        )


def miss_the_plugin(module):
    """axolotl.cli.config: a key that no plugin knows is dropped, and the run would be plain SFT under an OTR recipe."""
    own = getattr(module, "prepare_plugins", None)
    if own is None:
        return

    def prepare_plugins(cfg):
        own(cfg)
        named = named_plugins(cfg)
        stray = [key for key in cfg if key == "otr" or str(key).startswith("otr.")]
        if stray and not any(name in named for name in NAMES):
            raise ValueError(nobody_reads(stray[0], named))

    module.prepare_plugins = prepare_plugins


def adapter(host, function):
    """What otr_plugin.hosts does to a module of a host, which is imported with torch; this is not."""

    def add(module):
        from importlib import import_module

        getattr(import_module(f"otr_plugin.hosts.{host}"), function)(module)

    return add


def or_refuse(add, refuse):
    """Recipes without OTR go on where OTR cannot be added; one with it must not, whatever its host says of the keys."""

    def tried(module):
        try:
            add(module)
        except Exception as error:
            refuse(module, error)

    return tried


def asks_for_otr(recipe):
    return isinstance(recipe, dict) and ("otr" in recipe or any(name in NAMES for name in named_plugins(recipe)))


def refuse_in_llamafactory(module, error):
    """llamafactory.hparams.parser"""
    own = getattr(module, "read_args", None)
    if own is None:
        return

    def read_args(args=None):
        args = own(args)
        if asks_for_otr(args):
            raise RuntimeError(f"otr: LLaMA-Factory cannot train with OTR: {error!r}") from error
        return args

    module.read_args = read_args


def recipe_of(words):
    """What is in the file that a command line of TRL's names."""
    if "--config" not in words[:-1]:
        return {}
    from pathlib import Path

    import yaml

    return yaml.safe_load(Path(words[words.index("--config") + 1]).read_text()) or {}


def refuse_in_trl(module, error):
    """trl.scripts.utils: whatever its parser does with a recipe, it is made before the recipe is read."""
    parser = getattr(module, "TrlParser", None)
    if parser is None:
        return
    own = parser.__init__

    def init(self, *args, **kwargs):
        own(self, *args, **kwargs)
        if asks_for_otr(recipe_of(sys.argv)):
            raise RuntimeError(f"otr: TRL cannot train with OTR: {error!r}") from error

    parser.__init__ = init


def refuse_in_swift(module, error):
    """swift.trainers.trainer_factory, where a loss_type that swift does not know would be a KeyError, and late."""
    own = getattr(getattr(module, "TrainerFactory", None), "get_training_args", None)
    if own is None:
        return

    def get_training_args(args):
        if "otr" in (getattr(args, "loss_type", None) or ""):
            raise RuntimeError(f"otr: ms-swift cannot train with OTR: {error!r}") from error
        return own(args)

    module.TrainerFactory.get_training_args = staticmethod(get_training_args)


AWAITED = {
    "axolotl.integrations.base": know_the_name,
    "axolotl.cli.config_options": know_the_options,
    "axolotl.cli.config": miss_the_plugin,
    "llamafactory.hparams.parser": or_refuse(adapter("llamafactory", "read_settings"), refuse_in_llamafactory),
    "llamafactory.train.sft.trainer": or_refuse(adapter("llamafactory", "join_trainer"), refuse_in_llamafactory),
    "llamafactory.train.pt.trainer": or_refuse(adapter("llamafactory", "join_trainer"), refuse_in_llamafactory),
    "llamafactory.model.model_utils.liger_kernel": or_refuse(
        adapter("llamafactory", "leave_the_loss"), refuse_in_llamafactory
    ),
    "trl.scripts.utils": or_refuse(adapter("trl", "read_settings"), refuse_in_trl),
    "swift.trainers.trainer_factory": or_refuse(adapter("swift", "register"), refuse_in_swift),
    "swift.megatron.arguments.sft_args": adapter("swift", "refuse_megatron"),
}


class Finder:
    """On sys.meta_path: finds nothing itself, and adds to the modules that are awaited when others find them."""

    def __init__(self, awaited) -> None:
        self.awaited = dict(awaited)

    def find_spec(self, name, path=None, target=None):
        add = self.awaited.pop(name, None)
        if add is None:
            return None
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                add(module)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 - a type checker's idea of a method
        return spec


def finder():
    return next((finder for finder in sys.meta_path if isinstance(finder, Finder)), None)


def install() -> None:
    if finder() is None:
        sys.meta_path.insert(0, Finder(AWAITED))


def know_trainers() -> None:
    """From attach() on, the Trainer that is given an attached model follows it; imported by then or not."""
    awaited = {
        "transformers.trainer": adapter("trainer", "follow_attached"),
        "trl.trainer.sft_trainer": adapter("trl", "join_trainer"),
    }
    if finder() is None:  # this module is switched off, or was never installed
        sys.meta_path.insert(0, Finder({}))
    for name, add in awaited.items():
        if name in sys.modules:
            add(sys.modules[name])
        else:
            finder().awaited[name] = add
