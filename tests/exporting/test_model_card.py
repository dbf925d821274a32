"""The model card shows code that works without this package, and states the facts of the export."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mv_lightning import Verifier
from mv_lightning.artifacts.phase_results import load_rows, read_phase


def test_the_card_states_licence_splits_settings_and_metrics(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nbase_model:") and "Llama Community License" in card
    assert "| accuracy" in card and "| val_1" in card and "| model.lora.r" in card
    assert all((exported / name).is_file() for name in re.findall(r"\]\(([^)]+\.png)\)", card))


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
    assert np.allclose(odds, verifier.raw_log_odds(verifier.encode(rows)), atol=0.1)  # bf16
