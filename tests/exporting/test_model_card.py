"""The model card shows code that works without this package, and states the facts of the export."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from mv_lightning import Verifier
from mv_lightning.artifacts.phase_results import load_rows, read_phase


def test_the_card_states_licence_splits_settings_and_metrics(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "Llama Community License" in card
    assert "| accuracy" in card and "| val_1" in card and "| model.lora.r" in card
    assert all((exported / name).is_file() for name in re.findall(r"\]\(([^)]+\.png)\)", card))


def test_the_metrics_are_in_the_metadata_of_the_card(exported: Path, trained_phase: Path) -> None:
    metadata = ModelCard.load(exported / "README.md").data
    assert metadata.base_model is None  # a folder of this machine
    assert metadata.library_name == ("peft" if exported.name == "adapter" else "transformers")
    stored = read_phase(trained_phase).metrics["val"]["metrics"]
    results = {result.metric_type: result.metric_value for result in metadata.eval_results}
    assert results["accuracy"] == stored["accuracy"]["value"]
    assert results["roc_auc"] == stored["auroc"]["value"]
    assert metadata.model_name == exported.name


def test_the_example_of_the_card(
    exported: Path, trained_phase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert "mv_lightning" not in example
    rows = (
        load_rows(read_phase(trained_phase))
        .table.select(range(5))
        .select_columns(["question", "answer", "solution"])
    )
    verifier = Verifier.load(trained_phase, device="cpu")
    monkeypatch.chdir(exported)
    error: dict[str, object] = {}
    exec(example, error)
    odds = [error["log_odds"](**row) for row in rows]  # type: ignore[operator]
    expected = verifier.raw_log_odds(verifier.encode(rows))
    if exported.name == "reward-model":
        expected /= verifier.calibration.temperature
    assert np.allclose(odds, expected, atol=0.1)  # bf16
