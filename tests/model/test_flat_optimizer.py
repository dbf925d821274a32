"""One call for many parameters gives what bitsandbytes' own optimizer gives, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bitsandbytes.optim import AdamW8bit, PagedAdamW32bit
from bitsandbytes.optim.optimizer import Optimizer8bit

from mv_lightning.model import flat_optimizer
from mv_lightning.model.flat_optimizer import FlatAdamW
from mv_lightning.model.optim import OptimSettings, build_optimizer

SHAPES = [(64, 128), (16, 16), (96, 60), (4_096,), (4_095,), (100, 101), (128, 32)]
"""Multiples of 256 elements and others, and two that are too small for an 8-bit state."""
OWN = {"adamw_8bit": AdamW8bit, "paged_adamw_32bit": PagedAdamW32bit}
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers")


def parameters() -> list[torch.nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]


def groups(weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": weights[:3], "lr": 0.03, "weight_decay": 0.1},
        {"params": weights[3:], "lr": 0.01, "weight_decay": 0.0},
    ]


def train(optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
            for weight in group["params"]:
                weight.grad = torch.randn(weight.shape, generator=rng)
        optimizer.step()


def check_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, (dict, list)):
        assert len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            check_equal(one[key], other[key])
    else:
        assert one == other


@pytest.fixture(params=OWN)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(flat_optimizer, "BUFFER_ELEMENTS", 15_000)  # of two or three weights
    return str(request.param)


def flat(weights: Any, name: str) -> FlatAdamW:
    optimizer = build_optimizer(weights, OptimSettings(name=name))  # type: ignore[arg-type]
    assert isinstance(optimizer, FlatAdamW)
    return optimizer


def test_weights_and_checkpoints_are_those_of_bitsandbytes(name: str) -> None:
    expected, got = parameters(), parameters()
    reference, optimizer = OWN[name](groups(expected)), flat(groups(got), name)
    train(reference, range(4))
    train(optimizer, range(4))
    check_equal([w.data for w in expected], [w.data for w in got])
    check_equal(reference.state_dict(), optimizer.state_dict())
    assert [len(buffer.parameters) for buffer in optimizer._buffers] == [2, 1, 2, 1, 1]


def test_a_step_waits_once_or_not_at_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes' own optimizer waits for the device after each of the weights."""
    waits: list[object] = []
    monkeypatch.setattr("bitsandbytes.optim.optimizer.sync_gpu", waits.append)
    monkeypatch.setattr(flat_optimizer, "sync_gpu", waits.append)
    train(OWN[name](groups(parameters())), range(1))
    assert len(waits) == len(SHAPES) + (name == "paged_adamw_32bit")
    waits.clear()
    train(flat(groups(parameters()), name), range(1))
    assert len(waits) == (name == "paged_adamw_32bit")


@pytest.mark.parametrize("saved_by_bitsandbytes", [True, False])
def test_a_resumed_run_ends_as_an_uninterrupted_one(name: str, saved_by_bitsandbytes: bool) -> None:
    straight, first = parameters(), parameters()
    build = OWN[name] if saved_by_bitsandbytes else lambda groups: flat(groups, name)
    train(flat(groups(straight), name), range(6))
    interrupted = build(groups(first))
    train(interrupted, range(3))
    second = [torch.nn.Parameter(weight.detach().clone()) for weight in first]
    resumed = flat(groups(second), name)
    resumed.load_state_dict(interrupted.state_dict())
    train(resumed, range(3, 6))
    check_equal([w.data for w in straight], [w.data for w in second])


def test_parameters_that_were_moved_are_still_trained(name: str) -> None:
    straight, moved = parameters(), parameters()
    train(flat(groups(straight), name), range(4))
    optimizer = flat(groups(moved), name)
    train(optimizer, range(2))
    for weight in moved:
        weight.data = weight.data.clone()
    train(optimizer, range(2, 4))
    check_equal([w.data for w in straight], [w.data for w in moved])


def test_a_parameter_without_a_gradient_is_refused(name: str) -> None:
    weights = parameters()
    optimizer = flat(weights, name)
    weights[0].grad = torch.ones_like(weights[0])
    with pytest.raises(ValueError, match="gradient of every parameter"):
        optimizer.step()


def test_a_paged_state_is_paged_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bitsandbytes allocates on a GPU is marked, as there; the kernel must be given it."""
    allocate = Optimizer8bit.get_state_buffer
    prefetched: list[torch.Tensor] = []

    def paged(self: Any, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        buffer = allocate(self, p, dtype)
        buffer.is_paged = self.is_paged
        return buffer

    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", paged)
    monkeypatch.setattr("bitsandbytes.functional.prefetch_tensor", prefetched.append)
    weights = parameters()
    saved = flat(weights, "paged_adamw_32bit")
    train(saved, range(2))
    resumed = flat(weights, "paged_adamw_32bit")
    resumed.load_state_dict(saved.state_dict())
    # Lightning moves all that is in `state` to the GPU.
    assert not resumed.state
    prefetched.clear()
    train(resumed, range(2, 3))
    states = [tensor for tensor in prefetched if tensor.any()]
    assert len(states) == 2 * len(resumed._buffers) and all(tensor.is_paged for tensor in states)
    elements = sum(weight.numel() for weight in weights)
    assert sum(tensor.numel() for tensor in states) >= 2 * elements
