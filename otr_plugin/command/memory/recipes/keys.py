"""Reads the keys of a recipe, and keeps which of them were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otr_plugin.command.console import CANNOT_TELL, UNREADABLE, Failure
from otr_plugin.command.memory.optimisers import ALIASES, OPTIMISERS
from otr_plugin.command.memory.plan import Attention, Checkpointing, Liger
from otr_plugin.config import OTRConfig

# Keys that have the same effect on memory, none, in every host: of data, logs, checkpoints and the schedule.
WITHOUT_EFFECT = """
    adam_beta1 adam_beta2 adam_epsilon bf16_full_eval data_seed dataloader_num_workers dataloader_pin_memory
    dataloader_prefetch_factor dataset_num_proc ddp_timeout disable_tqdm do_eval do_train eval_delay eval_steps
    eval_strategy evaluation_strategy hub_model_id hub_strategy include_num_input_tokens_seen learning_rate
    load_best_model_at_end logging_dir logging_first_step logging_steps logging_strategy lora_alpha loss_type
    lr_scheduler lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model model_revision
    num_train_epochs otr output_dir overwrite_output_dir per_device_eval_batch_size plugins push_to_hub
    remove_unused_columns report_to resume_from_checkpoint run_name save_only_model save_safetensors save_steps
    save_strategy save_total_limit seed tf32 use_cpu warmup_ratio warmup_steps weight_decay
    """
OTHER_TRAININGS = "a step of another kind of training, with other batches"
NOT_MODELLED = "this is not modelled"
EIGHT_BIT = "8-bit weights are not modelled: how much bitsandbytes keeps for backward depends on the values"
SEVERAL_GPUS = "the model is split over several GPUs, and this estimate is of one"
OFF: tuple[Any, ...] = (None, False, "", 0, "false", "none", "None", [], {})


class Keys:
    """A recipe, whose keys a host's module reads by name."""

    def __init__(self, recipe: Mapping[str, Any], path: object, without_effect: str) -> None:
        self.recipe, self.path = recipe, path
        self.known = set(WITHOUT_EFFECT.split()) | set(without_effect.split())
        self.notes: list[str] = []

    def get(self, name: str, default: Any = None) -> Any:
        self.known.add(name)
        value = self.recipe.get(name)
        return default if value is None else value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name, default)
        return value.lower() == "true" if isinstance(value, str) else bool(value)

    def number(self, name: str, default: int) -> int:
        value = self.get(name, default)
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1 or number != float(value):
            raise Failure(f"{self.path}: {name} is {value!r}: expected a positive whole number", UNREADABLE)
        return number

    def names(self, name: str) -> tuple[str, ...]:
        """A list of names; a text with commas is one, too."""
        value = self.get(name, ())
        if isinstance(value, str):
            value = value.split(",")
        return tuple(str(one).strip() for one in value)

    def cannot(self, names: str, reason: str) -> None:
        """End, if the recipe has one of these keys."""
        for name in names.split():
            if self.get(name) not in OFF:
                raise self.unclear(f"`{name}: {_short(self.get(name))}`: {reason}")

    def unclear(self, reason: str) -> Failure:
        return Failure(f"{self.path}: cannot tell how much memory this recipe takes: {reason}", CANNOT_TELL)

    def optimiser(self, name: str, default: str) -> str:
        value = str(self.get(name, default))
        found = ALIASES.get(value, value)
        if found not in OPTIMISERS:
            raise self.unclear(
                f"`{name}: {value}`: the state of this optimiser is not modelled. {', '.join(OPTIMISERS)} are"
            )
        if found.startswith("paged"):
            self.notes.append(f"{value}: its state is in memory that CUDA moves to the CPU when the card is full")
        return found

    def checkpointing(self, default_reentrant: bool) -> Checkpointing:
        """The kind that transformers' Trainer takes; it is on unless the recipe switches it off."""
        settings = self.get("gradient_checkpointing_kwargs", {})
        if not self.flag("gradient_checkpointing", True):
            return "none"
        return "reentrant" if settings.get("use_reentrant", default_reentrant) else "not reentrant"

    def liger(self, name: str, otr: OTRConfig | None) -> Liger:
        """All of Liger's kernels, if this key is on. OTR takes the place of the fused loss."""
        is_on = self.flag(name)
        return Liger(rope=is_on, rms_norm=is_on, swiglu=is_on, fused_loss=is_on and otr is None)

    def not_counted(self) -> tuple[str, ...]:
        """Notes, and each key that was neither read nor is known to have no effect."""
        others = [f"{key}: {_short(value)}" for key, value in self.recipe.items() if key not in self.known]
        return (*self.notes, *others)


def attention(implementation: object) -> Attention:
    """The kind of attention of transformers' `attn_implementation`."""
    name = str(implementation)
    return "eager" if name == "eager" else "flash" if "flash" in name else "sdpa"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
