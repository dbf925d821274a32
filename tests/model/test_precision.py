"""The dtype of each precision; what would lose small updates is refused."""

from __future__ import annotations

import pytest
import torch

from mv_lightning.model.precision import compute_dtype, supports_bf16


def test_half_precision_of_the_adapters_is_refused() -> None:
    assert compute_dtype("bf16-mixed") is torch.bfloat16
    assert compute_dtype("16-mixed") is torch.float16
    with pytest.raises(ValueError, match="lose small updates"):
        compute_dtype("bf16-true")


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_emulated_bf16_does_not_count(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert supports_bf16(torch.device("cuda", 0)) is expected
    assert supports_bf16(torch.device("cpu"))
