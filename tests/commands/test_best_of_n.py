"""The table of `best-of-n` on rows whose outcome is known beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import write_predictions
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.best_of_n import POLICIES
from tests.conftest import REAL_DATA, needs_real_data


def predicted(folder: Path, log_odds_N: np.ndarray) -> str:
    ids = list(map(str, range(len(log_odds_N))))
    write_predictions(RunFolder(folder), ids, log_odds_N)
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


def test_rows_without_a_probability_are_left_out(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Question b has two solutions left, question c none."""
    file = predicted(tmp_path, np.array([-3.0, -2, 1, math.nan, -1, -4, math.nan]))
    main(["best-of-n", file, "--source", source, "--max-n", "3"])
    stored = json.loads((tmp_path / "best_of_n.json").read_text())
    assert (stored["missing_rows"], stored["questions"], stored["left_out"]) == (2, 1, 1)
    assert stored["solve_rate"]["3"]["best"]["value"] == 1
    assert "left out: 2 rows without a probability" in capsys.readouterr().out


def write_rows(path: Path, questions: int, solutions: int, seed: int) -> tuple[str, np.ndarray]:
    """Write solutions of which the right ones agree, and return the file and the labels."""
    rng = np.random.default_rng(seed)
    labels_N = rng.random(questions * solutions) > np.repeat(rng.random(questions), solutions)
    lines = []
    for row, label in enumerate(labels_N.tolist()):
        answer = "7.0" if label else str(rng.integers(10, 20))
        texts = {"question": f"{seed}, q{row // solutions}", "answer": answer, "solution": ""}
        lines.append(json.dumps({**texts, "is_correct": label}) + "\n")
    path.write_text("".join(lines))
    return str(path), labels_N


def test_a_stack_is_fitted_on_labelled_rows_beside_the_predicted_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log-odds hardly know anything, the votes do."""
    sources, files = {}, {}
    for seed, name in enumerate(("rows", "val")):
        sources[name], labels_N = write_rows(tmp_path / f"{name}.jsonl", 80, 4, seed)
        noise_N = 5 * np.random.default_rng(seed + 9).normal(size=len(labels_N))
        files[name] = predicted(tmp_path / name, np.where(labels_N, 1.0, -1.0) + noise_N)
    command = ["best-of-n", files["rows"], "--source", sources["rows"]]
    main([*command, "--fit-stack", files["val"], "--val-labels", sources["val"]])
    stored = json.loads((tmp_path / "rows" / "best_of_n.json").read_text())
    assert list(stored["solve_rate"]["4"]) == list(POLICIES)
    low, _ = stored["stack"]["stack_gain"]["interval"]
    assert stored["stack"]["weights"]["agreement_weight"] > 1 and low > 0.05
    assert "stack: verdict and set" in capsys.readouterr().out
    main(command)
    alone = json.loads((tmp_path / "rows" / "best_of_n.json").read_text())
    assert "stack" not in alone and "no_stack" not in alone
    del stored["solve_rate"]["4"]["stack"]
    assert alone["solve_rate"]["4"] == stored["solve_rate"]["4"]


def test_validation_rows_without_siblings_leave_the_stack_out(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = predicted(tmp_path, np.array([-3.0, -2, 1, 2, -1, -4, 0]))
    val, labels_N = write_rows(tmp_path / "val.jsonl", 20, 1, seed=0)
    fitted = ["--fit-stack", predicted(tmp_path / "val", 1.0 * labels_N), "--val-labels", val]
    main(["best-of-n", file, "--source", source, *fitted])
    stored = json.loads((tmp_path / "best_of_n.json").read_text())
    assert stored["no_stack"] == "no validation question has several solutions"
    assert "stack" not in stored and "stack" not in stored["solve_rate"]["3"]
    assert f"\nno stack: {stored['no_stack']}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-labels", "rows.jsonl"], "--val-labels names the rows of --fit-stack"),
        (["--fit-stack", "val.csv"], "does not state how probabilities.csv was calibrated"),
    ],
)
def test_options_of_the_stack_that_do_not_fit_are_refused(
    options: list[str],
    message: str,
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["best-of-n", predicted(tmp_path, np.zeros(7)), "--source", source, *options])
    assert end.value.code == 2 and message in capsys.readouterr().err


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
