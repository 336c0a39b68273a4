"""What a right recipe of each host looks like: the keys that it needs, and harmless keys that it may have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.hosts.driver import CPU_TRAINER_RECIPE

# Names that contain `otr`, or are it, where they mean something else.
NAMES = ("otr", "OTR", "notre_dame", "otr_samples", "hotrod", "plugins-otr", "one-token-rollout")
OUTPUTS = ("./outputs/otr", "./otr", "outputs/notre_dame", "otr_plugin.OTRPlugin")


@dataclass(frozen=True)
class Host:
    """`harmless` maps a key to the values that it may have; `holders` are keys whose value may be any mapping."""

    name: str
    needs: dict[str, Any]
    harmless: dict[str, tuple[Any, ...]]
    holders: tuple[str, ...]
    free_keys: tuple[str, ...] = ()  # keys that the host ignores
    other_plugins: tuple[str, ...] = ()  # plugins that may stand beside OTR
    class_names: tuple[str, ...] = ("otr_plugin.OTRPlugin",)
    extensions: tuple[str, ...] = ("yaml",)
    environment: dict[str, str] = field(default_factory=dict)
    # a pattern for the messages with which the host itself rejects a recipe by name
    refuses: str = r"(?!)"

    @property
    def reads_variables(self) -> bool:
        return self.name == "swift"


TRAINER_KEYS: dict[str, tuple[Any, ...]] = {
    "output_dir": OUTPUTS,
    "run_name": NAMES,
    "seed": (1, 42),
    "warmup_steps": (0, 2),
    "weight_decay": (0.0, 0.1),
    "max_grad_norm": (1.0, 0.5),
    "lr_scheduler_kwargs": ({}, {"notre_dame": 1}),
}

AXOLOTL = Host(
    name="axolotl",
    needs={
        "base_model": "model",
        "datasets": [{"path": "data.jsonl", "ds_type": "json", "type": "alpaca"}],
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "learning_rate": 0.01,
        "output_dir": "outputs",
    },
    harmless={
        "output_dir": OUTPUTS,
        "wandb_name": NAMES,
        "dataset_prepared_path": OUTPUTS,
        "hub_model_id": ("me/otr",),
        "seed": (1, 42),
        "sequence_len": (64, 128),
        "sample_packing": (False,),
        "val_set_size": (0, 0.1),
        "optimizer": ("adamw_torch",),
        "bf16": (False,),
        "tf32": (False,),
        "notre_dame": (1, "otr"),
        "dotrain": (True,),
        "hotrod": ({"wheels": 3}, None),
        "model_config": ({"notre_dame": 1},),
        "special_tokens": ({"pad_token": "otr"},),
        "chat_template_jinja": ("otr",),
    },
    holders=("model_config", "my_notes", "lora", "training"),
    free_keys=("my_notes", "training", "lora"),
    other_plugins=("axolotl.integrations.liger.LigerPlugin", "axolotl.integrations.spectrum.SpectrumPlugin"),
    class_names=("otr_plugin.OTRPlugin", "otr_plugin.hosts.axolotl.adapter.OTRPlugin"),
    extensions=("yml", "yaml"),
    environment={"AXOLOTL_DO_NOT_TRACK": "1"},
)
LLAMAFACTORY = Host(
    name="llamafactory",
    needs={key: value for key, value in CPU_TRAINER_RECIPE.items() if key not in ("save_strategy", "lr_scheduler_type")}
    | {
        "model_name_or_path": "model",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "sums",
        "template": "empty",
        "output_dir": "outputs",
    },
    harmless=TRAINER_KEYS
    | {
        "dataset": NAMES,
        "finetuning_type": ("full", "lora"),
        "stage": ("sft", "pt"),
        "cutoff_len": (64,),
        "enable_liger_kernel": (False,),
        "packing": (True, False),
    },
    holders=("lr_scheduler_kwargs",),
    # OmegaConf and LLaMA-Factory's parser
    refuses=r"found duplicate key|Some keys are not used by the HfArgumentParser",
)
TRL = Host(
    name="trl",
    needs=CPU_TRAINER_RECIPE
    | {"model_name_or_path": "model", "dataset_name": "pairs", "output_dir": "outputs", "bf16": False},
    harmless=TRAINER_KEYS
    | {
        "dataset_name": NAMES,
        "datasets": ([{"path": "otr"}],),
        "max_length": (64,),
        "packing": (False, True),
        "use_liger_kernel": (False,),
        "model_init_kwargs": ({"notre_dame": 1},),
        "env": ({"NOTRE_DAME": "otr"}, {"OTR_HOME": "another program's"}),
    },
    holders=("lr_scheduler_kwargs", "model_init_kwargs"),
)
SWIFT = Host(
    name="swift",
    needs=CPU_TRAINER_RECIPE
    | {
        "model": "model",
        "dataset": "sums.jsonl",
        "model_type": "llama",
        "template": "dummy",
        "tuner_type": "full",
        "add_version": False,
        "torch_dtype": "float32",
        "fp16": False,
        "output_dir": "outputs",
    },
    harmless=TRAINER_KEYS
    | {
        "system": ("otr", "You write otr: plugins"),
        "max_length": (64,),
        "dataset": ("sums.jsonl", "otr.jsonl"),
        "tuner_type": ("full", "lora"),
        "gradient_accumulation_steps": (1, 2),
    },
    holders=("lr_scheduler_kwargs", "model_kwargs"),
    class_names=(),
    extensions=("yaml", "yml", "json"),
    environment={"USE_HF": "1"},
    # ms-swift's parser, and argparse for a key that begins the names of several
    refuses=r"remaining_argv: |error: ambiguous option: ",
)
HOSTS = {host.name: host for host in (AXOLOTL, LLAMAFACTORY, TRL, SWIFT)}
