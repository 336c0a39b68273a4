"""Runs the real `trl sft` on a model of its own, on a CPU."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.hosts.host import BIN, Host, make_data

ENV = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
CPU_RECIPE: dict[str, Any] = {
    "max_length": 64,
    "per_device_train_batch_size": 2,
    "max_steps": 6,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 3,
}
# What the script that `trl sft` launches does, for one recipe after another: importing takes longer than training.
SCRIPT = """
import sys
from trl.scripts.sft import main, make_parser
for recipe in sys.argv[1:]:
    main(*make_parser().parse_args_and_config(["--config", recipe], fail_with_unknown_args=False))
"""
# For assistant-only loss, a chat template has to say which tokens are the assistant's.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{% endfor %}"
)


def make_experts(like: Path, where: Path) -> None:
    """A random mixture of experts, with the tokenizer of another model."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    shutil.copytree(like, where)
    sizes = json.loads((like / "config.json").read_text())
    kept = ("vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "pad_token_id")
    config = MixtralConfig(
        hidden_size=32, intermediate_size=32, num_local_experts=4, **{name: sizes[name] for name in kept}
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(where)


class TRL(Host):
    ENV = ENV

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        make_experts(folder / "model", folder / "experts")
        make_data(folder / "pairs.jsonl", 96)
        rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        with (folder / "chats.jsonl").open("w") as file:
            for row in rows:
                turns = [("user", row["prompt"]), ("assistant", row["completion"])] * 2
                messages = [{"role": role, "content": content} for role, content in turns]
                file.write(json.dumps({"messages": messages}) + "\n")

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
        """(what was logged, everything that was printed)."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        recipe = self.recipe(name, **{"save_strategy": "steps", "save_steps": 1000} | changes)
        done = self.call(str(BIN / "trl"), "sft", "--config", str(recipe), *arguments, env=env)
        return self.log_of(name), done.stdout + done.stderr

    def train_each(
        self, recipes: dict[str, dict[str, Any]], env: dict[str, str] | None = None, before: str = ""
    ) -> str:
        """All in one process; everything that was printed. `log_of` has what each logged."""
        saved = {"save_strategy": "steps", "save_steps": 1000}
        paths = [str(self.recipe(name, **(saved | recipe))) for name, recipe in recipes.items()]
        done = self.call(sys.executable, "-c", before + SCRIPT, *paths, env=env)
        return done.stdout + done.stderr
