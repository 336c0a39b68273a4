# OTR in a training loop of your own, on twenty batches. From the folder of the project:
#   python example_configs/transformers/loop.py
import torch
from transformers import AutoModelForCausalLM

from otr_plugin import OTRConfig, attach

model = AutoModelForCausalLM.from_pretrained("example_configs/small/model")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
handle = attach(model.train(), OTRConfig())
for step in range(20):
    handle.start_step(step)  # OTR's draws depend on the step, so that a run is reproducible
    ids = torch.randint(4, 40, (8, 1)).repeat(1, 16)  # each row repeats one token
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(step, handle.take_metrics())
