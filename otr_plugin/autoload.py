"""Patches a host as soon as one of its modules has been imported, in every Python process.

`plugins: [otr]` has to work with a host's own command and in every process that the command starts. A line in a `.pth`
file therefore imports this module at every Python start. This module imports nothing itself; `install` puts one finder
on sys.meta_path. When a process imports a module of the tables below, the finder lets Python import the module and
then calls the function that PATCHES in `otr_plugin/hosts/<host>/start.py` lists for it.

OTR_PLUGIN_AUTOLOAD=0 switches the finder off. OTR_PLUGIN_TRACE=1 prints every patch to stderr: what, by whom and why.
"""

import sys

# host: the modules that are patched after their import, in every process
AT_START = {
    "axolotl": (
        "axolotl.integrations.base",
        "axolotl.cli.config_options",
        "axolotl.cli.utils.args",
        "axolotl.cli.config",
    ),
    "llamafactory": (
        "llamafactory.hparams.parser",
        "llamafactory.train.sft.trainer",
        "llamafactory.train.pt.trainer",
        "llamafactory.model.model_utils.liger_kernel",
    ),
    "trl": ("trl.scripts.utils",),
    "swift": ("swift.cli.main", "swift.trainers.trainer_factory", "swift.megatron.arguments.sft_args"),
}
# The same for trainer classes, which are patched only while something needs it: an attached model, or a TRL recipe.
TRAINERS = {"transformers": ("transformers.trainer",), "trl": ("trl.trainer.sft_trainer",)}

_reasons_to_patch_trainers: "set[str]" = set()


class Finder:
    """Finds no module itself; patches modules after another finder has found them and Python has executed them."""

    def __init__(self, table):
        self.host_of = {}
        self.add(table)

    def add(self, table):
        for host, modules in table.items():
            for name in modules:
                self.host_of[name] = host

    def remove(self, table):
        for modules in table.values():
            for name in modules:
                self.host_of.pop(name, None)

    def find_spec(self, name, path=None, target=None):
        host = self.host_of.pop(name, None)
        if host is None:
            return None
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                patch(host, module)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 - mypy takes an assignment for an override
        return spec


def patch(host, module):
    from importlib import import_module

    import_module(f"otr_plugin.hosts.{host}.start").PATCHES[module.__name__](module)


def finder():
    return next((finder for finder in sys.meta_path if isinstance(finder, Finder)), None)


def install():
    if finder() is None:
        sys.meta_path.insert(0, Finder(AT_START))


def patch_trainers(reason):
    """Patch the trainer classes of TRAINERS, imported already or later, until `unpatch_trainers(reason)`."""
    if finder() is None:  # OTR_PLUGIN_AUTOLOAD=0, or the `.pth` file is not installed
        sys.meta_path.insert(0, Finder({}))
    if not _reasons_to_patch_trainers:
        finder().add(TRAINERS)
        for host, modules in TRAINERS.items():
            for name in modules:
                if name in sys.modules:
                    del finder().host_of[name]
                    patch(host, sys.modules[name])
    _reasons_to_patch_trainers.add(reason)


def unpatch_trainers(reason):
    """Undo `patch_trainers(reason)`; with the last reason gone, the trainer classes are the hosts' own again."""
    _reasons_to_patch_trainers.discard(reason)
    if _reasons_to_patch_trainers:
        return
    if finder() is not None:
        finder().remove(TRAINERS)
    from otr_plugin.hosts.patching import undo

    for modules in TRAINERS.values():
        for name in modules:
            undo(name)
