"""Runs the real `trl sft` on a tiny model, on a CPU."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.hosts.driver import BIN, CPU_ENVIRONMENT, CPU_TRAINER_RECIPE, HostDriver, sums, write_jsonl

CPU_RECIPE: dict[str, Any] = CPU_TRAINER_RECIPE | {
    "max_length": 64,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}
SAVED = {"save_strategy": "steps", "save_steps": 1000}  # `log_of` reads the checkpoint that is saved at the end.
# Does what `trl sft` does, for several recipes in one process: importing TRL takes longer than training here.
SCRIPT = """
import sys
from trl.scripts.sft import main, make_parser
for recipe in sys.argv[1:]:
    main(*make_parser().parse_args_and_config(["--config", recipe], fail_with_unknown_args=False))
"""
# assistant_only_loss needs a chat template that marks the assistant's tokens with `generation`.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{% endfor %}"
)


def make_experts(like: Path, folder: Path) -> None:
    """Writes a random mixture of experts to `folder`, with the tokenizer and some sizes of the model in `like`."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    shutil.copytree(like, folder)
    sizes = json.loads((like / "config.json").read_text())
    shared = ("vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "pad_token_id")
    config = MixtralConfig(
        hidden_size=32, intermediate_size=32, num_local_experts=4, **{name: sizes[name] for name in shared}
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(folder)


class TRL(HostDriver):
    """Trains a dense model, or one with experts, on pairs.jsonl (prompts and completions) or chats.jsonl."""

    ENV = CPU_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        make_experts(folder / "model", folder / "experts")
        write_jsonl(folder / "pairs.jsonl", ({"prompt": q, "completion": a} for q, a in sums()))
        turns = [[("user", q), ("assistant", a)] * 2 for q, a in sums()]
        chats = [[{"role": role, "content": content} for role, content in chat] for chat in turns]
        write_jsonl(folder / "chats.jsonl", ({"messages": messages} for messages in chats))

    def settings(self, name: str, *, data: str = "pairs", experts: bool = False, **changes: Any) -> dict[str, Any]:
        own = {
            "model_name_or_path": str(self.folder / ("experts" if experts else "model")),
            "datasets": [{"path": "json", "data_files": str(self.folder / f"{data}.jsonl")}],
            "output_dir": str(self.folder / name),
        }
        return CPU_RECIPE | own | changes

    def train(
        self, name: str, *arguments: str, env: dict[str, str] | None = None, **changes: Any
    ) -> tuple[list[dict[str, float]], str]:
        """Runs `trl sft`; returns the log history, and all that was printed."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        recipe = self.recipe(name, **SAVED | changes)
        done = self.call(str(BIN / "trl"), "sft", "--config", str(recipe), *arguments, env=env)
        return self.log_of(name), done.stdout + done.stderr

    def train_each(
        self, recipes: dict[str, dict[str, Any]], env: dict[str, str] | None = None, preamble: str = ""
    ) -> str:
        """Trains the recipes one after another in one process and returns all that was printed; `log_of` has the logs.

        `preamble` is Python code that runs first.
        """
        paths = [str(self.recipe(name, **SAVED | recipe)) for name, recipe in recipes.items()]
        done = self.call(sys.executable, "-c", preamble + SCRIPT, *paths, env=env)
        return done.stdout + done.stderr
