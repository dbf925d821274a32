"""Compiled norms and activations compute what transformers' own code computes, in every family."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM

from mv_lightning.model import attention, verdict
from mv_lightning.model.compilation import GatedMLP, compile_layers
from tests.model.test_families import CONFIGS, SIZES, batch, randomize

LAYERS = 5
"""More norms than the graphs that are expected."""


def random_model(values: dict[str, Any]) -> Any:
    attention.register()
    config = AutoConfig.for_model(**{**SIZES, **values, "num_hidden_layers": LAYERS})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    randomize(model.named_parameters())
    return model


def results(model: Any) -> list[torch.Tensor]:
    """Hidden states, and gradients of the first layer's matrices, which all layers are in."""
    hidden_TD = verdict.hidden_states(model, batch())
    hidden_TD.square().sum().backward()
    matrices = [p for p in model.base_model.layers[0].parameters() if p.dim() == 2]
    return [hidden_TD.detach(), *(matrix.grad for matrix in matrices)]


def check(values: dict[str, Any], backend: str) -> Any:
    plain = random_model(values)
    compiled = copy.deepcopy(plain)
    compile_layers(compiled, backend)
    for expected, got in zip(results(plain), results(compiled), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5 * expected.abs().max(), rtol=1e-4)
    return compiled


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family(name: str) -> None:
    """Graphs are shared by the layers: more than eight of a function, and PyTorch stops."""
    values = dict(CONFIGS[name])
    for per_layer in ("no_rope_layers", "max_window_layers", "use_sliding_window"):
        values.pop(per_layer, None)
    compiled = check(values, "aot_eager")
    has_gate = isinstance(compiled.base_model.layers[0].mlp, GatedMLP)
    assert has_gate == (name != "phi3")
    assert 1 + has_gate <= counters["stats"]["unique_graphs"] <= 6


@pytest.mark.slow
def test_the_compiler_that_is_used() -> None:
    """It calls a C++ compiler for each graph."""
    check({"model_type": "gemma2", "hidden_size": 64, "head_dim": 16}, "inductor")
