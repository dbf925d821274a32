"""The loss of an optimizer step does not depend on how its rows are divided into micro-batches."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel

from mv_lightning.data.batching import MicroBatch, PackedRows, pack
from mv_lightning.model.adapter_files import read_metadata
from mv_lightning.model.adapters import LoraSettings, trained_parameters
from mv_lightning.model.base import BaseSettings
from mv_lightning.schema import UNLABELLED, EncodedRows
from mv_lightning.training.module import VerdictModule


@pytest.fixture
def module(tiny: torch.nn.Module, tiny_settings: BaseSettings) -> VerdictModule:
    """A module whose model is configured, under a trainer of 2 processes and 3 micro-batches."""
    lora = LoraSettings(r=32, alpha=32)
    module = VerdictModule(tiny_settings, lora, prompt="explanation", max_length=2048)
    module.adapted = tiny  # type: ignore[assignment]
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=3,
        world_size=2,
        global_step=0,
        datamodule=SimpleNamespace(summarizer=None),
    )
    return module


def gradients(module: VerdictModule, batches: list[list[int]], rows: EncodedRows) -> torch.Tensor:
    """What Lightning adds up: the gradients of all micro-batches / 3, and their mean over 2."""
    module.zero_grad()
    module._step_sums = None
    packed = PackedRows(rows, rows.prefix_groups_N)
    for indices in batches:
        batch = packed[MicroBatch(tuple(indices), step_rows=sum(map(len, batches)))]
        (module.training_step(batch, 0) / 3 / 2).backward()
    return torch.cat([p.grad.flatten() for p in trained_parameters(module.adapted).values()])


def test_a_step_is_the_mean_over_its_rows(module: VerdictModule, siblings: EncodedRows) -> None:
    rows = [0, 1, 2, 4, 5, 6]
    together = gradients(module, [rows], siblings)
    module.zero_grad()
    module.losses(pack(siblings, np.array(rows), 6)).total_B.mean().backward()
    mean = torch.cat([p.grad.flatten() for p in trained_parameters(module.adapted).values()])
    apart = gradients(module, [[0, 1, 2, 4], [5], [6]], siblings)
    assert torch.allclose(together, mean, atol=1e-6) and together.abs().max() > 1e-3
    assert torch.allclose(together, apart, atol=1e-5)


def test_pairs_of_a_step_do_not_depend_on_its_micro_batches(
    module: VerdictModule, siblings: EncodedRows
) -> None:
    """Rows 0 to 3 are a question with two right ones, 5 to 7 one with a right one; 4 has no
    pair."""
    verdict_only = gradients(module, [list(range(8))], siblings)
    module.pair_weight = 0.7
    together = gradients(module, [list(range(8))], siblings)
    apart = gradients(module, [[3, 0, 2, 1], [4, 7, 5, 6]], siblings)
    assert torch.allclose(together, apart, atol=1e-5)

    odds = module.losses(PackedRows(siblings, np.arange(8))[MicroBatch(tuple(range(8)), 8)]).odds_B
    pairs = {0: (0, 1), 1: (0, 2), 2: (3, 1), 3: (3, 2), 4: (5, 6), 5: (5, 7)}
    losses = {n: softplus(odds[wrong] - odds[right]) for n, (right, wrong) in pairs.items()}
    first = 4 * sum(losses[n] for n in range(4)) / 4
    expected = (first + 3 * (losses[4] + losses[5]) / 2) / 8
    module.zero_grad()
    (0.7 * expected).backward()
    pair_part = torch.cat([p.grad.flatten() for p in trained_parameters(module.adapted).values()])
    assert torch.allclose(together - verdict_only, pair_part, atol=1e-5)
    assert pair_part.abs().max() > 1e-3
    loss, _, pair_loss = module._step_sums.tolist()  # what is logged for the step
    assert pair_loss == pytest.approx(expected.item(), rel=1e-5)
    module.pair_weight = 0.0
    verdict_loss = module.losses(pack(siblings, np.arange(8), 8)).total_B.mean().item()
    assert loss == pytest.approx(verdict_loss + 0.7 * pair_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("pair_weight", -0.1), ("pair_weight", math.nan), ("pair_weight", math.inf),
     ("label_smoothing", -0.1), ("label_smoothing", 1.0), ("label_smoothing", math.nan),
     ("prompt_loss_weight", -1.0)],
)  # fmt: skip
def test_weights_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"expected model\.{option} to be at least 0.*{value}"):
        VerdictModule(prompt="explanation", max_length=9, **{option: value})


def test_validation_is_without_smoothing_and_pairs(
    module: VerdictModule, siblings: EncodedRows
) -> None:
    batch = pack(siblings, np.arange(8), 8)
    before = module.validation_step(batch, 0)
    module.pair_weight = module.label_smoothing = 0.5
    assert torch.equal(module.validation_step(batch, 0), before)


def test_only_labelled_rows_are_evaluated(module: VerdictModule, siblings: EncodedRows) -> None:
    batch = pack(siblings, np.array([0, 4, 6]), 3)
    batch.labels_B[1] = UNLABELLED
    rows, labels, odds, losses = module.validation_step(batch, 0)
    assert rows.tolist() == [0, 6] and labels.tolist() == [1, 0]
    # The loss over the whole vocabulary is at least that over the two verdicts.
    signed = torch.where(labels == 1, odds, -odds)
    assert (losses >= softplus(-signed) - 1e-5).all()


def test_the_saved_adapter_states_how_it_must_be_prompted(
    module: VerdictModule, tmp_path: Path
) -> None:
    module.save_adapter(tmp_path / "adapter", steps=7)
    metadata = read_metadata(tmp_path / "adapter")
    assert metadata["steps"] == 7 and metadata["max_length"] == 2048
    assert metadata["prompt"]["fingerprint"] == module.prompt.fingerprint
    assert metadata["lora"]["r"] == 32


def test_gradients_stay_in_the_buckets_in_which_they_are_averaged(
    module: VerdictModule, tmp_path: Path
) -> None:
    """After the first step, micro-batches that are not averaged need no memory of their own."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    wrapped = DistributedDataParallel(layers, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(layers.parameters())
    places = []
    for _ in range(3):
        module.optimizer_zero_grad(0, 0, optimizer)
        with wrapped.no_sync():
            wrapped(torch.ones(2, 8)).sum().backward()
        places.append({p.grad.untyped_storage().data_ptr() for p in layers.parameters()})
        wrapped(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    torch.distributed.destroy_process_group()
    assert [len(place) for place in places] == [4, 1, 1]


def test_a_linear_head_writes_no_text(tiny_settings: BaseSettings) -> None:
    with pytest.raises(ValueError, match=r"model\.head=linear was not trained to write"):
        VerdictModule(
            tiny_settings,
            head="linear",
            prompt="explanation",
            max_length=2048,
            predict_mode="generate",
        )
