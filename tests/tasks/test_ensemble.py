"""An ensemble is the average of its members, and its gain is measured in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.tasks.predictions import read_log_odds
from mv_lightning.training.predictions import PROBABILITIES, SUBMISSION, write_predictions

ROWS = 400
SOURCE = f"sample:{ROWS}"
NOISES = (2.0, 2.5, 9.0)


@pytest.fixture(scope="module")
def labels_N() -> np.ndarray:
    labels = load_source(SOURCE, split="test").labels_N
    assert labels is not None
    return labels


@pytest.fixture
def files(labels_N: np.ndarray, tmp_path: Path) -> dict[str, list[str]]:
    """Three members with errors of their own, the last one useless, on the rows to judge and on validation rows."""
    rng = np.random.default_rng(0)
    made: dict[str, list[str]] = {"rows": [], "val": []}
    for place, noise in enumerate(NOISES):
        for name, paths in made.items():
            odds_N = np.where(labels_N, 1.0, -1.0) + noise * rng.normal(size=ROWS)
            write_predictions(tmp_path / f"{name}{place}", dict(enumerate(odds_N.tolist())), ROWS)
            paths.append(str(tmp_path / f"{name}{place}" / PROBABILITIES))
    return made


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "ensemble.json").read_text())
    return found


def test_the_mean_of_the_log_odds_is_written(files: dict[str, list[str]], tmp_path: Path) -> None:
    main(["ensemble", *files["rows"], "--out", str(tmp_path / "out")])
    mean_N = np.mean([read_log_odds(Path(file)) for file in files["rows"]], axis=0)
    assert read_log_odds(tmp_path / "out" / PROBABILITIES) == pytest.approx(mean_N)
    verdicts = [line.split(",")[1] == "True" for line in (tmp_path / "out" / SUBMISSION).read_text().splitlines()[1:]]
    assert verdicts == (mean_N > 0).tolist()
    assert "gain" not in summary(tmp_path / "out")


def test_weights_and_temperatures_come_from_validation(
    files: dict[str, list[str]], labels_N: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = ["--fit-weights", *files["val"], "--val-labels", SOURCE]
    for out in ("a", "b"):
        main(["ensemble", *files["rows"], "--out", str(tmp_path / out), "--labels", SOURCE, *fitted])
    told = summary(tmp_path / "a")
    first, _, noise = told["members"]
    assert sum(one["weight"] for one in told["members"]) == pytest.approx(1)
    # They err independently: as sure together as the sum of them. The useless one is silenced by its temperature.
    assert noise["temperature"] > 5 * first["temperature"] > 5 and told["temperature"] < 0.5
    mixed_N = read_log_odds(tmp_path / "a" / PROBABILITIES)
    right_N, best_N = (
        (odds_N > 0) == labels_N for odds_N in (mixed_N, read_log_odds(Path(files["rows"][told["best"]])))
    )
    assert told["gain"] == pytest.approx(right_N.mean() - best_N.mean(), abs=1e-12) and told["gain"] > 0
    assert told["gain_interval"][0] < told["gain"] < told["gain_interval"][1]
    assert told["ensemble"]["metrics"]["accuracy"]["value"] == pytest.approx(right_N.mean())
    assert f"{100 * told['gain']:+.2f} points" in capsys.readouterr().out
    for file in ("ensemble.json", PROBABILITIES, SUBMISSION):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_copies_gain_nothing(files: dict[str, list[str]], tmp_path: Path) -> None:
    main(["ensemble", files["rows"][0], files["rows"][0], "--out", str(tmp_path / "out"), "--labels", SOURCE])
    assert summary(tmp_path / "out")["gain"] == 0 and summary(tmp_path / "out")["gain_interval"] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["short.csv"], "has the IDs 0 to 1"),
        (["--labels", "sample:20"], "name the source that they were made from"),
        (["--fit-weights", "short.csv"], "--fit-weights and --val-labels go together"),
        (["--fit-weights", "short.csv", "--val-labels", SOURCE], "needs one per member"),
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
