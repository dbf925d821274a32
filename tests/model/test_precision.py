"""The dtype of each precision; what would lose small updates is refused."""

from __future__ import annotations

import pytest
import torch

from mv_lightning.model.precision import compute_dtype


def test_half_precision_of_the_adapters_is_refused() -> None:
    assert compute_dtype("bf16-mixed") is torch.bfloat16
    assert compute_dtype("16-mixed") is torch.float16
    with pytest.raises(ValueError, match="lose small updates"):
        compute_dtype("bf16-true")
