"""The dtype of each precision; what would lose small updates is refused."""

from __future__ import annotations

import pytest
import torch

from mv_lightning.model.precision import compute_dtype, default_precision, supports_bf16

CPU = torch.device("cpu")


def test_half_precision_of_the_adapters_is_refused() -> None:
    assert compute_dtype("bf16-mixed", CPU) is torch.bfloat16
    assert compute_dtype("16-mixed", CPU) is torch.float16
    with pytest.raises(ValueError, match="lose small updates"):
        compute_dtype("bf16-true", CPU)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_emulated_bf16_does_not_count(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert supports_bf16(torch.device("cuda", 0)) is expected
    assert supports_bf16(torch.device("cpu"))


def test_emulated_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 and a V100 compute bf16 in fp32, many times slower."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match=r"got Tesla T4, which emulates it.*16-mixed"):
        compute_dtype("bf16-mixed", gpu)
    assert compute_dtype(default_precision(gpu), gpu) is torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert compute_dtype(default_precision(gpu), gpu) is torch.bfloat16
