"""Random options with odd values: a sound result with status 0, or one message with status 2.

The examples are derandomized. Most are refused within a second; `-m slow` runs many more.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.cli import main
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT

DATA = {
    "data.source": ["", "synthetic:0", "synthetic:121", "no.csv", "/dev/null", "null", "empty.csv"],
    "data.phase": ["0", "1.5", "4"],
    "data.prompt": ["", "nope", "answer_only", "chat", "."],
    "data.max_length": ["0", "1", "300", "100000"],
    "data.batch_size": ["0", "-1", "two", "1000000"],
    "data.eval_tokens": ["0", "1", "1000000000"],
    "data.num_workers": ["-1", "x"],
    "data.splits.rows": ["0", "1", "2", "33", "1000000000"],
    "data.splits.val_fraction": ["-1", "0", "0.001", "1", "nan"],
    "data.splits.test_rows": ["-2", "0", "1", "2"],
    "data.splits.phases": ["0", "1"],
    "data.splits.seed": ["-1", "1180591620717411303424"],
}
MODEL = {
    "model.base.name": ["", ".", "/dev/null", "no-such-base", "null"],
    "model.base.quantization": ["none", "int8"],
    "model.base.gradient_checkpointing": ["-1", "0", "5", "x"],
    "model.init_from": ["", "previous", ".", "/dev/null"],
    "model.lora.r": ["0", "-1", "1", "x"],
    "model.lora.alpha": ["0", "1000000000"],
    "model.lora.dropout": ["-1", "0.999", "1", "nan"],
    "model.optim.lr": ["0", "-1", "nan", "inf", "1e10"],
    "model.optim.name": ["sgd", "adamw_torch"],
    "model.optim.schedule": ["cosine", "nope"],
    "model.optim.warmup_steps": ["-1", "1000000"],
    "model.prompt_loss_weight": ["-1", "1e9", "nan"],
    "model.pair_weight": ["-1", "0.5", "inf"],
    "model.label_smoothing": ["-0.1", "0.5", "1"],
}
TRAINER = {
    "seed_everything": ["-1", "1099511627776", "x", "0"],
    "trainer.max_steps": ["-2", "0", "x"],
    "trainer.max_epochs": ["-5", "0", "-1"],
    "trainer.max_time": ["x", "00:00:00:00"],
    "trainer.accumulate_grad_batches": ["0", "-1", "100"],
    "trainer.accelerator": ["gpu", "tpu", "x", "auto"],
    "trainer.devices": ["0", "-1", "x", "auto"],
    "trainer.precision": ["32-true", "16-mixed", "bf16-true", "nope"],
    "trainer.gradient_clip_val": ["-1", "nan", "null"],
    "trainer.limit_train_batches": ["-1", "0", "0.0001", "2"],
    "trainer.limit_val_batches": ["-1", "0", "0.0001", "1"],
    "trainer.fast_dev_run": ["true", "-1"],
    "trainer.logger": ["false", "[]", "x"],
    "trainer.callbacks": ["[]", "x"],
    "trainer.profiler": ["nope"],
    "trainer.strategy": ["x"],
    "trainer.barebones": ["true"],
    "trainer.overfit_batches": ["2"],
}
RUN = {
    "run.dir": ["/dev/null/x", "/proc/x"],
    "run.eval_every": ["0", "1000000000"],
    "run.save_every": ["0", "1"],
    "run.keep": ["0", "x"],
    "ckpt_path": ["", "x", ".", "/dev/null"],
    "no.such.option": ["1"],
}
PREDICT = {
    "predict.source": ["", "synthetic:4", "no.csv", "."],
    "predict.mode": ["x", "verdict"],
    "predict.calibrate": ["false", "x"],
    "predict.true_share": ["0", "0.4", "1", "2", "nan"],
    "predict.id_column": ["", "nope", "question"],
    "predict.rows_too_long": ["missing", "x"],
    "predict.sample_submission": ["", "no.csv", "/dev/null", "empty.csv"],
}
EXPORT = {
    "out": ["new", "", ".", "/dev/null/x"],
    "rows": ["-1", "0", "2", "x"],
    "max-flips": ["-1", "0", "nan", "1"],
    "source": ["", "synthetic:4", "no.csv"],
    "merged": ["true", "x"],
    "data.phase": ["2", "x"],
}
ANALYZE = {
    "out": ["new", "", "/dev/null/x"],
    "source": ["", "synthetic:60", "no.csv", "empty.csv"],
    "tokenizer": ["", "/dev/null", "no-such-base"],
    "splits.rows": ["0", "4", "x"],
    "splits.test_rows": ["0", "4", "-2"],
    "splits.val_fraction": ["0", "0.5", "2"],
}
ENSEMBLE = {
    "out": ["new", "", "/dev/null/x"],
    "labels": ["", "synthetic:4", "no.csv"],
    "fit-weights": ["", "no.csv", "empty.csv"],
    "val-labels": ["synthetic:4", ""],
}
BEST_OF_N = {
    "source": ["synthetic:4", "", "no.csv"],
    "max-n": ["-1", "0", "1", "9"],
    "fit-stack": ["", "no.csv", "run/phase1/val.csv"],
    "val-labels": ["synthetic:4", ""],
    "out": [""],
}
ESTIMATE = {"tokens": ["0", "-1", "7", "x"]}
VERIFY = {"steps": ["0", "x"], "kills": ["0", "12", "-1"]}
EVALUATION = {**DATA, **RUN, **PREDICT, "trainer.limit_val_batches": ["0", "1", "0.0001"]}
OPTIONS: Mapping[str, Mapping[str, list[str]]] = {
    "fit": {**DATA, **MODEL, **TRAINER, **RUN},
    "validate": EVALUATION,
    "test": EVALUATION,
    "predict": EVALUATION,
    "export": EXPORT,
    "analyze": ANALYZE,
    "ensemble": ENSEMBLE,
    "best-of-n": BEST_OF_N,
    "report": {"run.dir": ["", ".", "/dev/null"], "config": ["", "empty.csv", "no.yaml"]},
    "estimate": {**ESTIMATE, **MODEL, **DATA},
    "verify-resume": VERIFY,
}


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """A command, and one to three of its options."""
    command = draw(st.sampled_from(sorted(OPTIONS)))
    options = OPTIONS[command]
    names = draw(st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=3, unique=True))
    return command, {name: draw(st.sampled_from(options[name])) for name in names}


def valid_args(command: str, base: Path, run: Path) -> list[str]:
    """The arguments of a command that succeeds, before the odd options."""
    predictions = str(run / "probabilities.csv")
    if command in ("export", "report"):
        folder = run / "phase1" if command == "export" else run
        return [command, str(folder), *(["--out", "new"] if command == "export" else [])]
    if command == "analyze":
        return [
            command,
            "--source",
            "synthetic:60",
            "--splits.rows",
            "8",
            "--splits.test_rows",
            "4",
        ]
    if command == "ensemble":
        return [command, predictions, predictions, "--out", "new"]
    if command == "best-of-n":
        return [command, predictions, "--source", "synthetic:4"]
    args = [command, "--config", str(ROOT / "configs/phase1.yaml"), *tiny_options(base, run)]
    args += ["--model.base.gradient_checkpointing", "false", "--trainer.max_steps", "1"]
    return [*args, "--predict.source", "synthetic:4"]


def check_result(command: str, run: Path, printed: str) -> None:
    """Check what a successful command has written."""
    if command == "fit" and (run / "phase1/summary.json").is_file():
        summary = json.loads((run / "phase1/summary.json").read_text())
        assert summary["steps"] == summary["planned_steps"]
        weights = load_file(run / "phase1/adapter/adapter_model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())
    elif command == "fit":
        assert "nothing is saved" in printed or "stopped after step" in printed
    elif command == "predict":
        with (run / "submission.csv").open() as file:
            ids = [line[0] for line in csv.reader(file)][1:]
        rows = json.loads((run / "prediction.json").read_text())["rows"]
        assert len(ids) == len(set(ids)) == rows
    else:
        assert printed.strip()


def check_command_line(
    line: tuple[str, dict[str, str]], base: Path, trained: Path, folder: Path
) -> None:
    command, options = line
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "empty.csv").touch()
    run = folder / "run"
    if command != "fit":
        shutil.copytree(trained, run)
    args = valid_args(command, base, run) + [f"--{name}={value}" for name, value in options.items()]
    printed, errors = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main(args)
        except SystemExit as end:
            status = end.code
    assert status in (0, None, 2), (args, errors.getvalue())
    if status == 2:
        assert errors.getvalue().count("error: ") == 1, errors.getvalue()
        assert "Traceback" not in errors.getvalue()
    else:
        check_result(command, run, printed.getvalue())


@pytest.fixture(scope="module")
def trained(trained_phase: Path, tiny_folder: Path) -> Path:
    """The run of a finished phase, with a prediction of four rows."""
    run = trained_phase.parent
    if not RunFolder(run).probabilities.is_file():
        main(valid_args("predict", tiny_folder, run))
    return run


EVERYTHING: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "phases": [Phase.generate],  # each example takes seconds: shrinking would take minutes
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=15, **EVERYTHING)
@given(line=command_lines())
def test_a_command_line_ends_well_or_with_one_message(
    line: tuple[str, dict[str, str]], tiny_folder: Path, trained: Path, tmp_path: Path
) -> None:
    check_command_line(line, tiny_folder, trained, tmp_path / "work")


@pytest.mark.slow
@settings(max_examples=600, **EVERYTHING)
@given(line=command_lines())
def test_many_command_lines(
    line: tuple[str, dict[str, str]], tiny_folder: Path, trained: Path, tmp_path: Path
) -> None:
    check_command_line(line, tiny_folder, trained, tmp_path / "work")
