"""A trial ends as finished, stopped or failed; its process is a stand-in that leaves such files."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.atomic import write_json
from mv_lightning.experiments import trial_run
from mv_lightning.experiments.child_run import KILLED
from mv_lightning.experiments.search import FINISHED, PRUNED
from mv_lightning.experiments.trial_run import DIVERGED, TrialRun, train


@pytest.fixture
def trial(tmp_path: Path) -> TrialRun:
    return TrialRun(
        ["--model.lora.r=8"],
        PhaseFolder(tmp_path / "0001", 1),
        tmp_path / "0001" / "validations.json",
        tmp_path / "0001" / "log.txt",
    )


def child(
    trial: TrialRun,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    output: str = "",
    ends: bool = True,
) -> list[list[str]]:
    """Stand in for a child process that validates twice."""
    commands: list[list[str]] = []

    def run_child(command: list[str], log: Path, kill_when: Callable[[], bool]) -> int:
        commands.append(command)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        for losses in ({"2": 0.7}, {"2": 0.7, "4": 0.6}):
            write_json(trial.record, losses)
            if kill_when():
                return KILLED
        with log.open("a") as file:
            file.write(output)
        if status == 0 and ends:
            trial.phase.path.mkdir(parents=True)
            trial.phase.summary.write_text("{}")
        return status

    monkeypatch.setattr(trial_run, "run_child", run_child)
    monkeypatch.setattr(trial_run, "_WATCH_SECONDS", 0)
    return commands


def go_on(losses: Mapping[int, float]) -> bool:
    return False


def test_a_trial_is_trained_to_its_end(trial: TrialRun, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, seen = child(trial, monkeypatch, status=0), []

    def watch(losses: Mapping[int, float]) -> bool:
        seen.append(dict(losses))
        return False

    assert train(trial, watch) == FINISHED
    assert seen == [{2: 0.7}, {2: 0.7, 4: 0.6}]
    ((command, *options),) = commands
    assert command == "fit" and options[0] == "--model.lora.r=8"
    assert f"--run.dir={trial.phase.run}" in options


def test_a_folder_that_is_in_use_is_waited_for(
    trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child of a killed parent took the folder after it was looked at."""
    statuses = [2, 0]

    def run_child(command: list[str], log: Path, kill_when: Callable[[], bool]) -> int:
        status = statuses.pop(0)
        trial.phase.path.mkdir(parents=True, exist_ok=True)
        log.write_text("error: /run is in use by process 7 on host" if status else "")
        trial.phase.summary.write_text("{}")
        return status

    monkeypatch.setattr(trial_run, "run_child", run_child)
    assert train(trial, go_on) == FINISHED and not statuses


def test_a_trial_is_killed_when_it_is_to_stop(
    trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(trial, monkeypatch, status=0)
    assert train(trial, lambda losses: 4 in losses) == PRUNED
    assert not trial.phase.summary.exists()


def test_a_trial_whose_validation_is_not_finite_diverged(
    trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(trial, monkeypatch, status=0)
    monkeypatch.setattr(trial_run, "read_validation_record", lambda path: {2: float("nan")})
    assert train(trial, go_on) == DIVERGED and not trial.phase.summary.exists()


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (2, "error: the loss is not finite at step 3, source rows [1]", "diverged"),
        (2, "error: the longest micro-batch does not fit into the memory: ...", "out of memory"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to", "out of memory"),
        (KILLED, "", "out of memory"),
    ],
)
def test_failures_of_the_settings_are_named(
    status: int, output: str, outcome: str, trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(trial, monkeypatch, status, output)
    assert train(trial, go_on) == outcome


def test_other_failures_end_the_search(trial: TrialRun, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.log.parent.mkdir(parents=True)
    trial.log.write_text("of an earlier start: the loss is not finite\n")
    child(trial, monkeypatch, 2, "error: no such file")
    with pytest.raises(ValueError, match="ended with status 2: error: no such file"):
        train(trial, go_on)
    child(trial, monkeypatch, 0, ends=False)
    with pytest.raises(ValueError, match="stopped before its last step"):
        train(trial, go_on)


@pytest.mark.parametrize("status", [-signal.SIGTERM, 128 + signal.SIGTERM])
def test_a_trial_that_is_told_to_end_ends_the_search(
    status: int, trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(trial, monkeypatch, status)
    with pytest.raises(SystemExit) as end:
        train(trial, go_on)
    assert end.value.code == 143


def test_the_log_loss_is_that_after_the_last_step(trial: TrialRun) -> None:
    values: dict[str, Any] = {"metrics": {"log_loss": {"value": 0.25}}}
    write_json(trial.phase.metrics, {"format_version": 1, "val": values})
    write_json(trial.phase.summary, {"format_version": 1, "steps": 6})
    assert trial.result() == (0.25, 6)
