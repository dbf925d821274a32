"""The table of `best-of-n` on rows whose outcome is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import write_predictions
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from tests.conftest import REAL_DATA, needs_real_data


def predicted(folder: Path, log_odds_N: np.ndarray) -> str:
    ids = list(map(str, range(len(log_odds_N))))
    write_predictions(RunFolder(folder), ids, dict(enumerate(log_odds_N.tolist())))
    return str(folder / "probabilities.csv")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Two questions with three solutions, one of them correct and outvoted; one with a single
    one."""
    rows = [
        ("a", "1", False),
        ("a", "1", False),
        ("a", "2", True),
        ("b", "3", True),
        ("b", "4", False),
        ("b", "4", False),
    ]
    rows.append(("c", "5", True))
    file = tmp_path / "rows.jsonl"
    keys = ("question", "answer", "is_correct")
    file.write_text(
        "".join(
            json.dumps({**dict(zip(keys, row, strict=True)), "solution": ""}) + "\n" for row in rows
        )
    )
    return str(file)


def test_a_perfect_verifier_is_the_oracle(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = predicted(tmp_path, np.array([-3.0, -2, 1, 2, -1, -4, 0]))
    main(["best-of-n", file, "--source", source])
    stored = json.loads((tmp_path / "best_of_n.json").read_text())
    assert (stored["questions"], stored["left_out"], list(stored["solve_rate"])) == (
        2,
        1,
        ["1", "2", "3"],
    )
    last = {policy: one["value"] for policy, one in stored["solve_rate"]["3"].items()}
    assert last == pytest.approx(
        {"random": 1 / 3, "majority": 0, "weighted": 1, "best": 1, "oracle": 1}
    )
    assert "100.0% (100.0%-100.0%)" in capsys.readouterr().out
    main(
        ["best-of-n", file, "--source", source, "--max-n", "1", "--out", str(tmp_path / "one.json")]
    )
    assert json.loads((tmp_path / "one.json").read_text())["questions"] == 3


def test_a_mistake_ends_with_one_message(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["best-of-n", predicted(tmp_path, np.zeros(7)), "--source", source, "--max-n", "4"])
    assert end.value.code == 2 and "from 1 to 3" in capsys.readouterr().err


@needs_real_data
def test_four_solutions_a_question(tmp_path: Path) -> None:
    """Labels seen through noise: between chance and the oracle, better with more solutions."""
    rows = str(REAL_DATA / "gsm8k_solutions" / "labelled.jsonl")
    labels_N = load_source(rows).labels_N
    assert labels_N is not None
    noisy_N = np.where(labels_N, 1.0, -1.0) + np.random.default_rng(0).normal(size=len(labels_N))
    main(["best-of-n", predicted(tmp_path, noisy_N), "--source", rows])
    stored = json.loads((tmp_path / "best_of_n.json").read_text())
    rates = [
        {policy: one["value"] for policy, one in row.items()}
        for row in stored["solve_rate"].values()
    ]
    assert (stored["questions"], len(rates)) == (928, 4)
    assert [row["random"] for row in rates] == pytest.approx([labels_N.mean()] * 4)
    assert rates[3]["random"] < rates[3]["majority"] < rates[3]["best"] < rates[3]["oracle"]
    assert rates[0]["best"] < rates[1]["best"] < rates[2]["best"] < rates[3]["best"]
