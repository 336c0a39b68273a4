# A small model learns to sort letters downwards with TRL's SFTTrainer; 10% of the answers are wrong at random.
# From the folder of the project:
#   python example_configs/trl/train.py
from datasets import load_dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from otr_plugin import OTRConfig, attach

model = AutoModelForCausalLM.from_pretrained("example_configs/small/model")
data = load_dataset("json", data_files="example_configs/small/desc-wrong10.jsonl", split="train")

attach(model, OTRConfig())  # Without this line, the trainer does plain SFT.
arguments = SFTConfig("quickstart/trl/python", per_device_train_batch_size=32, learning_rate=1e-3, bf16=False)
SFTTrainer(model, arguments, train_dataset=data).train()
