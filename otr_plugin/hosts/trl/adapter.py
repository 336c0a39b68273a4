"""TRL: `plugins: [otr]` and an `otr:` block in the YAML of `trl sft`; and SFTTrainer with an attached model.

The patched parser takes the two keys out of the recipe and leaves the settings on the SFTConfig. An SFTTrainer that
finds them there, or that has an attached model when it starts to train, trains with OTR. TRL's own fused head would
compute the loss without calling the model's head. It lies under OTR, which does not call it, and is in use again after
`detach`; OTR fills in the output that SFTTrainer expects from it.
"""

from __future__ import annotations

import copy
import copyreg
import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from otr_plugin.autoload import patch_trainers
from otr_plugin.config import OTRConfig
from otr_plugin.hosts.mentions import SETTINGS_KEY
from otr_plugin.hosts.mistakes import problems_in_arguments, problems_in_text
from otr_plugin.hosts.patching import is_marked, marked, replace
from otr_plugin.hosts.recipes import (
    RecipeError,
    asks_for_otr,
    conflicts,
    read_recipe,
    refuse,
    refuse_conflicts,
    untried_version,
)
from otr_plugin.hosts.resume import resumed_without_otr
from otr_plugin.hosts.run_record import remember, with_options
from otr_plugin.hosts.transformers.adapter import CONNECT, Log, attach_and_announce, changed, require_kernel
from otr_plugin.hosts.trl.recipe import HOST, OTHER_LOSSES, TRIED, other_losses, recipe_text, split_options
from otr_plugin.metrics import TOKEN_COUNT
from otr_plugin.model.attach import attached_handle
from otr_plugin.model.call import Call
from otr_plugin.model.handle import Handle

# Functions with which TRL puts its own fused head into a model: from 1.16 on for every loss, before for chunked_nll.
CHUNKED_HEAD = "_patch_chunked_ce_lm_head"
FUSED_HEADS = ("add_fused_lm_head", CHUNKED_HEAD)
# Arguments that SFTTrainer passes to the model's forward for its fused head or for Liger's.
FUSED_HEAD_ARGUMENTS = ("fused_lm_head", "skip_logits", "return_token_accuracy", "use_token_scaling")


def patch_parser(parser_module: ModuleType) -> None:
    """trl.scripts.utils"""
    parser: Any = parser_module.TrlParser
    original_defaults, original_parse = parser.set_defaults_with_config, parser.parse_args_and_config

    @functools.wraps(original_defaults)
    def set_defaults_with_config(self: Any, **recipe: Any) -> Any:
        if asks_for_otr(recipe):
            recipe = {key: value for key, value in recipe.items() if key not in ("plugins", SETTINGS_KEY)}
        return original_defaults(self, **recipe)

    @functools.wraps(original_parse)
    def parse_args_and_config(self: Any, args: Any = None, *rest: Any, **options: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        refuse(problems_in_arguments(words))
        words, overrides = split_options(words)
        text = recipe_text(words)
        recipe, config = text.value, None
        if not isinstance(recipe, Mapping):
            refuse(problems_in_text(text, HOST))
        elif (config := read_recipe(HOST, recipe, text, overrides=overrides)) is not None:
            require_kernel(config)
        parsed = original_parse(self, words, *rest, **options)
        if config is None:
            _warn_if_resumed_without_otr(parsed)
            return parsed
        _remember(recipe, words, overrides, parsed)
        return _carry(config, parsed)

    why = "the keys plugins and otr, which the parser does not have"
    replace(parser, "set_defaults_with_config", set_defaults_with_config, why)
    replace(parser, "parse_args_and_config", parse_args_and_config, why)


def patch_trainer(trainer_module: ModuleType) -> None:
    """trl.trainer.sft_trainer"""
    trainer: Any = trainer_module.SFTTrainer
    original = trainer.__init__
    if is_marked(original):
        return

    @functools.wraps(original)
    def init(self: Any, *given: Any, **named: Any) -> None:
        # Looked up by name or by place, not by signature: Unsloth's SFTTrainer takes `*args, **kwargs`.
        model, args = (named.get(name, next(iter(given[i:]), None)) for i, name in enumerate(("model", "args")))
        handle = attached_handle(model)
        settings = getattr(args, SETTINGS_KEY, None)
        if settings is None and handle is None:
            original(self, *given, **named)
            return
        _require_known_head(trainer_module)
        _refuse_compute_loss(self, trainer)
        if args is not None:
            refuse_conflicts(_other_losses(args))
        with nullcontext() if handle is None else handle.suspended():  # TRL's fused head then lies under OTR
            original(self, *given, **named)
        _refuse_compute_metrics(self, trainer_module)
        if warning := untried_version("trl", TRIED):
            self.accelerator.print(warning)
        if settings is not None:
            attach_and_announce(self, OTRConfig(**settings), Log(self.accelerator.print, self.accelerator.print))

    @contextmanager
    def connected(self: Any, handle: Handle) -> Iterator[None]:
        """What an SFTTrainer needs of an attached model, while it trains or evaluates."""
        _require_known_head(trainer_module)
        _refuse_compute_loss(self, trainer)
        _refuse_compute_metrics(self, trainer_module)
        refuse_conflicts(_other_losses(self.args))
        if hasattr(trainer_module, CHUNKED_HEAD):
            _take_out_chunked_head(handle)
        with (
            changed(self.args, **_arguments_for_otr(self.args, trainer_module)),
            changed(
                handle,
                transform_output=functools.partial(_output_for_trainer, handle.model.config.get_text_config()),
                extra_arguments=FUSED_HEAD_ARGUMENTS,
                evaluation_needs_logits=False,  # SFTTrainer gets logits for compute_metrics by a call without labels
            ),
        ):
            yield

    replace(trainer, "__init__", marked(init), "attaches OTR if the recipe has its settings or the model is attached")
    replace(trainer, CONNECT, connected, "gives an SFTTrainer the output that it reads, while the model is attached")


def _carry(config: OTRConfig, parsed: Any) -> Any:
    """The parsed arguments, with the settings on the SFTConfig."""
    configs = [part for part in parsed if any(cls.__name__ == "SFTConfig" for cls in type(part).__mro__)]
    if not configs:
        raise RecipeError(["`plugins: [otr]` is for `trl sft`: TRL's other commands have losses of their own"])
    for args in configs:
        refuse_conflicts(_other_losses(args))
        args.__class__ = _with_settings(type(args))  # type: ignore[arg-type] # mypy takes no class as hashable
        setattr(args, SETTINGS_KEY, config.model_dump())
    patch_trainers("a TRL recipe")
    return parsed


def _remember(recipe: Mapping[str, Any], words: list[str], overrides: Mapping[str, Any], parsed: Any) -> None:
    resolved = with_options(recipe, words, without=("config",))
    if overrides:
        resolved[SETTINGS_KEY] = {**(recipe.get(SETTINGS_KEY) or {}), **overrides}
    for part in parsed:
        remember("trl", resolved, getattr(part, "output_dir", None))


@functools.cache
def _with_settings(cls: type[Any]) -> type[Any]:
    """The arguments' class with a field for the settings, so that `dataclasses.replace` copies them.

    Pickled, an instance is one of the class itself, whose settings are a plain attribute: it can be loaded without this
    package.
    """

    def reduce(self: Any) -> Any:
        return copyreg._reconstructor, (cls, object, None), self.__dict__  # type: ignore[attr-defined]

    def copy_of(self: Any, *_: Any) -> Any:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def deep_copy_of(self: Any, memo: dict[int, Any]) -> Any:
        copied = copy_of(self)
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    fields = [(SETTINGS_KEY, "dict | None", dataclasses.field(default=None, kw_only=True))]
    methods = {"__reduce__": reduce, "__copy__": copy_of, "__deepcopy__": deep_copy_of}
    return dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), namespace=methods, repr=False, eq=False)


def _warn_if_resumed_without_otr(parsed: Any) -> None:
    args = next((part for part in parsed if type(part).__name__ == "SFTConfig"), None)
    if args is None or args.process_index > 0:
        return
    if warning := resumed_without_otr(args.resume_from_checkpoint, args.output_dir):
        print(warning, file=sys.stderr, flush=True)


def _other_losses(args: Any) -> list[str]:
    return [*conflicts(vars(args), OTHER_LOSSES), *other_losses(vars(args))]


def _arguments_for_otr(args: Any, trainer_module: ModuleType) -> dict[str, Any]:
    """Without Liger's fused loss. SFTTrainer reads its metrics from sums, which OTR has, and not from logits."""
    if args.use_liger_kernel:
        return {"liger_kernel_config": {**(args.liger_kernel_config or {}), "fused_linear_cross_entropy": False}}
    return {"loss_type": "chunked_nll"} if hasattr(trainer_module, CHUNKED_HEAD) else {}


def _refuse_compute_loss(trainer: Any, sft_trainer: Any) -> None:
    if type(trainer).compute_loss is not sft_trainer.compute_loss:
        raise ValueError(
            f"otr: {type(trainer).__name__} overrides compute_loss, but OTR provides only the output that the "
            "compute_loss of SFTTrainer reads. Use SFTTrainer, or a subclass that does not override compute_loss."
        )


def _refuse_compute_metrics(trainer: Any, trainer_module: ModuleType) -> None:
    if hasattr(trainer_module, CHUNKED_HEAD) and trainer.compute_metrics is not None:
        raise ValueError(
            f"otr: TRL {version('trl')} would pass sums instead of logits to compute_metrics, because OTR never "
            "holds whole logits. Leave compute_metrics out, or use TRL 1.16, which computes logits for it."
        )


def _require_known_head(trainer_module: ModuleType) -> None:
    if not any(hasattr(trainer_module, name) for name in FUSED_HEADS):
        raise RuntimeError(
            f"otr: looked for {' or '.join(FUSED_HEADS)} in {trainer_module.__name__}, with which TRL "
            f"{', '.join(TRIED)} put their own fused head into a model, but found neither; TRL {version('trl')} is "
            "installed. Nothing is trained."
        )


def _take_out_chunked_head(handle: Handle) -> None:
    """Remove the fused head that TRL before 1.16 has put under OTR, until detach().

    That head's forward never calls the model's own if it gets labels. From TRL 1.16 on the fused head does so, because
    OTR takes out the argument that switches the fused head on.
    """
    with handle.suspended():
        fused = handle.model.forward
        if "_chunked_ce_forward" not in getattr(fused, "__qualname__", ""):
            return
        handle.model.forward = inspect.getclosurevars(inspect.unwrap(fused.__func__)).nonlocals["original_forward"]
    handle.on_detach.append(functools.partial(setattr, handle.model, "forward", fused))


@dataclass
class SFTOutput(ModelOutput):
    """The fields that SFTTrainer reads from a model's output. Sums over trained tokens where it would sum tensors."""

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    # From TRL 1.16 on, which computes the loss as -log_probs.sum() / tokens:
    log_probs: Tensor | None = None
    label_mask: Tensor | None = None
    entropy: Tensor | None = None
    is_top1: Tensor | None = None
    # Before TRL 1.16:
    num_valid_tokens: Tensor | None = None
    entropy_sum: Tensor | None = None
    num_correct_tokens: Tensor | None = None
    token_accuracy: Tensor | None = None  # the name in Liger's output


def _output_for_trainer(config: Any, call: Call, output: Any) -> SFTOutput:
    assert call.landed is not None
    loss, aux_loss = call.landed, getattr(output, "aux_loss", None)
    if aux_loss is not None:  # with the config's weight, as in TRL: the model may have kept an older one
        loss = loss + config.router_aux_loss_coef * aux_loss
    count, entropy, correct = (call.sums[name] for name in (TOKEN_COUNT, "entropy", "accuracy"))
    items = count.clamp(min=1) if call.num_items is None else call.num_items
    return SFTOutput(
        loss=loss,
        aux_loss=aux_loss,
        log_probs=-call.landed * items,
        label_mask=count,
        entropy=entropy,
        is_top1=correct,
        num_valid_tokens=count,
        entropy_sum=entropy,
        num_correct_tokens=correct,
        token_accuracy=correct / count.clamp(min=1),
    )
