"""Which host a recipe is for, and what that host reads in it about OTR, decided from its text alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from otr_plugin.command.console import CANNOT_TELL, UNREADABLE, Failure
from otr_plugin.config import OTRConfig
from otr_plugin.hosts.axolotl import recipe as axolotl
from otr_plugin.hosts.llamafactory import recipe as llamafactory
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.recipes import conflicts, names_otr, read_recipe, refuse_conflicts
from otr_plugin.hosts.swift import recipe as swift
from otr_plugin.hosts.trl import recipe as trl


@dataclass(frozen=True)
class RecipeHost:
    """A host whose recipes the command reads and writes."""

    name: str
    title: str
    package: str
    tried: tuple[str, ...]
    own_keys: frozenset[str]  # keys that, among these hosts, only this one's recipes have
    other_losses: Mapping[str, str]
    read: Callable[[RecipeText], OTRConfig | None]
    own_objectives: Mapping[str, OwnObjective]
    # Keys of `other_losses` that select another kind of training, with other data: without them it is another recipe.
    other_trainings: frozenset[str] = frozenset()

    def is_named_in(self, text: RecipeText) -> bool:
        """Whether the recipe switches OTR on, in the host's own spelling."""
        if self.name == "swift":
            return swift.LOSS_TYPE in swift.loss_types(recipe_of(text).get("loss_type"))
        return names_otr(recipe_of(text))


def recipe_of(text: RecipeText) -> dict[str, Any]:
    return text.value if isinstance(text.value, dict) else {}


def _read_axolotl(text: RecipeText) -> OTRConfig | None:
    return read_recipe(axolotl.HOST, recipe_of(text), text, is_otr=axolotl.is_class_name)


def _read_llamafactory(text: RecipeText) -> OTRConfig | None:
    return read_recipe(llamafactory.HOST, recipe_of(text), text)


def _read_trl(text: RecipeText) -> OTRConfig | None:
    return read_recipe(trl.HOST, recipe_of(text), text)


def _read_swift(text: RecipeText) -> OTRConfig | None:
    recipe = recipe_of(text)
    variables = {name: str(value) for name, value in text.block(swift.BLOCK).items()}
    config = swift.read_recipe(recipe.get("loss_type"), text, variables | os.environ)
    if config is not None:
        problems = [*conflicts(recipe, swift.OTHER_LOSSES, text), *swift.other_losses(recipe)]
        refuse_conflicts(problems, "`loss_type: otr`")
    return config


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


HOSTS = {
    host.name: host
    for host in (
        RecipeHost(
            "axolotl",
            "Axolotl",
            "axolotl",
            axolotl.TRIED,
            _keys(
                "base_model micro_batch_size sequence_len sample_packing val_set_size dataset_prepared_path adapter "
                "lora_target_linear pad_to_sequence_len flash_attention num_epochs evals_per_epoch "
                "saves_per_epoch special_tokens lora_model_dir"
            ),
            axolotl.OTHER_LOSSES,
            _read_axolotl,
            axolotl.OWN_OBJECTIVES,
            _keys("rl reward_model process_reward_model kd_trainer orpo_alpha trainer_cls"),
        ),
        RecipeHost(
            "llamafactory",
            "LLaMA-Factory",
            "llamafactory",
            llamafactory.TRIED,
            _keys(
                "stage finetuning_type dataset_dir cutoff_len lora_target preprocessing_num_workers overwrite_cache "
                "flash_attn quantization_bit neat_packing enable_liger_kernel eval_dataset"
            ),
            llamafactory.OTHER_LOSSES,
            _read_llamafactory,
            llamafactory.OWN_OBJECTIVES,
        ),
        RecipeHost(
            "trl",
            "TRL",
            "trl",
            trl.TRIED,
            _keys(
                "dataset_name dataset_train_split dataset_test_split dataset_text_field use_peft model_init_kwargs "
                "assistant_only_loss completion_only_loss"
            ),
            trl.OTHER_LOSSES,
            _read_trl,
            trl.OWN_OBJECTIVES,
        ),
        RecipeHost(
            "swift",
            "ms-swift",
            "ms-swift",
            swift.TRIED,
            _keys(
                "model ENV tuner_type train_type target_modules split_dataset_ratio add_version check_model rlhf_type"
            ),
            swift.OTHER_LOSSES,
            _read_swift,
            swift.OWN_OBJECTIVES,
            _keys("rlhf_type"),
        ),
    )
}


def host_of(text: RecipeText, path: object, chosen: str | None = None) -> RecipeHost:
    """The host that `--host` names, or else the one to which more of the recipe's keys belong than to any other."""
    if chosen is not None:
        return HOSTS[chosen]
    keys = {entry.key for entry in text.top()}
    if not keys:
        raise Failure(f"{path}: has no settings: a recipe has lines such as `learning_rate: 0.0001`", UNREADABLE)
    found = {host.name: keys & host.own_keys for host in HOSTS.values()}
    if "model_name_or_path" in keys and "datasets" in keys:  # each is also another host's, but not both
        found["trl"] |= {"model_name_or_path", "datasets"}
    most = max(map(len, found.values()))
    likely = [name for name, own in found.items() if len(own) == most]
    if most and len(likely) == 1:
        return HOSTS[likely[0]]
    if most:
        seen = " and ".join(f"{HOSTS[name].title} ({', '.join(sorted(found[name]))})" for name in likely)
        reason = f"has as many keys of {seen}"
    else:
        reason = "has no key that tells which host it is for"
    raise Failure(f"{path}: {reason}: name the host with --host {'|'.join(HOSTS)}", CANNOT_TELL)
