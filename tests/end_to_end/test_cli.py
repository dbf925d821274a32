"""The commands as a user types them, on a tiny model that is really quantised and really
trained."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.cli import main
from mv_lightning.data.adversarial import adversarial_source
from mv_lightning.data.columns import KIND_COLUMN
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan
from mv_lightning.model.adapter_files import METADATA_FILE
from mv_lightning.testing import run_command, tiny_options
from mv_lightning.training.cli import parse
from mv_lightning.training.module import VerdictModule
from mv_lightning.verifier import Verifier
from mv_lightning.versioning import write_versioned_json
from tests.adapter_metadata import adapter_metadata
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
PHASES = sorted(CONFIGS.glob("phase*.yaml"))
OVERLAYS = sorted(p for p in CONFIGS.glob("*.yaml") if p not in PHASES and p.stem != "predict")


def adapter(run: Path, phase: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"phase{phase}" / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in fresh processes: three chained phases and the prediction."""
    run = tmp_path_factory.mktemp("run")
    printed = run_command("phases", *tiny_options(tiny_folder, run))
    (run / "stdout.txt").write_text(printed)
    return run


def test_the_whole_run_ends_with_its_table(finished: Path) -> None:
    printed = (finished / "stdout.txt").read_text()
    assert (
        printed.count("$ python -m mv_lightning fit") == 3
        and "$ python -m mv_lightning predict" in printed
    )
    table = printed[printed.index("val AUROC") :]
    assert [f"phase {n}" in table for n in (1, 2, 3)] == [True] * 3
    assert "test split: accuracy" in table


def test_each_phase_starts_from_the_one_before(finished: Path) -> None:
    cards = [
        json.loads((finished / f"phase{n}/adapter/verifier.json").read_text()) for n in (1, 2, 3)
    ]
    # 24 training rows, 4 a step: 6 steps a phase (phase 1 would stop at 50).
    assert [card["steps"] for card in cards] == [6, 12, 18]
    first, second = adapter(finished, 1), adapter(finished, 2)
    assert first.keys() == second.keys() and any(
        not torch.equal(first[name], second[name]) for name in first
    )


def test_phases_never_share_rows(finished: Path) -> None:
    manifests = [json.loads((finished / f"phase{n}/manifest.json").read_text()) for n in (1, 2, 3)]
    assert manifests[0] == manifests[1] == manifests[2]


def test_the_submission_has_every_row_once_in_order(finished: Path) -> None:
    with (finished / "submission.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["ID", "is_correct"]
    assert [int(row[0]) for row in rows[1:]] == list(range(120))
    assert {row[1] for row in rows[1:]} <= {"True", "False"}
    with (finished / "probabilities.csv").open() as file:
        probabilities = list(csv.DictReader(file))
    assert [row[1] == "True" for row in rows[1:]] == [
        float(p["log_odds"]) > 0 for p in probabilities
    ]
    assert all(0 <= float(p["probability"]) <= 1 for p in probabilities)
    assert not list(finished.glob(".*tmp"))


def test_tensorboard_has_one_step_axis(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    axis = []
    for phase in (1, 2, 3):
        events = EventAccumulator(str(finished / "tensorboard" / f"phase{phase}"))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        assert tags >= {
            "train/loss", "train/acc", "train/lr", "train/grad_norm", "val/loss", "val/acc",
            "val/auroc", "speed/rows_per_s", "speed/tokens_per_s", "speed/tflops", "memory/peak_gb",
        }  # fmt: skip
        axis.append([event.step for event in events.Scalars("train/loss")])
    assert axis == [list(range(0, 6)), list(range(6, 12)), list(range(12, 18))]


def test_a_finished_phase_is_left_alone(
    finished: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "phase1/summary.json").read_bytes()
    main(["fit", "--config", str(PHASES[0]), *tiny_options(tiny_folder, finished)])
    assert "is finished" in capsys.readouterr().out
    assert (finished / "phase1/summary.json").read_bytes() == before


def test_a_chained_phase_has_the_weights_and_a_fresh_optimizer(
    finished: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def look(module: VerdictModule) -> None:
        seen["weights"] = {
            n: p.detach().clone() for n, p in module.adapted.named_parameters() if p.requires_grad
        }
        seen["state"] = len(module.trainer.optimizers[0].state)
        seen["step"] = module.trainer.global_step
        raise KeyboardInterrupt

    monkeypatch.setattr(VerdictModule, "on_train_start", look)
    options = [
        *tiny_options(tiny_folder, tmp_path),
        "--model.init_from",
        str(finished / "phase1" / "adapter"),
    ]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(CONFIGS / "phase2.yaml"), *options])
    assert seen["state"] == 0 and seen["step"] == 0
    for name, weight in adapter(finished, 1).items():
        assert torch.equal(seen["weights"][name.replace(".weight", ".default.weight")], weight), (
            name
        )


def check_adversarial(
    phase: Path, rows_N: np.ndarray, stored: dict[str, Any], printed: str
) -> None:
    """Compare what `test` found of rows that try to fool the verifier with the Verifier's own."""
    seed = SplitPlan().seed
    rows = adversarial_source(load_source("synthetic:120"), rows_N, limit=100, seed=seed)
    assert rows is not None
    verifier = Verifier.load(phase, device="cpu")
    verdicts_M = verifier.raw_log_odds(verifier.encode(rows.table)) > 0
    checks_M = np.array(rows.table[KIND_COLUMN])
    assert set(stored["checks"]) == set(checks_M.tolist())
    for check, share in stored["checks"].items():
        assert share["rows"] == np.count_nonzero(checks_M == check)
        assert share["value"] == verdicts_M[checks_M == check].mean()
        assert check in printed
    evaluated = read_evaluated(phase / "test.csv")
    wrong_N = ~evaluated.labels_N
    assert stored["ordinary"]["value"] == (evaluated.log_odds_N[wrong_N] > 0).mean()


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_of_a_finished_phase(
    command: str, finished: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            command,
            "--config",
            str(PHASES[2]),
            *tiny_options(tiny_folder, finished),
            "--model.init_from",
            "null",
        ]
    )
    printed = capsys.readouterr().out
    assert "auroc" in printed and "accuracy" in printed
    stage = {"validate": "val", "test": "test"}[command]
    result = json.loads((finished / "phase3/metrics.json").read_text())[stage]
    rows_N = read_evaluated(finished / f"phase3/{stage}.csv").rows_N
    questions = len(set(load_source("synthetic:120").question_ids_N[rows_N].tolist()))
    assert (result["resampled"], result["units"]) == ("questions", questions)
    if command == "test":
        check_adversarial(finished / "phase3", rows_N, result["adversarial"], printed)
    if command == "validate":
        expected = json.loads((finished / "phase3/summary.json").read_text())["val_loss"]
        stored = re.search(r"loss ([\d.]+)", printed)
        assert stored is not None and float(stored[1]) == pytest.approx(
            expected, rel=2e-3
        )  # bf16, another process


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.sorce", "x"], "sorce"),
        (["--data.batch_size", "two"], "batch_size"),
        (["--config", "configs/nothing.yaml"], "nothing.yaml"),
        (["--data.phase", "4"], "expected data.phase to be from 1 to 3"),
        (["--data.prompt", "nope"], "got neither"),
        (["--trainer.precision", "bf16-true"], "lose small updates"),
        (["--data.source", "./no.csv"], "no.csv"),
        (["--model.base.name", "./no"], "no such folder"),
        (["--model.init_from", "no/adapter"], "no adapter in"),
        (["--ckpt_path", "no.ckpt"], "no such file"),
        (["--model.lora.r", "0"], "r >= 1"),
    ],
)
def test_a_mistake_ends_with_one_message(
    options: list[str],
    message: str,
    tiny_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(PHASES[0]), *tiny_options(tiny_folder, tmp_path), *options])
    error = capfd.readouterr().err
    assert end.value.code == 2 and message in error and "Traceback" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_setting_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(PHASES[0]), "--run.dir", str(tmp_path)])
    assert end.value.code == 2 and "gpu" in capsys.readouterr().err.lower()


def test_no_such_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train"])
    assert "got 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda p: p.stem if p else "plain")
@pytest.mark.parametrize("phase", [*PHASES, CONFIGS / "predict.yaml"], ids=lambda p: p.stem)
def test_every_configuration_can_be_instantiated_without_weights(
    phase: Path, overlay: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(BaseException):
        """Everything is built, nothing is loaded."""

    def stop(*args: object, **kwargs: object) -> None:
        raise Reached

    for number in (1, 2, 3):
        metadata_file = tmp_path / f"phase{number}/adapter" / METADATA_FILE
        write_versioned_json(metadata_file, adapter_metadata())
    command = "predict" if phase.stem == "predict" else "fit"
    monkeypatch.setattr(pl.Trainer, command, stop)
    args = [command, "--config", str(phase), *(["--config", str(overlay)] if overlay else [])]
    with pytest.raises(Reached):
        main(
            [
                *args,
                "--trainer.accelerator",
                "cpu",
                "--trainer.precision",
                "bf16-mixed",
                "--run.dir",
                str(tmp_path),
            ]
        )


def test_the_defaults_are_the_reports_final_settings() -> None:
    settings = parse(["fit", "--config", str(CONFIGS / "phase2.yaml")])
    data, model, trainer = settings["data"], settings["model"], settings["trainer"]
    assert (model["lora"]["r"], model["lora"]["alpha"], model["lora"]["dropout"]) == (128, 128, 0)
    assert (data["batch_size"], trainer["accumulate_grad_batches"], data["max_length"]) == (
        2,
        4,
        2048,
    )
    optim = model["optim"]
    assert optim == {
        "name": "adamw_8bit",
        "lr": 1e-4,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup_steps": 10,
    }
    assert (
        data["splits"]["rows"],
        data["splits"]["val_fraction"],
        data["splits"]["test_rows"],
    ) == (20_000, 0.01, 1000)
    assert settings["run"]["save_every"] == 200 and settings["seed_everything"] == 3407
