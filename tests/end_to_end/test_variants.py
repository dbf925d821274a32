"""Every way to train that is not the default one, under the real command: each ends well and
has trained something."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from mv_lightning import Verifier
from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import CALIBRATION_FILE, PhaseFolder
from mv_lightning.artifacts.predictions import read_predictions
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.experiments.resume_check import logged_values
from mv_lightning.model import adapter_files
from mv_lightning.model.linear_head import HEAD_FILE
from mv_lightning.reporting.results_table import results_table
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS
from mv_lightning.testing import tiny_options
from mv_lightning.training.checkpoint_files import checkpoints
from tests.conftest import ROOT

STEPS = 3
PROMPT = (
    "instruction: 'Judge.\n\n'\nbody: 'Q: {question}\n\nA: {answer}\n\n'\ncue: 'True or False:'\n"
)


def fit(tiny_folder: Path, run: Path, options: str) -> PhaseFolder:
    args = [
        *tiny_options(tiny_folder, run),
        "--trainer.max_steps",
        str(STEPS),
        *shlex.split(options),
    ]
    main(["fit", "--config", str(ROOT / "configs/phase1.yaml"), *args])
    return PhaseFolder(run, 1)


def summary(phase: PhaseFolder) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(phase.summary.read_text())
    return result


@pytest.mark.parametrize(
    "options",
    [
        "--model.optim.name paged_adamw_32bit",
        "--model.optim.name adamw_torch",
        "--model.optim.schedule cosine",
        "--model.lora.rslora true",
        "--model.lora.dropout 0.1",
        "--model.lora.loftq true",
        "--model.prompt_loss_weight 1 --model.label_smoothing 0.1",
        "--data.splits.balance false",
        "--data.splits.group_by_question true --data.splits.phases 1",
        "--data.prompt prompt.yaml",
    ],
)
def test_it_trains(
    options: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompt.yaml").write_text(PROMPT)
    phase = fit(tiny_folder, tmp_path, options)
    stored = summary(phase)
    assert (
        stored["steps"] == STEPS
        and stored["rows"] == 4 * STEPS
        and math.isfinite(stored["val_loss"])
    )
    weights = load_file(phase.adapter / adapter_files.WEIGHTS)
    # Fresh adapters have second matrices of zeros (LoftQ's, compared below, do not).
    assert all(weight.any() for name, weight in weights.items() if "lora_B" in name)


def test_padding_costs_tokens_and_changes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    phases = {
        mode: fit(
            tiny_folder, tmp_path / mode, f"--data.packing {mode} --trainer.precision 32-true"
        )
        for mode in ("clean", "none", "contaminated")
    }
    losses = {mode: list(logged_values(phases[mode], "train/loss").values()) for mode in phases}
    odds = {mode: read_evaluated(phases[mode].evaluated_rows("val")).log_odds_N for mode in phases}
    assert losses["none"] == pytest.approx(losses["clean"], rel=1e-5)
    assert odds["none"] == pytest.approx(odds["clean"], rel=1e-3, abs=1e-3)
    assert losses["contaminated"] != pytest.approx(losses["clean"], rel=2e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warm_up_and_schedule_reach_the_curve(
    schedule: str, tiny_folder: Path, tmp_path: Path
) -> None:
    options = (
        f"--model.optim.schedule {schedule} --model.optim.warmup_steps 2 --model.optim.lr 1e-3"
    )
    curve = logged_values(
        fit(tiny_folder, tmp_path, f"{options} --trainer.max_steps 6"), "train/lr"
    )
    falling = [
        (1 + math.cos(math.pi * i / 4)) / 2 if schedule == "cosine" else 1 - i / 4 for i in range(4)
    ]
    assert list(curve) == [str(step) for step in range(6)]
    assert list(curve.values()) == pytest.approx(
        [1e-3 * share for share in (0, 0.5, *falling)], rel=1e-5
    )


def test_without_validation_rows_nothing_is_validated(tiny_folder: Path, tmp_path: Path) -> None:
    phase = fit(tiny_folder, tmp_path, "--data.splits.val_fraction 0")
    stored = summary(phase)
    assert stored["validation_rows"] == stored["best_step"] == 0 and "val_loss" not in stored
    assert not any(
        path.exists()
        for path in (phase.best, phase.adapter / CALIBRATION_FILE, phase.path / "val.csv")
    )
    assert not logged_values(phase, "val/loss")
    (line,) = (line for line in results_table(tmp_path).splitlines() if line.startswith("phase 1"))
    assert line.split()[-3:] == ["-"] * 3


def test_validation_rows_of_one_class_leave_metrics_undefined(
    tiny_folder: Path, tmp_path: Path
) -> None:
    source = load_source("synthetic:120")
    assert source.labels_N is not None
    columns = source.table.select_columns(list(TEXT_COLUMNS))
    rows = [
        {**row, LABEL_COLUMN: place != 1} for place, row in enumerate(columns)
    ]  # a single False
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    phase = fit(
        tiny_folder,
        tmp_path,
        f"--data.source {tmp_path / 'rows.jsonl'} --data.splits.balance false "
        "--data.splits.balance_test false",
    )
    assert read_evaluated(phase.evaluated_rows("val")).labels_N.all()
    stored = summary(phase)
    assert math.isfinite(stored["val_loss"]) and stored["val_auroc"] is None
    assert phase.best.is_dir() and not list(phase.path.glob(f"*/{CALIBRATION_FILE}"))
    assert "-" in results_table(tmp_path).splitlines()[2].split()


def test_loftq_is_not_run_for_weights_that_a_checkpoint_replaces(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--model.lora.loftq true --run.save_every 1"
    phase = fit(tiny_folder, tmp_path, options)
    weights = (phase.adapter / adapter_files.WEIGHTS).read_bytes()
    phase.summary.unlink()
    checkpoints(phase.checkpoints)[0].unlink()
    monkeypatch.setattr("mv_lightning.model.loftq.initialize_loftq", None)
    fit(tiny_folder, tmp_path, options)
    assert (phase.adapter / adapter_files.WEIGHTS).read_bytes() == weights


def test_a_linear_head_is_saved_resumed_and_read(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interrupted run ends with the same bits; predict and the Verifier agree."""
    options = "--model.head linear --run.save_every 1"
    phase = fit(tiny_folder, tmp_path, options)
    files = [phase.adapter / adapter_files.WEIGHTS, phase.adapter / HEAD_FILE]
    before = [file.read_bytes() for file in files]
    assert load_file(files[1])["weight"].any()
    phase.summary.unlink()
    checkpoints(phase.checkpoints)[0].unlink()
    fit(tiny_folder, tmp_path, options)
    assert [file.read_bytes() for file in files] == before
    main(["predict", "--config", str(phase.config), "--predict.source", "synthetic:12"])
    predicted = read_predictions(tmp_path / "probabilities.csv").log_odds_N
    rows = load_source("synthetic:12", split="test").table
    log_odds = Verifier.load(phase.path, device="cpu").log_odds(rows)
    assert np.array_equal(predicted, log_odds) and len(set(log_odds.tolist())) > 6
    with pytest.raises(SystemExit):
        main(["export", str(phase.path), "--out", str(tmp_path / "exported")])
    assert "model.head=linear" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_an_adapter_of_summaries_is_read_with_them(
    tiny_folder: Path, tiny_summarizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interrupted run ends with the same bits; predict and the Verifier agree."""
    options = (
        f"--data.summarize.model {tiny_summarizer} --data.summarize.above_tokens 60 "
        "--data.summarize.max_length 12 --run.save_every 1"
    )
    phase = fit(tiny_folder, tmp_path, options)
    counts = summary(phase)["summaries"]
    assert 0 < counts["rows"] <= 24 and counts["tokens_after"] < counts["tokens_before"]
    weights = phase.adapter / adapter_files.WEIGHTS
    before = weights.read_bytes()
    phase.summary.unlink()
    checkpoints(phase.checkpoints)[0].unlink()
    fit(tiny_folder, tmp_path, options)
    assert weights.read_bytes() == before and summary(phase)["summaries"] == counts
    main(["predict", "--config", str(phase.config), "--predict.source", "synthetic:12"])
    predicted = read_predictions(tmp_path / "probabilities.csv").log_odds_N
    rows = load_source("synthetic:12", split="test").table
    assert np.array_equal(predicted, Verifier.load(phase.path, device="cpu").log_odds(rows))
    with pytest.raises(SystemExit):
        main(["export", str(phase.path), "--out", str(tmp_path / "exported")])
    assert "data.summarize" in capsys.readouterr().err
