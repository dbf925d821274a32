"""Recomputing activations costs time in long batches only, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.data.batching import pack
from mv_lightning.model import adapters, base, verdict
from mv_lightning.model.activation_checkpointing import stored_layers
from mv_lightning.schema import EncodedRows


@given(tokens=st.integers(1, 20_000), setting=st.one_of(st.booleans(), st.integers(1, 20_000)))
def test_only_long_batches_recompute(tokens: int, setting: bool | int) -> None:
    stored = stored_layers(setting, tokens, 32)
    if isinstance(setting, bool):
        assert stored == (0 if setting else 32)
    else:
        assert (
            stored == 32
            if tokens <= setting
            else stored * tokens <= 32 * setting < (stored + 1) * tokens
        )


def test_gradient_checkpointing_changes_nothing(
    tiny: torch.nn.Module, encoded: EncodedRows
) -> None:
    batch = pack(encoded, np.array([1, 4]), 2)
    model, gradients = tiny.get_base_model(), []
    for enabled in (False, True):
        tiny.zero_grad()
        if enabled:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        verdict.hidden_states(model, batch)[batch.verdict_B].square().mean().backward()
        gradients.append([p.grad.clone() for p in adapters.trained_parameters(tiny).values()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_the_same_when_it_is_recomputed(
    dropout: float, tiny_folder: Path, encoded: EncodedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generators' states are saved where there is dropout, and only there."""
    batch, results, states = pack(encoded, np.array([1, 4]), 2), [], []
    get_rng_state = torch.get_rng_state
    monkeypatch.setattr(torch, "get_rng_state", lambda: states.append(1) or get_rng_state())
    for recompute in (False, True):
        settings = base.BaseSettings(str(tiny_folder), gradient_checkpointing=recompute)
        model = base.load_base(settings, torch.float32, torch.device("cpu"))
        torch.manual_seed(0)
        adapted = adapters.attach(model, adapters.LoraSettings(r=32, dropout=dropout))
        states.clear()
        torch.manual_seed(1)
        verdict.hidden_states(model, batch)[batch.verdict_B].square().mean().backward()
        assert bool(states) == (recompute and dropout > 0)
        trained = adapters.trained_parameters(adapted).values()
        results.append([parameter.grad.clone() for parameter in trained])
    assert all(map(torch.equal, *results))
