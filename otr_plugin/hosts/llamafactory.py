"""LLaMA-Factory: `plugins: [otr]` and an `otr:` block in its YAML. Run with the versions in TRIED.

It has no plugins. otr_plugin.autoload calls three functions here, each when a module of LLaMA-Factory has been
imported: what reads a recipe takes the two keys out and leaves the settings on the parsed arguments, its trainers join
OTR where they find them there, and Liger's kernels leave the loss alone.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from otr_plugin.hosts.common import refuse, said_elsewhere, settings_of, untried
from otr_plugin.hosts.trainer import join

TRIED = ("0.9.5",)
MARK = "otr"  # the attribute that carries the settings
TRAINERS = {
    "sft": ("llamafactory.train.sft.trainer", "CustomSeq2SeqTrainer"),
    "pt": ("llamafactory.train.pt.trainer", "CustomTrainer"),
}
# Keys with which LLaMA-Factory would compute the loss elsewhere, and what to do about each.
LOSS_ELSEWHERE = {
    "use_dft_loss": "set it to false; `otr: {objective: dft}` is that loss, without whole logits",
    "use_eaft_loss": "set it to false",
    "use_asft_loss": "set it to false",
    "use_unsloth": "set it to false: Unsloth's forward computes the loss past the model's head",
    "use_mca": "set it to false: Megatron's trainer computes the loss",
    "use_hyper_parallel": "set it to false: its trainer computes the loss",
    "use_kt": "set it to false: KTransformers' trainer has not been tried",
    "label_smoothing_factor": "set it to 0: the trainer would compute the loss",
}


def read_settings(parser_module: Any) -> None:
    """llamafactory.hparams.parser: a recipe's plugins and otr, which it would call keys that are not used."""
    own, read = getattr(parser_module, "_parse_args", None), getattr(parser_module, "read_args", None)
    if own is None or read is None:  # a recipe that names otr then fails there, with keys that are not used
        return

    @functools.wraps(own)
    def parse_args(parser: Any, args: Any = None, allow_extra_keys: bool = False) -> Any:
        args = read(args)
        if not isinstance(args, dict) or not ({"plugins", "otr"} & args.keys()):
            return own(parser, args, allow_extra_keys)
        recipe = dict(args)
        config = settings_of("LLaMA-Factory", recipe.pop("plugins", None), recipe.pop("otr", None))
        _refuse_a_loss_elsewhere(recipe)
        parsed = own(parser, recipe, allow_extra_keys)
        for part in parsed:
            if type(part).__name__ == "FinetuningArguments":
                _insist_on_the_trainer(part.stage)
            setattr(part, MARK, config)
        return parsed

    parser_module._parse_args = parse_args


def join_trainer(trainer_module: Any) -> None:
    """llamafactory.train.sft.trainer, or .pt.trainer: a trainer whose arguments carry settings joins OTR."""
    for name in {name for _, name in TRAINERS.values()} & vars(trainer_module).keys():
        trainer = getattr(trainer_module, name)
        trainer.__init__ = _joining(trainer.__init__)


def leave_the_loss(liger_module: Any) -> None:
    """llamafactory.model.model_utils.liger_kernel: with OTR, every kernel of Liger's but its fused loss."""
    own = getattr(liger_module, "apply_liger_kernel", None)
    if own is None:  # then Liger's loss goes past the head, which raises
        return

    @functools.wraps(own)
    def apply_liger_kernel(config: Any, model_args: Any, is_trainable: bool, require_logits: bool) -> Any:
        return own(config, model_args, is_trainable, require_logits or hasattr(model_args, MARK))

    liger_module.apply_liger_kernel = apply_liger_kernel


def _refuse_a_loss_elsewhere(recipe: dict[str, Any]) -> None:
    problems = said_elsewhere(recipe, LOSS_ELSEWHERE)
    stage = recipe.get("stage", "sft")
    if stage not in TRAINERS:
        problems.append(f"`stage: {stage}`: set it to sft or pt; the others have losses of their own")
    refuse(problems)


def _insist_on_the_trainer(stage: str) -> None:
    """The settings are worth nothing if no trainer reads them."""
    module, name = TRAINERS[stage]
    trainer = getattr(importlib.import_module(module), name, None)
    if not hasattr(getattr(trainer, "__init__", None), MARK):
        raise RuntimeError(
            f"otr: looked for {name} in {module}, to train with OTR, and did not find it as it was in LLaMA-Factory "
            f"{', '.join(TRIED)}; this is {version('llamafactory')}. Nothing is trained."
        )


def _joining(own: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(own)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        config = getattr(self.finetuning_args, MARK, None)
        if config is not None:
            from llamafactory.extras import logging

            log = logging.get_logger("llamafactory.otr")
            if warning := untried("llamafactory", TRIED):
                log.warning_rank0(warning)
            log.info_rank0(join(self, config).describe())

    setattr(init, MARK, True)
    return init
