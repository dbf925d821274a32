"""Optimizers are the real ones; schedules rise, fall and end where they should."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from mv_lightning.model.optim import (
    OptimSettings,
    build_optimizer,
    build_schedule,
    future_state_bytes,
)


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_torch", "paged_adamw_32bit"])
@pytest.mark.filterwarnings("ignore")
def test_each_optimizer_learns(name: str) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = build_optimizer([weight], OptimSettings(name=name, lr=0.05))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = weight.square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_state_is_really_8_bit() -> None:
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = build_optimizer([weight], OptimSettings())
    weight.sum().backward()
    optimizer.step()
    (state,) = optimizer.state_dict()["state"].values()
    assert [x.dtype for x in tree_leaves(state) if isinstance(x, torch.Tensor)].count(
        torch.uint8
    ) == 2


@pytest.mark.parametrize(("kind", "middle"), [("linear", 0.5), ("cosine", 0.5)])
def test_schedule(kind: str, middle: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(
        optimizer, OptimSettings(schedule=kind, warmup_steps=10), total_steps=110
    )
    rates = []
    for _ in range(111):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0 and rates[5] == pytest.approx(0.5) and rates[10] == 1.0
    assert rates[60] == pytest.approx(middle) and rates[110] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="lr=0"):
        OptimSettings(lr=0)


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_torch"])
def test_the_first_step_allocates_the_state_that_was_announced(name: str) -> None:
    weights = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((64, 128), (16, 16))]
    settings = OptimSettings(name=name)
    optimizer = build_optimizer(weights, settings)
    announced = future_state_bytes(optimizer, settings)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    leaves, _ = tree_flatten_with_path(optimizer.state_dict()["state"])
    tensors = [
        leaf
        for path, leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.dim() and "qmap" not in keystr(path)
    ]
    assert announced == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert future_state_bytes(optimizer, settings) == 0
