"""Facts about a GPU are found by the name that PyTorch gives it."""

from __future__ import annotations

import pytest
import torch

from mv_lightning.model.gpus import peak_tflops


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA GeForce GT 710", None),
    ],
)
def test_peak_speed(name: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda")) == expected
    assert peak_tflops(torch.device("cpu")) is None
