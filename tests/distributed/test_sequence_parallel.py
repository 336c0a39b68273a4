"""Two ranks that share every sequence train as the specification does on whole sequences, with the draws of both."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from otr_plugin.loss.reference import otr_loss_on_logits
from tests.distributed.sequence_ranks import (
    CONFIG,
    ENGINES,
    LENGTH,
    MICRO_BATCHES,
    OPTIMIZER,
    ROWS,
    SEED,
    STEPS,
    model,
    rows,
)
from tests.distributed.torchrun import run_on_two_ranks
from tests.draws import uniforms

RANKS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    run_on_two_ranks("tests.distributed.sequence_ranks", folder)
    return folder


def of_whole_sequences(step, micro_batch, positions):
    """The random numbers of whole sequences, from those that each rank draws for its positions."""
    whole = torch.full((ROWS, LENGTH, CONFIG.samples), torch.nan)
    for rank, of_rank in enumerate(positions):
        key = {"seed": SEED, "step": step, "micro_batch": micro_batch, "rank": rank}
        drawn = uniforms(of_rank.numel(), CONFIG.samples, **key)
        whole[torch.arange(ROWS)[:, None], of_rank] = drawn.view(*of_rank.shape, -1)
    assert not whole.isnan().any(), "every position is on one rank"
    return whole.flatten(0, 1)


def on_whole_sequences(positions, averages_micro_batches):
    """The log and the parameters of one process; `positions` are those of the ranks, for each micro-batch."""
    trained, (optimizer, settings) = model(), OPTIMIZER
    optimizer = optimizer(trained.parameters(), **settings)
    log, examples, positions = [], iter(rows()), iter(positions)
    for step in range(STEPS):
        sums = []
        for micro_batch in range(MICRO_BATCHES):
            some = [next(examples) for _ in range(ROWS)]
            batch = {name: torch.stack([one[name] for one in some]) for name in some[0]}
            labels = torch.nn.functional.pad(batch.pop("labels"), (0, 1), value=-100)[:, 1:].flatten()
            logits = trained(**batch).logits.flatten(0, 1)
            drawn = of_whole_sequences(step, micro_batch, next(positions))
            loss, of_batch = otr_loss_on_logits(logits, labels, CONFIG, uniforms=drawn)
            tokens = of_batch["tokens"]
            sums.append((loss * tokens, {name: value.detach() for name, value in of_batch.items()}))
        total = sum(of_batch["tokens"] for _, of_batch in sums)
        if averages_micro_batches:
            sum(loss / of_batch["tokens"] / MICRO_BATCHES for loss, of_batch in sums).backward()
        else:
            (sum(loss for loss, _ in sums) / total).backward()
        optimizer.step()
        optimizer.zero_grad()
        averages = {name: (sum(of_batch[name] for _, of_batch in sums) / total).item() for name in sums[0][1]}
        log.append({f"otr/{name}": averages[name] for name in ("objective", "hit_rate", "entropy", "nll")})
    return log, dict(trained.named_parameters())


@pytest.mark.parametrize("engine", ["context parallelism", "Ulysses"])
def test_two_ranks_train_as_one_process(folder, engine):
    if engine not in ENGINES:
        pytest.skip("DeepSpeed is not in this environment; `make engines` runs this test")
    of_ranks = [torch.load(folder / engine / f"positions-{rank}") for rank in range(RANKS)]
    assert all(seen.shape == (ROWS, LENGTH // RANKS) for seen in of_ranks[0]), "each rank has a part of a sequence"
    # Ulysses leaves num_items_in_batch out: Trainer then averages the micro-batches of a step.
    want, parameters = on_whole_sequences(zip(*of_ranks, strict=True), averages_micro_batches=engine == "Ulysses")
    log = json.loads((folder / engine / "trainer_state.json").read_text())["log_history"]
    for entry, wanted in zip([one for one in log if "loss" in one], want, strict=True):
        assert {name: entry[name] for name in wanted} == pytest.approx(wanted, rel=1e-5, abs=2e-6)
    saved = AutoModelForCausalLM.from_pretrained(folder / engine / "final").state_dict()
    start = dict(model().named_parameters())
    for name, parameter in parameters.items():
        update, own = parameter - start[name], saved[name] - start[name]
        assert (own - update).abs().max() < 2e-5 * update.abs().max(), name
