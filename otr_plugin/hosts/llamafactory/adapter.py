"""LLaMA-Factory: `plugins: [otr]` and an `otr:` block in its YAML.

The patched parser takes the two keys out of the recipe and leaves the settings on the parsed arguments. A trainer that
finds them there attaches OTR to its model.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.llamafactory.recipe import HOST, STAGES, TRIED, recipe_text
from otr_plugin.hosts.mentions import SETTINGS_KEY
from otr_plugin.hosts.mistakes import problems_in_arguments, problems_in_environment, problems_in_text
from otr_plugin.hosts.patching import is_marked, marked, replace
from otr_plugin.hosts.recipes import read_recipe, refuse, untried_version
from otr_plugin.hosts.resume import resumed_without_otr
from otr_plugin.hosts.run_record import remember
from otr_plugin.hosts.transformers.adapter import Log, attach_and_announce, require_kernel

TRAINERS = {  # of each of STAGES
    "sft": ("llamafactory.train.sft.trainer", "CustomSeq2SeqTrainer"),
    "pt": ("llamafactory.train.pt.trainer", "CustomTrainer"),
}
assert tuple(TRAINERS) == STAGES


def patch_parser(parser_module: ModuleType) -> None:
    """llamafactory.hparams.parser"""
    original, read_args = getattr(parser_module, "_parse_args", None), getattr(parser_module, "read_args", None)
    if original is None or read_args is None:  # the parser then rejects a recipe with OTR's keys as not used
        return

    @functools.wraps(original)
    def parse_args(parser: Any, args: Any = None, allow_extra_keys: bool = False) -> Any:
        args = read_args(args)
        # `llamafactory-cli train` reads the recipe first, and passes it on as a dict.
        text = recipe_text() if args == _read_again(read_args) else recipe_text([])
        if not isinstance(args, dict):
            refuse([*problems_in_arguments(args, allowed=None), *problems_in_environment(HOST)])
            return original(parser, args, allow_extra_keys)
        config = read_recipe(HOST, args, text)
        if config is None:
            return original(parser, args, allow_extra_keys)
        require_kernel(config)
        recipe = {key: value for key, value in args.items() if key not in ("plugins", SETTINGS_KEY)}
        parsed = original(parser, recipe, allow_extra_keys)
        for part in parsed:
            if type(part).__name__ == "FinetuningArguments":
                _require_patched_trainer(part.stage)
            remember("llamafactory", args, getattr(part, "output_dir", None))
            setattr(part, SETTINGS_KEY, config.model_dump())  # pickled with the arguments: plain values
        return parsed

    @functools.wraps(read_args)
    def read_checked_args(args: Any = None) -> Any:
        if args is None:
            refuse(problems_in_text(recipe_text(), HOST))  # before OmegaConf parses it
        return read_args(args)

    replace(parser_module, "read_args", read_checked_args, "refuses recipes in which OTR would be misread")
    replace(parser_module, "_parse_args", parse_args, "the keys plugins and otr, which the parser does not have")


def _read_again(read_args: Callable[[], Any]) -> Any:
    """What the command line names as a recipe; None if it names none that can be read."""
    try:
        return read_args() if recipe_text().root is not None else None
    except Exception:  # OmegaConf and the file system raise errors of many types; the first reading has shown them
        return None


def patch_trainer(trainer_module: ModuleType) -> None:
    """llamafactory.train.sft.trainer and llamafactory.train.pt.trainer"""
    for name in {name for _, name in TRAINERS.values()} & vars(trainer_module).keys():
        trainer = getattr(trainer_module, name)
        replace(trainer, "__init__", _init_with_otr(trainer.__init__), "attaches OTR if the recipe has its settings")


def patch_liger(liger_module: ModuleType) -> None:
    """llamafactory.model.model_utils.liger_kernel"""
    original = getattr(liger_module, "apply_liger_kernel", None)
    if original is None:  # Liger's fused loss then bypasses the model's head, and the first training step raises
        return

    @functools.wraps(original)
    def apply_liger_kernel(config: Any, model_args: Any, is_trainable: bool, require_logits: bool) -> Any:
        # require_logits leaves Liger's fused loss out.
        return original(config, model_args, is_trainable, require_logits or hasattr(model_args, SETTINGS_KEY))

    replace(liger_module, "apply_liger_kernel", apply_liger_kernel, "leaves Liger's fused loss out of runs with OTR")


def _require_patched_trainer(stage: str) -> None:
    """Without a patched trainer, nothing would read the settings."""
    module, name = TRAINERS[stage]
    trainer = getattr(importlib.import_module(module), name, None)
    if not is_marked(getattr(trainer, "__init__", None)):
        raise RuntimeError(
            f"otr: looked for {name} in {module}, whose __init__ attaches OTR, but did not find it as in LLaMA-Factory "
            f"{', '.join(TRIED)}; {version('llamafactory')} is installed. Nothing is trained."
        )


def _init_with_otr(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        from llamafactory.extras import logging

        log = logging.get_logger("llamafactory.otr")
        settings = getattr(self.finetuning_args, SETTINGS_KEY, None)
        if settings is None:
            if warning := resumed_without_otr(self.args.resume_from_checkpoint, self.args.output_dir):
                log.warning_rank0(warning)
        else:
            if warning := untried_version("llamafactory", TRIED):
                log.warning_rank0(warning)
            attach_and_announce(self, OTRConfig(**settings), Log(log.info_rank0, log.warning_rank0))

    return marked(init)
