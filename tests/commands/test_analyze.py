"""The analysis counts what is there, and the same command gives the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mv_lightning.cli import main
from mv_lightning.metrics import baselines
from tests.conftest import REAL_DATA, needs_real_data

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
SMALL = ["--data.splits.rows", "40", "--splits.test_rows", "20", "--splits.val_fraction", "0.2"]


def run(out: Path, source: str, *options: str) -> dict[str, Any]:
    main(["analyze", "--data.source", source, "--analyze.out", str(out), *SMALL, *options])
    result: dict[str, Any] = json.loads((out / "analysis.json").read_text())
    return result


def test_a_report_of_synthetic_rows(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--tokenizer", str(tiny_folder), "--splits.group_by_question", "true"]
    result = run(tmp_path, "synthetic:160", *options)
    assert result["counts"]["rows"] == 160 and result["true_share"] == 0.5
    assert list(result["lengths"]) == ["words", "tokens", "tokens of a row"]
    assert result["lengths"]["words"]["question"]["max"] <= 60
    shares = result["truncated_share"]["detailed"]
    assert shares["512"] >= shares["1024"] >= shares["2048"]
    # Grouped by question, nothing leaks, and lookup knows nothing.
    splits, baselines = result["splits"]["splits"], result["baselines"]
    assert [splits[name]["overlap"] for name in ("test", "val_1", "val_2", "val_3")] == [0] * 4
    assert baselines["majority"]["accuracy"] == baselines["lookup"]["accuracy"] == 0.5
    assert baselines["lookup where it knows"] == {"rows": 0, "accuracy": None, "interval": None}
    report = (tmp_path / "report.md").read_text()
    assert "| labelled True      | 50.0% |" in report and "Estimated on 160 rows" in report
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 3


def test_the_same_command_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tmp_path / name, "synthetic:160")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["analysis.json", "report.html", "report.md", "words.png"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_tokens_and_no_held_out_rows_are_said(tmp_path: Path) -> None:
    result = run(tmp_path, "synthetic:160", "--splits.test_rows", "0", "--splits.val_fraction", "0")
    assert result["truncated_share"] == {} and result["baselines"] == {}
    report = (tmp_path / "report.md").read_text()
    assert "--model.base.name" in report and "holds no rows out" in report


def test_without_scikit_learn_the_report_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "bag_of_words", lambda *_: None)
    assert run(tmp_path, "synthetic:160")["baselines"]["bag of words"] is None
    assert "mv-lightning[analyze]" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--splits.rows", "4000"], "Lower rows to at most"),
        (["--splits.rows", "many"], "splits.rows"),
        (["--tokenizer", "./none"], "no such folder"),
    ],
)
def test_a_mistake_ends_with_one_message(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(tmp_path, "synthetic:160", *options)
    assert (
        end.value.code == 2 and message in capsys.readouterr().err and not any(tmp_path.iterdir())
    )


@needs_real_data
def test_repeated_questions_leak_unless_they_are_grouped(tmp_path: Path) -> None:
    source = str(REAL_DATA / "gsm8k_solutions" / "labelled.jsonl")
    sizes = ["--splits.rows", "800", "--splits.test_rows", "400"]
    leaking = run(tmp_path / "rows", source, *sizes)
    grouped = run(tmp_path / "grouped", source, *sizes, "--splits.group_by_question", "true")
    assert leaking["splits"]["splits"]["test"]["overlap"] > 0.8
    assert grouped["splits"]["splits"]["test"]["overlap"] == 0
    assert (
        leaking["baselines"]["lookup"]["accuracy"]
        > 0.8
        > 0.55
        > grouped["baselines"]["lookup"]["accuracy"]
    )
    assert np.isclose(leaking["true_share"], 0.385, atol=0.001)
