"""`estimate` needs the base model's config only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mv_lightning.cli import main
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT


def estimate(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    main(["estimate", "--config", str(ROOT / "configs/phase1.yaml"), *options])
    return capsys.readouterr().out


def test_no_weights_are_needed(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    printed = estimate(capsys, *tiny_options(tmp_path, tmp_path / "run"))
    assert "2 rows, 4,096 packed tokens" in printed and not (tmp_path / "run").exists()
    *parts, peak = map(float, re.findall(r"\| +(\d+\.\d\d) \|", printed[: printed.index("| GPU")]))
    assert len(parts) == 13 and sum(parts) == pytest.approx(peak, abs=0.07)
    assert re.search(r"\| H100 +\| +85.0 \| +yes \| +false \|", printed)


def test_tokens_may_be_given(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = estimate(capsys, *tiny_options(tiny_folder, tmp_path), "--tokens", "1000000000")
    assert re.search(r"\| T4 +\| +15.8 \| +no \| +too large \|", printed)


def test_the_optimizer_that_is_asked_for_is_counted(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, bytes_each in (("adamw_8bit", "2.031"), ("adamw_torch", "8.000")):
        printed = estimate(capsys, *tiny_options(tiny_folder, tmp_path), "--model.optim.name", name)
        assert re.search(rf"\| state of {name} +\| +0.00 \| +[\d,]+ x {bytes_each} \|", printed)


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        (["--trainer.devices", "1"], False),
        (["--trainer.devices", "[3]"], False),
        (["--trainer.devices", "2"], True),
        (["--trainer.devices", "[0, 1]"], True),
        (["--trainer.strategy", "ddp"], True),
        (["--trainer.num_nodes", "2"], True),
    ],
)
def test_the_buckets_of_several_processes_are_counted(
    options: list[str],
    counted: bool,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = estimate(capsys, *tiny_options(tiny_folder, tmp_path), *options)
    assert ("buckets of DDP" in printed) == counted


def test_a_linear_head_is_counted(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {}
    for head in ("verdict", "linear"):
        printed = estimate(capsys, *tiny_options(tiny_folder, tmp_path), "--model.head", head)
        (number,) = re.findall(r"([\d,]+) trained parameters", printed)
        trained[head] = int(number.replace(",", ""))
    assert trained["linear"] == trained["verdict"] + 128


@pytest.mark.parametrize("tokens", ["0", "-5"])
def test_tokens_that_cannot_be_are_refused(
    tokens: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        estimate(capsys, *tiny_options(tiny_folder, tmp_path), "--tokens", tokens)
    assert end.value.code == 2 and "1 or more" in capsys.readouterr().err


def test_a_missing_base_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        estimate(
            capsys, "--model.base.name", str(tmp_path / "nowhere"), "--trainer.accelerator", "cpu"
        )
    assert end.value.code == 2 and "no such folder" in capsys.readouterr().err


def test_no_tokens_at_all_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        estimate(
            capsys, *tiny_options(tmp_path, tmp_path), "--model.base.gradient_checkpointing", "0"
        )
    assert end.value.code == 2 and "positive number of packed tokens" in capsys.readouterr().err
