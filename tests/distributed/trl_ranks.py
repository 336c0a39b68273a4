"""The script that `trl sft` launches. Ranks exit after training: plain TRL was seen to hang in gloo's teardown."""

import os
import sys

import torch
from transformers import Trainer
from trl.scripts.sft import main, make_parser

own = Trainer.train


def train(*args, **kwargs):
    own(*args, **kwargs)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


Trainer.train = train
main(*make_parser().parse_args_and_config(fail_with_unknown_args=False))
