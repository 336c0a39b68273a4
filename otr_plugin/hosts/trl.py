"""TRL: `plugins: [otr]` and an `otr:` block in the YAML of `trl sft`. Run with the versions in TRIED.

It has no plugins. otr_plugin.autoload calls two functions here, each when a module of TRL has been imported: what reads
a recipe takes the two keys out and leaves the settings on the SFTConfig, and an SFTTrainer that finds them there, or is
given an attached model, trains with OTR. Its own fused head would compute the loss past the model's, so it is left out,
and OTR answers in its place.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from otr_plugin.autoload import asks_for_otr, know_trainers, recipe_of
from otr_plugin.config import OTRConfig
from otr_plugin.hosts.common import refuse, said_elsewhere, settings_of, untried
from otr_plugin.hosts.trainer import join
from otr_plugin.metrics import TOKEN_COUNT
from otr_plugin.model.attach import attached_handle
from otr_plugin.model.handle import Call

TRIED = ("1.9.0", "1.16.0")
MARK = "otr"  # the attribute that carries the settings
OPTION = "--otr."
# What puts TRL's own fused head into a model: from 1.16 for every loss, before for loss_type chunked_nll.
CHUNKED_HEAD = "_patch_chunked_ce_lm_head"
FUSED_HEADS = ("add_fused_lm_head", CHUNKED_HEAD)
# Asked of the model by SFTTrainer, for its own head or for Liger's.
WORDS = ("fused_lm_head", "skip_logits", "return_token_accuracy", "use_token_scaling")
LOSS_ELSEWHERE = {"label_smoothing_factor": "set it to 0: the trainer would compute the loss"}
OWN_LOSSES = (None, "nll", "chunked_nll")  # plain cross entropy, computed by a head that is replaced


def read_settings(parser_module: Any) -> None:
    """trl.scripts.utils: a recipe's plugins and otr, which TRL would hand to `accelerate launch`, or drop."""
    parser = parser_module.TrlParser
    own_defaults, own_parse = parser.set_defaults_with_config, parser.parse_args_and_config

    @functools.wraps(own_defaults)
    def set_defaults_with_config(self: Any, **recipe: Any) -> Any:
        if asks_for_otr(recipe):
            recipe = {key: value for key, value in recipe.items() if key not in ("plugins", "otr")}
        return own_defaults(self, **recipe)

    @functools.wraps(own_parse)
    def parse_args_and_config(self: Any, args: Any = None, *rest: Any, **options: Any) -> Any:
        args, overrides = _overrides(list(sys.argv[1:] if args is None else args))
        recipe = recipe_of(args)
        parsed = own_parse(self, args, *rest, **options)
        if asks_for_otr(recipe) or overrides:
            _carry(settings_of("TRL", recipe.get("plugins"), recipe.get("otr"), overrides), parsed)
        return parsed

    parser.set_defaults_with_config, parser.parse_args_and_config = set_defaults_with_config, parse_args_and_config


def join_trainer(trainer_module: Any) -> None:
    """trl.trainer.sft_trainer: an SFTTrainer that carries settings, or an attached model, trains with OTR."""
    trainer = trainer_module.SFTTrainer
    own = trainer.__init__
    if hasattr(own, MARK):
        return

    @functools.wraps(own)
    def init(self: Any, *given: Any, **named: Any) -> None:
        # By name or place, not by signature: Unsloth's SFTTrainer takes `*args, **kwargs`.
        model, args = (named.get(name, next(iter(given[i:]), None)) for i, name in enumerate(("model", "args")))
        handle = attached_handle(model)
        settings = getattr(args, MARK, None)
        if settings is None and handle is None:
            own(self, *given, **named)
            return
        if type(self).compute_loss is not trainer.compute_loss:
            raise ValueError(
                f"otr: {type(self).__name__} has a compute_loss of its own, and OTR answers that of SFTTrainer. Use "
                "SFTTrainer, or a subclass that leaves compute_loss as it is."
            )
        if args is not None:
            _leave_the_loss(args, trainer_module)
        with _without_its_head(trainer_module):
            own(self, *given, **named)
        if hasattr(trainer_module, CHUNKED_HEAD) and self.compute_metrics is not None:
            raise ValueError(
                f"otr: TRL {version('trl')} would hand compute_metrics sums, for logits, which are never whole. Leave "
                "it out, or use TRL 1.16, which computes logits for it."
            )
        if settings is not None:
            handle = join(self, OTRConfig(**settings))
            self.accelerator.print(handle.describe())
        assert handle is not None
        config = handle.model.config.get_text_config()
        handle.transform_output, handle.extra_arguments = functools.partial(_answer, config), WORDS
        handle.evaluation_needs_logits = False  # it asks for logits in a call without labels
        if warning := untried("trl", TRIED):
            self.accelerator.print(warning)

    setattr(init, MARK, True)
    trainer.__init__ = init


def _overrides(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """What a command line says of OTR, as `--otr.samples 16` or `--otr.samples=16`, apart from the rest."""
    import yaml

    rest, found = [], {}
    words = iter(args)
    for word in words:
        if not word.startswith(OPTION):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(OPTION).partition("=")
        if not equals:
            value = next(words, "")
        found[name.replace("-", "_")] = yaml.safe_load(value)
    return rest, found


def _carry(config: OTRConfig, parsed: Any) -> None:
    """Settings on the SFTConfig, as plain values, so that it is saved and read without this package."""
    args = next((part for part in parsed if type(part).__name__ == "SFTConfig"), None)
    if args is None:
        raise ValueError("otr: `plugins: [otr]` is for `trl sft`: TRL's other commands have losses of their own.")
    refuse(_losses_elsewhere(args))
    setattr(args, MARK, config.model_dump())
    know_trainers()


def _losses_elsewhere(args: Any) -> list[str]:
    problems = said_elsewhere(vars(args), LOSS_ELSEWHERE)
    if args.loss_type not in OWN_LOSSES:
        fix = "remove it" + ("; `otr: {objective: dft}` is that loss" if args.loss_type == "dft" else "")
        problems.append(f"`loss_type: {args.loss_type}`: {fix}")
    if (args.liger_kernel_config or {}).get("fused_linear_cross_entropy"):
        problems.append(
            "`fused_linear_cross_entropy` in liger_kernel_config: set it to false; Liger's other kernels can stay"
        )
    return problems


def _leave_the_loss(args: Any, trainer_module: Any) -> None:
    """Liger without its fused loss, and metrics read from where OTR answers: from sums, not from logits."""
    refuse(_losses_elsewhere(args))
    if args.use_liger_kernel:
        args.liger_kernel_config = {**(args.liger_kernel_config or {}), "fused_linear_cross_entropy": False}
    elif hasattr(trainer_module, CHUNKED_HEAD):
        args.loss_type = "chunked_nll"


@contextmanager
def _without_its_head(trainer_module: Any) -> Iterator[None]:
    """While a trainer is made, nothing puts TRL's fused head into its model."""
    found = [name for name in FUSED_HEADS if hasattr(trainer_module, name)]
    if not found:
        raise RuntimeError(
            f"otr: looked for {' or '.join(FUSED_HEADS)} in {trainer_module.__name__}, with which TRL "
            f"{', '.join(TRIED)} put a head of its own into a model, and found neither; this is {version('trl')}. "
            "Nothing is trained."
        )
    own = {name: getattr(trainer_module, name) for name in found}
    for name in found:
        setattr(trainer_module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(trainer_module, name, function)


@dataclass
class Answer(ModelOutput):
    """What SFTTrainer reads from a model's output. Sums over trained tokens: it takes no more than those of any."""

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    # from 1.16, where it asks for log-probabilities, negates their sum and divides by the tokens
    log_probs: Tensor | None = None
    label_mask: Tensor | None = None
    entropy: Tensor | None = None
    is_top1: Tensor | None = None
    # before
    num_valid_tokens: Tensor | None = None
    entropy_sum: Tensor | None = None
    num_correct_tokens: Tensor | None = None
    token_accuracy: Tensor | None = None  # in Liger's name


def _answer(config: Any, call: Call, output: Any) -> Answer:
    assert call.loss is not None
    loss, aux_loss = call.loss, getattr(output, "aux_loss", None)
    if aux_loss is not None:  # by the config, as TRL has it: the model may have noted another weight when it was made
        loss = loss + config.router_aux_loss_coef * aux_loss
    count, entropy, correct = (call.sums[name] for name in (TOKEN_COUNT, "entropy", "accuracy"))
    items = count.clamp(min=1) if call.num_items is None else call.num_items
    return Answer(
        loss=loss,
        aux_loss=aux_loss,
        log_probs=-call.loss * items,
        label_mask=count,
        entropy=entropy,
        is_top1=correct,
        num_valid_tokens=count,
        entropy_sum=entropy,
        num_correct_tokens=correct,
        token_accuracy=correct / count.clamp(min=1),
    )
