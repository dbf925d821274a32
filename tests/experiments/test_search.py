"""The trials of a search, with a stand-in for the training: a loss that depends on the settings."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import pytest

from mv_lightning.artifacts.layout import StudyFolder
from mv_lightning.experiments.search import FINISHED, PRUNED, Budget, OpenTrial, Search
from mv_lightning.experiments.search_space import Dimension, SearchSpace

SPACE = SearchSpace(
    title="",
    dimensions={
        "model.optim.lr": Dimension(low=1e-5, high=1e-1, log=True),
        "model.lora.r": Dimension(choices=(8, 16)),
    },
    reduction=2,
)
REPORT = {"model.optim.lr": 1e-4, "model.lora.r": 16}
STEPS = (1, 2, 4)
"""At which trials are validated before their last step, 8."""


def search(folder: Path, space: SearchSpace = SPACE, **settings: object) -> Search:
    common = {"trainer.max_steps": 8, **settings}
    return Search(StudyFolder(folder), space, REPORT, common, first_rung=1, seed=5)


def final_loss(trial: OpenTrial) -> float:
    """Lowest at a learning rate of 1e-3."""
    return abs(math.log10(trial.params["model.optim.lr"]) + 3) + 0.1


def finish(trial: OpenTrial) -> None:
    """Report the loss of every step until the trial is stopped."""
    losses: dict[int, float] = {}
    for step in STEPS:
        losses[step] = final_loss(trial) + 1 / step
        if trial.report(losses):
            trial.close(PRUNED)
            return
    trial.close(FINISHED, final_loss(trial), steps=8)


def finish_all(study: Search, trials: int) -> None:
    while (trial := study.next_trial(Budget(trials=trials))) is not None:
        finish(trial)


def test_the_first_trial_is_the_report_s_and_is_not_stopped(tmp_path: Path) -> None:
    study = search(tmp_path)
    finish_all(study, 10)
    records = study.records()
    assert records[0].params == REPORT and records[0].state == FINISHED
    assert [record.number for record in records] == list(range(10))
    assert {record.state for record in records} == {FINISHED, PRUNED}
    best = study.best()
    assert best is not None and best.log_loss is not None
    assert best.log_loss == min(r.log_loss for r in records if r.log_loss is not None)
    assert best.log_loss < 1.1 and best.number > 0
    for record in records:
        assert (record.log_loss is None) == (record.state == PRUNED)
        assert (record.steps == 8) == (record.state == FINISHED)
    importances = study.importances()
    assert sum(importances.values()) == pytest.approx(1)
    assert importances["model.optim.lr"] > importances["model.lora.r"]


def test_half_of_the_trials_at_a_rung_go_on(tmp_path: Path) -> None:
    """Losses at the first rung by hand: one that is in the lower half so far is not stopped."""
    study, stopped = search(tmp_path), []
    for loss in (0.9, 0.5, 0.6, 0.8, 0.4, 0.55):
        trial = study.next_trial(Budget(trials=9))
        assert trial is not None
        stopped.append(trial.report({1: loss}))
        if stopped[-1]:
            trial.close(PRUNED)
        else:
            trial.close(FINISHED, loss, steps=8)
    assert stopped == [False, False, True, True, False, False]


def test_a_killed_trial_is_continued_and_the_search_is_the_uninterrupted_one(
    tmp_path: Path,
) -> None:
    straight = search(tmp_path / "straight")
    finish_all(straight, 6)
    for trials in (1, 4, 6):  # three processes, two of which are killed within a trial
        study = search(tmp_path / "killed")
        finish_all(study, trials)
        trial = study.next_trial(Budget(trials=trials + 1))
        assert trial is not None and trial.number == trials
        if not trial.report({1: final_loss(trial) + 1}):
            trial._lock.release()  # as the system does for a process that ends
            continue
        trial.close(PRUNED)
    killed = study.records()[:6]
    for record, expected in zip(killed, straight.records(), strict=True):
        assert record.params == expected.params
        assert record.state == expected.state and record.log_loss == expected.log_loss


def test_a_trial_belongs_to_its_process_until_that_ends(tmp_path: Path) -> None:
    started = tmp_path / "started"
    child = os.fork()
    if child == 0:
        trial = search(tmp_path / "study").next_trial(Budget(trials=5))
        started.write_text(str(trial and trial.number))
        time.sleep(600)
    try:
        while not started.exists():
            time.sleep(0.05)
        study = search(tmp_path / "study")
        other = study.next_trial(Budget(trials=5))
        assert other is not None and other.number == 1
        finish(other)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    continued = study.next_trial(Budget(trials=2))
    assert continued is not None and continued.number == 0 and continued.params == REPORT
    assert not continued.report({1: 50.0}), "the report's trial is never stopped early"
    continued.close(FINISHED, 50.0, steps=8)
    assert study.next_trial(Budget(trials=2)) is None


def test_a_failed_trial_is_marked_and_the_search_goes_on(tmp_path: Path) -> None:
    study = search(tmp_path)
    for outcome in ("diverged", "out of memory"):
        trial = study.next_trial(Budget(trials=4))
        assert trial is not None
        trial.close(outcome)
    assert study.best() is None and study.importances() == {}
    finish_all(study, 4)
    states = [record.state for record in study.records()]
    assert states[:2] == ["diverged", "out of memory"] and states[2] == FINISHED
    assert study.records()[0].log_loss is None


def test_the_minutes_of_all_starts_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    trial = search(tmp_path).next_trial(Budget(minutes=5))
    assert trial is not None
    now += 120
    trial.report({1: 1.0})
    trial._lock.release()
    study = search(tmp_path)
    trial = study.next_trial(Budget(minutes=5))
    assert trial is not None and trial.number == 0
    now += 150
    trial.close(FINISHED, 1.0, steps=8)
    assert study.records()[0].minutes == pytest.approx(4.5)
    trial = study.next_trial(Budget(minutes=5))
    assert trial is not None and trial.number == 1
    now += 60
    trial.close(FINISHED, 1.0, steps=8)
    assert study.next_trial(Budget(minutes=5)) is None
    assert study.next_trial(Budget(minutes=6, trials=2)) is None


def test_a_study_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    search(tmp_path, **{"data.batch_size": 2})
    search(tmp_path, **{"data.batch_size": 2})
    with pytest.raises(ValueError, match=r"data\.batch_size was 2, is 4"):
        search(tmp_path, **{"data.batch_size": 4})
