"""`tune` with the tiny model: a diverging trial, the overlay, and a search that is continued."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mv_lightning.artifacts.layout import StudyFolder
from mv_lightning.cli import main
from mv_lightning.testing import fork_child, tiny_options
from mv_lightning.training.cli import parse
from tests.conftest import ROOT

SPACE = """
options: {seed_everything: 4, trainer.max_steps: 4, model.lora.alpha: 32}
space:
  model.optim.lr: {choices: [1.0e-4, 1.0e+37]}
  model.optim.warmup_steps: {low: 0, high: 10}
"""


@pytest.fixture
def tune(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., StudyFolder]:
    """The command, with children that start in milliseconds."""
    monkeypatch.setattr("mv_lightning.experiments.trial_run.run_child", fork_child)
    monkeypatch.setattr("mv_lightning.commands.tune.run_child", fork_child)
    (tmp_path / "space.yaml").write_text(SPACE)

    def command(*args: str) -> StudyFolder:
        options = tiny_options(tiny_folder, tmp_path)
        del options[options.index("--run.dir") : options.index("--run.dir") + 2]
        folder = tmp_path / "study"
        config = ["--config", str(ROOT / "configs/phase1.yaml")]
        space = str(tmp_path / "space.yaml")
        main(["tune", space, "--folder", str(folder), *config, *options, *args])
        return StudyFolder(folder)

    return command


def read(folder: StudyFolder) -> tuple[list[dict[str, str]], dict[str, Any]]:
    with folder.table.open() as file:
        return list(csv.DictReader(file)), json.loads(folder.summary.read_text())


def test_a_search_is_continued_and_its_best_settings_are_an_overlay(
    tune: Callable[..., StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tune("--trials", "1")
    table, summary = read(folder)
    assert summary["best"]["trial"] == summary["report"]["trial"] == 0
    assert float(table[0]["model.optim.lr"]) == 1e-4
    weights = folder.trial(0).phase(1).adapter / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    folder = tune("--trials", "3")
    assert weights.stat().st_mtime_ns == before, "a finished trial is not trained again"
    table, summary = read(folder)
    assert [row["trial"] for row in table] == list("012")
    for row in table:
        assert (row["state"] == "diverged") == (float(row["model.optim.lr"]) == 1e37)
    assert "diverged" in {row["state"] for row in table}
    losses = {int(row["trial"]): float(row["log_loss"]) for row in table if row["log_loss"]}
    best = min(losses, key=losses.__getitem__)
    assert summary["best"]["trial"] == best
    for name in ("best", "report"):
        assert summary[name]["metrics"]["test"]["rows"] == 16
    overlay = yaml.safe_load(folder.best.read_text())
    settings = parse(["fit", "--config", str(folder.best)])
    assert settings["model"]["optim"]["lr"] == overlay["model"]["optim"]["lr"]
    assert overlay["model"]["lora"]["alpha"] == settings["model"]["lora"]["alpha"] == 32
    assert overlay["model"]["optim"] == {
        name.rpartition(".")[2]: value for name, value in summary["best"]["params"].items()
    }
    assert folder.plot("history").is_file() and not list(folder.path.glob("trials/*/*/checkpoints"))
    assert "test AUROC" in capsys.readouterr().out


def test_what_is_refused(
    tune: Callable[..., StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    for args, message in (
        ((), "expected a budget above 0"),
        (("--trials", "2", "--data.splits.val_fraction", "0"), "val_fraction above 0"),
        (("--trials", "2", "--model.lora.rank", "8"), "model.lora.rank"),
    ):
        with pytest.raises(SystemExit):
            tune(*args)
        assert message in capsys.readouterr().err
