# OTR in a training loop of one's own, on twenty batches. From the project's folder:
#   python example_configs/transformers/loop.py
import torch
from transformers import AutoModelForCausalLM

from otr_plugin import OTRConfig, attach

model = AutoModelForCausalLM.from_pretrained("example_configs/small/model")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
handle = attach(model.train(), OTRConfig())
for step in range(20):
    handle.start_step(step)  # draws are keyed by it, so that a run can be repeated
    ids = torch.randint(4, 40, (8, 1)).repeat(1, 16)  # some token, again and again
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(step, handle.take_metrics())
