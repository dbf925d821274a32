"""`export` compares its output with the verifier, and writes nothing if they differ too much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.cli import main
from mv_lightning.commands import export


def test_the_comparison_is_stored(exported: Path) -> None:
    stored = json.loads((exported / "export.json").read_text())
    assert (stored["format"], stored["rows"]) == (exported.name, 16)
    assert stored["rows_from"] == "held-out test rows"
    change = stored["log_odds_change"]
    assert stored["flips"] == 0 and 0 < change["mean"] <= change["max"] < 0.1
    assert stored["auroc"]["change"] == stored["auroc"]["after"] - stored["auroc"]["before"]


def test_other_rows_without_labels(
    trained_phase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "rows.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": str(n), "solution": "so"} for n in range(6)]
    source.write_text("\n".join(map(json.dumps, rows)))
    main(
        [
            "export",
            str(trained_phase),
            "--out",
            str(tmp_path / "out"),
            "--source",
            str(source),
            "--rows",
            "4",
        ]
    )
    assert "compared on 4 rows" in capsys.readouterr().out
    result = json.loads((tmp_path / "out/export.json").read_text())
    assert result["auroc"] is None and result["rows"] == 4


def test_too_many_flips_leave_nothing(
    trained_phase: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        export,
        "plain_log_odds",
        lambda form, folder, encoded: np.tile([-9.0, 9.0], len(encoded) // 2),
    )
    with pytest.raises(SystemExit):
        main(["export", str(trained_phase), "--out", str(tmp_path / "out")])
    assert (
        "verdicts differ in the export, more than --max-flips 0.02 allows"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rows", "0"], "at least one row to compare on"),
        (["--max-flips", "2"], "a share of flips from 0 to 1"),
        (["--out", "."], "is not an export"),
    ],
)
def test_what_is_refused(
    args: list[str], message: str, trained_phase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(trained_phase), "--out", "nowhere", *args])
    assert message in capsys.readouterr().err


def test_no_such_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "is not the folder of a finished phase" in capsys.readouterr().err


def test_a_phase_may_be_named_by_the_options_of_fit(
    trained_phase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {{phase: 1, batch_size: 2}}\nrun: {{dir: {trained_phase.parent}}}\n"
        "export: {rows: 3}\n"
    )
    main(["export", "--config", str(config), "--out", str(tmp_path / "out")])
    assert "compared on 3 rows" in capsys.readouterr().out
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
