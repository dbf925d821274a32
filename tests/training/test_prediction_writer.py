"""Nothing is published before every row has its prediction."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.schema import EncodedRows, Split
from mv_lightning.training.prediction_writer import PredictionWriter
from mv_lightning.training.settings import PredictSettings


@pytest.mark.parametrize("limit", [1.0, 1])
def test_lost_predictions_are_named(
    limit: float, encoded: EncodedRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the processes of a run see different folders."""
    line = json.dumps({"question": "?", "answer": "1", "solution": ""})
    (tmp_path / "rows.jsonl").write_text(f"{line}\n" * len(encoded))
    source = load_source(str(tmp_path / "rows.jsonl"), labelled=False)
    splits = {"predict": Split(encoded, source.question_ids_N)}
    trainer = SimpleNamespace(
        is_global_zero=True,
        global_rank=0,
        strategy=SimpleNamespace(barrier=lambda: None),
        datamodule=SimpleNamespace(predict_rows=source, splits=splits),
        limit_predict_batches=limit,
    )
    folder = RunFolder(tmp_path / "run")
    writer = PredictionWriter(folder, None, Calibration(), None, PredictSettings())
    writer.on_predict_start(trainer, None)  # type: ignore[arg-type]
    rows_B = torch.arange(2, len(encoded))
    outputs = (rows_B, torch.ones(len(rows_B)), [])
    writer.on_predict_batch_end(trainer, None, outputs, None, 0)  # type: ignore[arg-type]
    if limit == 1.0 and isinstance(limit, float):
        with pytest.raises(ValueError, match=r"of each of 16 rows, got none of 2 in .*: 0, 1\."):
            writer.on_predict_end(trainer, None)  # type: ignore[arg-type]
    else:
        writer.on_predict_end(trainer, None)  # type: ignore[arg-type]
        assert "14 of 16 rows are predicted and stored" in capsys.readouterr().out
    assert not folder.submission.exists() and not folder.probabilities.exists()
