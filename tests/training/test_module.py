"""The loss of an optimizer step does not depend on how its rows are divided into micro-batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mv_lightning.data.batching import pack
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
        accumulate_grad_batches=3, world_size=2, global_step=0
    )
    return module


def gradients(module: VerdictModule, batches: list[list[int]], rows: EncodedRows) -> torch.Tensor:
    """What Lightning adds up: the gradients of all micro-batches / 3, and their mean over 2."""
    module.zero_grad()
    for indices in batches:
        batch = pack(rows, np.array(indices), step_rows=6)
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


def test_only_labelled_rows_are_evaluated(module: VerdictModule, siblings: EncodedRows) -> None:
    batch = pack(siblings, np.array([0, 4, 6]), 3)
    batch.labels_B[1] = UNLABELLED
    rows, labels, odds, losses = module.validation_step(batch, 0)
    assert rows.tolist() == [0, 6] and labels.tolist() == [1, 0]
    # The loss over the whole vocabulary is at least that over the two verdicts.
    signed = torch.where(labels == 1, odds, -odds)
    assert (losses >= torch.nn.functional.softplus(-signed) - 1e-5).all()


def test_the_saved_adapter_states_how_it_must_be_prompted(
    module: VerdictModule, tmp_path: Path
) -> None:
    module.save_adapter(tmp_path / "adapter", steps=7)
    metadata = read_metadata(tmp_path / "adapter")
    assert metadata["steps"] == 7 and metadata["max_length"] == 2048
    assert metadata["prompt"]["fingerprint"] == module.prompt.fingerprint
    assert metadata["lora"]["r"] == 32
