"""What running any real host takes, on a CPU: a small model, data, recipes, and the host's own command."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent


def make_model(where: Path, **settings: Any) -> None:
    """A random Llama with a tokenizer of single characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789 .:+="]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(where)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    LlamaForCausalLM(LlamaConfig(**sizes | settings)).save_pretrained(where)


def make_data(path: Path, count: int = 64, digits: int = 1) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            a, b = draw.randint(0, 99), draw.randint(0, 99)
            answer = f"{a + b:0{digits}d}."
            file.write(json.dumps({"prompt": f"{a}+{b}=", "completion": answer}) + "\n")


def run_command(*command: str, folder: Path, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
    """A host's own command. If it has to succeed and does not, the end of what it said."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


def again_if_a_rank_died(run: Callable[[], Any]) -> Any:
    """A rank on gloo was once seen to die by a signal, likely as it was taken down. Once is forgiven, and printed."""
    try:
        return run()
    except AssertionError as error:
        if not re.search(r"Signal (6|11) ", str(error)):
            raise
        print(f"a rank died by a signal; once more:\n{error}")
        return run()


class Host(ABC):
    """One folder with a model, data and the runs that used them."""

    ENV: dict[str, str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_model(folder / "model")

    @abstractmethod
    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        """The host's recipe for a run of that name."""

    def recipe(self, name: str, **changes: Any) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.settings(name, **changes)))
        return path

    def call(
        self, *command: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run_command(*command, folder=self.folder, env=self.ENV | (env or {}), check=check)

    def log_of(self, name: str) -> list[dict[str, float]]:
        """What the run's last checkpoint has of its log."""
        states = sorted((self.folder / name).glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
        log: list[dict[str, float]] = json.loads(states[-1].read_text())["log_history"]
        return log
