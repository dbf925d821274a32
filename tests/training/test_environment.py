"""The environment names the versions that a result may depend on."""

from __future__ import annotations

import torch

from mv_lightning.training.environment import environment


def test_versions_of_a_cpu_run() -> None:
    values = environment(torch.device("cpu"))
    assert values["device"].startswith("CPU, ") and values["torch"] == torch.__version__
    assert {"system", "python", "lightning", "transformers", "peft"} <= values.keys()
    assert "cuda" not in values
