# A small model learns to sort letters downwards with transformers' Trainer; 10% of the answers are wrong at random.
# From the folder of the project:
#   python example_configs/transformers/train.py
import json
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from otr_plugin import OTRConfig, attach

model = AutoModelForCausalLM.from_pretrained("example_configs/small/model")
tokenizer = AutoTokenizer.from_pretrained("example_configs/small/model")
data = []
for line in Path("example_configs/small/desc-wrong10.jsonl").read_text().splitlines():
    prompt, answer = (tokenizer(text)["input_ids"] for text in json.loads(line).values())
    answer += [tokenizer.eos_token_id]
    data.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})

attach(model, OTRConfig())  # Without this line, the Trainer does plain SFT.
settings = {"per_device_train_batch_size": 32, "learning_rate": 1e-3, "logging_steps": 9}
arguments = TrainingArguments("quickstart/transformers", **settings)
Trainer(model, arguments, DataCollatorForSeq2Seq(tokenizer), data).train()
