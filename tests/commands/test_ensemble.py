"""An ensemble is the average of its members, and its gain is measured in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mv_lightning.artifacts.evaluations import save_report
from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.artifacts.predictions import read_predictions, write_predictions
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.best_of_n import POLICIES
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.evaluation import EvalReport
from mv_lightning.metrics.scores import score
from mv_lightning.schema import EvalOutputs
from mv_lightning.versioning import write_versioned_json

ROWS = 400
SOURCE = f"synthetic:{ROWS}"
NOISES = (2.0, 2.5, 9.0)


@pytest.fixture(scope="module")
def labels_N() -> np.ndarray:
    labels = load_source(SOURCE, split="test").labels_N
    assert labels is not None
    return labels


def leave_prediction(folder: Path, odds_N: np.ndarray) -> None:
    ids = list(map(str, range(len(odds_N))))
    write_predictions(RunFolder(folder), ids, odds_N)


def read_log_odds(file: Path) -> np.ndarray:
    return read_predictions(file).log_odds_N


@pytest.fixture
def files(labels_N: np.ndarray, tmp_path: Path) -> dict[str, list[str]]:
    """Three members with independent errors, the last one useless, on two sets of rows."""
    rng = np.random.default_rng(0)
    made: dict[str, list[str]] = {"rows": [], "val": []}
    for place, noise in enumerate(NOISES):
        for name, paths in made.items():
            odds_N = np.where(labels_N, 1.0, -1.0) + noise * rng.normal(size=ROWS)
            leave_prediction(tmp_path / f"{name}{place}", odds_N)
            paths.append(str(tmp_path / f"{name}{place}" / "probabilities.csv"))
    return made


def summary(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "ensemble.json").read_text())
    return result


def test_the_mean_of_the_log_odds_is_written(files: dict[str, list[str]], tmp_path: Path) -> None:
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "out")])
    mean_N = np.mean([read_log_odds(Path(file)) for file in files["rows"]], axis=0)
    assert read_log_odds(tmp_path / "out" / "probabilities.csv") == pytest.approx(mean_N)
    verdicts = [
        line.split(",")[1] == "True"
        for line in (tmp_path / "out" / "submission.csv").read_text().splitlines()[1:]
    ]
    assert verdicts == (mean_N > 0).tolist()
    assert "gain" not in summary(tmp_path / "out")


def test_weights_and_temperatures_come_from_validation(
    files: dict[str, list[str]],
    labels_N: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted = ["--fit-weights", *files["val"], "--val-labels", SOURCE]
    for out in ("a", "b"):
        main(
            ["ensemble", *files["rows"], "--out", str(tmp_path / out), "--labels", SOURCE, *fitted]
        )
    stored = summary(tmp_path / "a")
    first, _, noise = stored["members"]
    assert sum(one["weight"] for one in stored["members"]) == pytest.approx(1)
    # They err independently, so together they are as confident as their sum. The temperature
    # silences the useless one.
    assert noise["temperature"] > 5 * first["temperature"] > 5 and stored["temperature"] < 0.5
    mixed_N = read_log_odds(tmp_path / "a" / "probabilities.csv")
    right_N, best_N = (
        (odds_N > 0) == labels_N
        for odds_N in (mixed_N, read_log_odds(Path(files["rows"][stored["best"]])))
    )
    assert (
        stored["gain"] == pytest.approx(right_N.mean() - best_N.mean(), abs=1e-12)
        and stored["gain"] > 0
    )
    assert stored["gain_interval"][0] < stored["gain"] < stored["gain_interval"][1]
    assert stored["ensemble"]["metrics"]["accuracy"]["value"] == pytest.approx(right_N.mean())
    assert f"{100 * stored['gain']:+.2f} points" in capsys.readouterr().out
    for file in ("ensemble.json", "probabilities.csv", "submission.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def leave_phase(folder: Path, labels_N: np.ndarray, calibration: Calibration) -> str:
    """Write what a phase leaves of rows whose calibrated log-odds `folder` has."""
    raw_N = calibration.temperature * read_log_odds(folder / "probabilities.csv")
    rows_N = np.arange(len(labels_N)) + 7
    evaluation = EvalOutputs(rows_N, labels_N, raw_N, losses_N=np.zeros(len(labels_N)))
    phase = PhaseFolder(folder, 1)
    save_report(
        phase,
        "val",
        EvalReport(
            evaluation,
            split_rows=len(labels_N),
            overall=score(labels_N, raw_N, resamples=2),
            slices={"tokens": {}},
            ids=[f"q{row}" for row in rows_N],
        ),
    )
    return str(phase.evaluated_rows("val"))


def leave_calibration(folder: Path, calibration: Calibration, **other: object) -> None:
    write_versioned_json(
        folder / "prediction.json", {"calibration": calibration.to_json(), **other}
    )


def test_the_validation_rows_of_phases_need_no_labels_beside_them(
    files: dict[str, list[str]], labels_N: np.ndarray, tmp_path: Path
) -> None:
    """Phases store raw log-odds, `predict` calibrated ones: the weights are of a common scale."""
    phases = []
    for place, temperature in enumerate((0.5, 4.0, 1.0)):
        phases.append(leave_phase(tmp_path / f"val{place}", labels_N, Calibration(temperature)))
        leave_calibration(tmp_path / f"rows{place}", Calibration(temperature))
    fitted = ["--labels", SOURCE, "--fit-weights", *phases]
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "a"), *fitted])
    # Only the stack needs the source of the phases, which is not here.
    assert "is not the folder of a finished phase" in summary(tmp_path / "a")["no_stack"]
    calibrated = ["--fit-weights", *files["val"], "--val-labels", SOURCE]
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "b"), *calibrated])
    one, other = (
        read_log_odds(tmp_path / "a" / "probabilities.csv"),
        read_log_odds(tmp_path / "b" / "probabilities.csv"),
    )
    assert one == pytest.approx(other, rel=1e-6)


def test_phases_of_other_rows_or_scales_are_refused(
    files: dict[str, list[str]],
    labels_N: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [tmp_path / "val0", tmp_path / "val1"]
    phases = [leave_phase(folder, labels_N, Calibration()) for folder in folders]
    command = [
        "ensemble",
        *files["rows"][:2],
        "--out",
        str(tmp_path / "out"),
        "--fit-weights",
        *phases,
    ]

    def refused() -> str:
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 2 and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "prediction.json does not state how probabilities.csv was calibrated" in refused()
    leave_calibration(tmp_path / "rows0", Calibration())
    leave_calibration(tmp_path / "rows1", Calibration(prior=(0.5, 0.4)))
    assert "was predicted with predict.true_share" in refused()
    leave_calibration(tmp_path / "rows1", Calibration(), predict_mode="generate")
    assert "was predicted with predict.mode=generate" in refused()
    leave_calibration(tmp_path / "rows1", Calibration(), predict_mode="verdict")
    leave_phase(folders[1], ~labels_N, Calibration())
    assert "has other rows or labels than" in refused()


def test_the_gain_is_over_the_member_that_validated_best(
    files: dict[str, list[str]], labels_N: np.ndarray, tmp_path: Path
) -> None:
    """Not over the member that is best on the rows to score, which is not known beforehand."""
    files["val"].reverse()  # the useless member has the best validation rows
    fitted = ["--fit-weights", *files["val"], "--val-labels", SOURCE]
    for out, options in (("fitted", fitted), ("plain", [])):
        main(
            ["ensemble", *files["rows"], "--out", str(tmp_path / out), "--labels", SOURCE, *options]
        )
    assert (summary(tmp_path / "fitted")["best"], summary(tmp_path / "fitted")["best_on"]) == (
        2,
        "validation rows",
    )
    assert (
        summary(tmp_path / "plain")["best"] != 2
        and summary(tmp_path / "plain")["best_on"] == "these rows"
    )


@pytest.mark.parametrize("true", [0, 9, ROWS - 9, ROWS])
def test_too_few_validation_rows_of_a_class_are_refused(
    true: int, files: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phases = [
        leave_phase(tmp_path / f"val{place}", np.arange(ROWS) < true, Calibration())
        for place in range(2)
    ]
    for place in range(2):
        leave_calibration(tmp_path / f"rows{place}", Calibration())
    with pytest.raises(SystemExit) as end:
        main(
            [
                "ensemble",
                *files["rows"][:2],
                "--out",
                str(tmp_path / "out"),
                "--fit-weights",
                *phases,
            ]
        )
    error = capsys.readouterr().err
    assert (
        end.value.code == 2
        and f"of each class to fit weights on, got {true} True and {ROWS - true} False." in error
    )
    assert "leave out --fit-weights" in error and not (tmp_path / "out").exists()


def test_questions_that_repeat_widen_the_interval_of_the_gain(
    files: dict[str, list[str]], labels_N: np.ndarray, tmp_path: Path
) -> None:
    """The same rows in pairs of one question each: what was 800 rows is 400 questions."""
    columns = load_source(SOURCE, split="test").table
    with (tmp_path / "rows.jsonl").open("w") as lines:
        for row, label in zip(columns, labels_N.tolist(), strict=True):
            texts = {name: row[name] for name in ("question", "answer", "solution")}
            lines.write(2 * (json.dumps({**texts, "is_correct": label}) + "\n"))
    twice = []
    for place, file in enumerate(files["rows"]):
        odds_N = np.repeat(read_log_odds(Path(file)), 2)
        leave_prediction(tmp_path / f"twice{place}", odds_N)
        twice.append(str(tmp_path / f"twice{place}" / "probabilities.csv"))
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "once"), "--labels", SOURCE])
    main(
        [
            "ensemble",
            *twice,
            "--out",
            str(tmp_path / "out"),
            "--labels",
            str(tmp_path / "rows.jsonl"),
        ]
    )
    once, both = summary(tmp_path / "once"), summary(tmp_path / "out")
    assert both["gain_interval"] == pytest.approx(once["gain_interval"], abs=1e-12)
    assert (
        both["ensemble"]["units"] == once["ensemble"]["units"]
        and both["ensemble"]["resampled"] == "questions"
    )


def test_members_are_joined_by_id_not_by_position(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    """A member whose file was sorted otherwise, with IDs that another program spelled 7.0."""
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "a"), "--labels", SOURCE])
    path = Path(files["rows"][1])
    head, *lines = path.read_text().splitlines()
    respelled = [line.replace(",", ".0,", 1) for line in reversed(lines)]
    path.write_text("\n".join([head, *respelled]) + "\n")
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "b"), "--labels", SOURCE])
    for file in ("submission.csv", "probabilities.csv", "ensemble.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_row_that_a_member_has_no_score_of_is_missing_in_the_ensemble(
    files: dict[str, list[str]],
    labels_N: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In validation it is left out. The others are averaged and scored as without it."""
    for name, place, row in (("rows", 1, 3), ("rows", 0, 5), ("val", 0, 8)):
        odds_N = read_log_odds(Path(files[name][place]))
        odds_N[row] = np.nan
        leave_prediction(tmp_path / f"{name}{place}", odds_N)
    fitted = ["--fit-weights", *files["val"], "--val-labels", SOURCE]
    out = tmp_path / "out"
    main(["ensemble", *files["rows"], "--out", str(out), "--labels", SOURCE, *fitted])
    mixed_N = read_log_odds(out / "probabilities.csv")
    assert np.flatnonzero(np.isnan(mixed_N)).tolist() == [3, 5]
    assert "3,False\n4," in (out / "submission.csv").read_text()
    kept_N = ~np.isnan(mixed_N)
    scores = summary(out)["ensemble"]
    accuracy = np.mean((mixed_N > 0)[kept_N] == labels_N[kept_N])
    assert scores["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert (scores["rows"], summary(out)["missing_rows"]) == (ROWS - 2, 2)
    assert "2 rows have no probability of some member" in capsys.readouterr().out
    leave_prediction(tmp_path / "rows0", np.full(ROWS, np.nan))
    with pytest.raises(SystemExit):
        main(["ensemble", *files["rows"], "--out", str(tmp_path / "none")])
    assert "expected rows that have a probability of every member" in capsys.readouterr().err


def test_the_stack_of_the_ensemble_is_measured_where_questions_repeat(
    files: dict[str, list[str]], labels_N: np.ndarray, tmp_path: Path
) -> None:
    """Four neighbours are solutions of one question; the right ones among them agree."""

    def write(name: str, questions: list[str]) -> str:
        lines = []
        for row, label in enumerate(labels_N.tolist()):
            texts = {"question": questions[row], "answer": "$1" if label else str(row + 2)}
            lines.append(json.dumps({**texts, "solution": "", "is_correct": label}) + "\n")
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        return str(tmp_path / f"{name}.jsonl")

    rows = write("rows", [f"q{row // 4}" for row in range(ROWS)])
    others = write("others", [f"r{row // 4}" for row in range(ROWS)])
    fitted = ["--fit-weights", *files["val"], "--val-labels", others]
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "a"), "--labels", rows, *fitted])
    stored = summary(tmp_path / "a")
    accuracies = {}
    for name, metrics in stored["solutions"]["stack"]["predictors"].items():
        accuracies[name] = metrics["accuracy"]["value"]
    assert accuracies["verdict"] == stored["ensemble"]["metrics"]["accuracy"]["value"]
    assert accuracies["stack"] > accuracies["verdict"] + 0.02
    assert list(stored["solutions"]["solve_rate"]["4"]) == list(POLICIES)
    # The submission holds verdicts on single solutions all the same.
    written = (tmp_path / "a" / "submission.csv").read_text().splitlines()[1:]
    right_N = np.array([line.endswith("True") for line in written]) == labels_N
    assert right_N.mean() == pytest.approx(accuracies["verdict"])
    plain = [*files["rows"], "--out", str(tmp_path / "b"), "--labels", rows]
    main(["ensemble", *plain, *fitted[:-1], write("alone", list(map(str, range(ROWS))))])
    assert summary(tmp_path / "b")["no_stack"] == "no validation question has several solutions"
    main(["ensemble", *plain, *fitted[:-1], rows])
    assert "100 of 100 predicted questions are among" in summary(tmp_path / "b")["no_stack"]


def test_one_member_is_calibrated_anew(
    files: dict[str, list[str]], labels_N: np.ndarray, tmp_path: Path
) -> None:
    """Log-odds that are five times as large are divided by a temperature five times as high."""
    temperatures, averages = [], []
    for factor in (1.0, 5.0):
        members = []
        for name in ("rows", "val"):
            folder = tmp_path / f"{name} {factor}"
            leave_prediction(folder, factor * read_log_odds(Path(files[name][0])))
            members.append(str(folder / "probabilities.csv"))
        rows, val = members
        out = tmp_path / f"out {factor}"
        fitted = ["--fit-weights", val, "--val-labels", SOURCE]
        main(["ensemble", rows, *fitted, "--out", str(out)])
        (member,) = summary(out)["members"]
        temperatures.append(member["temperature"])
        averages.append(read_log_odds(out / "probabilities.csv"))
    assert temperatures[0] > 1.5 and temperatures[1] == pytest.approx(5 * temperatures[0])
    assert averages[1] == pytest.approx(averages[0])


def test_copies_gain_nothing(files: dict[str, list[str]], tmp_path: Path) -> None:
    main(
        [
            "ensemble",
            files["rows"][0],
            files["rows"][0],
            "--out",
            str(tmp_path / "out"),
            "--labels",
            SOURCE,
        ]
    )
    assert summary(tmp_path / "out")["gain"] == 0 and summary(tmp_path / "out")[
        "gain_interval"
    ] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["short.csv"], "expected predictions of the same rows. 398 IDs of"),
        (["--labels", "synthetic:20"], "Name the source that they were made from"),
        (["--val-labels", SOURCE], "--val-labels names the rows of --fit-weights"),
        (["--fit-weights", "short.csv"], "expects one file per member"),
        (
            ["--fit-weights", "short.csv", "short.csv"],
            "Expected the val.csv or test.csv of a phase",
        ),
        (["--fit-weights", "none.csv", "none.csv"], "none.csv does not hold evaluated rows"),
    ],
)
def test_a_mistake_ends_with_one_message(
    options: list[str],
    message: str,
    files: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("ID,log_odds\n0,1\n1,2\n")
    with pytest.raises(SystemExit) as end:
        main(["ensemble", *files["rows"][:2], *options, "--out", "out"])
    assert end.value.code == 2 and message in capsys.readouterr().err and not Path("out").exists()
