"""The dtype of each precision; what would lose small updates is refused."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from mv_lightning.model.precision import compute_dtype, default_precision, supports_bf16

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:this CPU emulates")
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


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_without_bf16_computes_in_fp32(
    has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: has_bf16)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    assert default_precision(CPU) == expected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert compute_dtype("bf16-mixed", CPU) is torch.bfloat16
    assert [("emulates bf16" in str(warning.message)) for warning in caught] == [True] * (
        not has_bf16
    )


def test_a_gpu_that_is_not_here_is_taken_for_one_with_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_precision(torch.device("cuda")) == "bf16-mixed"


def test_emulated_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 and a V100 compute bf16 in fp32, many times slower."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match=r"got Tesla T4, which emulates it.*16-mixed"):
        compute_dtype("bf16-mixed", gpu)
    assert compute_dtype(default_precision(gpu), gpu) is torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert compute_dtype(default_precision(gpu), gpu) is torch.bfloat16
