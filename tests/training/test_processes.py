"""A run may lose a process, and go on in another number of processes, with the same rows."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.child_run import KILLED
from mv_lightning.experiments.resume_check import logged_values
from mv_lightning.testing import batches_done, fork_processes, tiny_options
from mv_lightning.training.cli import parse
from tests.conftest import ROOT

EXACT = (
    *("--trainer.precision", "32-true", "--model.optim.name", "adamw_torch"),
    *("--data.splits.rows", "34", "--trainer.max_epochs", "2", "--run.save_every", "1"),
)
"""fp32, so that the order of sums is all that differs; 26 rows make steps of 8, 8, 8 and 2."""


def fit_args(base: Path, run: Path, world: int, strategy: str = "ddp") -> list[str]:
    """Steps of 8 rows, in micro-batches of 1 x 2 rows each of four processes, and so on."""
    accumulate = ("--trainer.accumulate_grad_batches", str(4 // world))
    options = [*tiny_options(base, run), *EXACT, *accumulate, *processes(world, strategy)]
    return ["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options]


def processes(world: int, strategy: str) -> list[str]:
    return ["--trainer.devices", str(world), "--trainer.strategy", strategy] if world > 1 else []


def saved(phase: PhaseFolder, step: int) -> Callable[[], bool]:
    return phase.checkpoint(step).exists


def named(folder: Path, rank: int, dead: int) -> bool:
    """Whether the output of a process names the one that has died."""
    return f"process {dead} (id " in (folder / f"rank{rank}.log").read_text()


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PhaseFolder:
    """A phase of 8 steps that one process has trained."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("straight")
    main(fit_args(tiny_folder, run, 1))
    torch.set_num_threads(threads)
    return PhaseFolder(run, 1)


def assert_equal(one: PhaseFolder, other: PhaseFolder) -> None:
    """The same rows in every step, and sums that differ in their order at most."""
    left, right = (logged_values(folder, "train/loss") for folder in (one, other))
    assert left.keys() == right.keys() and len(left) == 8
    for step, loss in left.items():
        assert right[step] == pytest.approx(loss, rel=1e-3), step
    rates = [logged_values(folder, "train/lr") for folder in (one, other)]
    assert rates[0] == rates[1]
    summaries = [json.loads(folder.summary.read_text()) for folder in (one, other)]
    for name in ("steps", "rows", "tokens", "validation_rows"):
        assert summaries[0][name] == summaries[1][name], name
    assert summaries[0]["val_loss"] == pytest.approx(summaries[1]["val_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("world", "killed", "then", "strategies"),
    [
        (2, 1, 1, ("sharded_base", "ddp")),
        pytest.param(2, 0, 4, ("ddp", "ddp"), marks=pytest.mark.slow),
        pytest.param(4, 2, 2, ("ddp", "sharded_base"), marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_ends_all_and_other_processes_go_on(
    world: int,
    killed: int,
    then: int,
    strategies: tuple[str, str],
    straight: PhaseFolder,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    phase = PhaseFolder(tmp_path / "run", 1)
    args = fit_args(tiny_folder, phase.run, world, strategies[0])
    statuses = fork_processes(args, world, tmp_path, (killed, saved(phase, 5)))
    assert statuses[killed] == KILLED and not phase.summary.exists()
    assert all(status == 1 for rank, status in enumerate(statuses) if rank != killed)
    assert named(tmp_path, min({0, 1} - {killed}), killed)
    args = fit_args(tiny_folder, phase.run, then, strategies[1])
    if then == 1:
        main(args)
    else:
        assert fork_processes(args, then, tmp_path) == [0] * then
    assert_equal(straight, phase)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "strategy"), [(2, "ddp"), (4, "ddp"), (4, "sharded_base")])
def test_several_processes_train_like_one(
    world: int, strategy: str, straight: PhaseFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    args = fit_args(tiny_folder, tmp_path / "run", world, strategy)
    assert fork_processes(args, world, tmp_path) == [0] * world
    phase = PhaseFolder(tmp_path / "run", 1)
    assert_equal(straight, phase)
    imbalance = logged_values(phase, "speed/imbalance").values()
    assert len(imbalance) == 8 and all(1 <= value <= world for value in imbalance)
    assert max(imbalance) > 1  # of the last step, of two rows, at the latest


@pytest.mark.parametrize(
    ("killed", "then", "strategies"),
    [
        (1, 1, ("sharded_base", "ddp")),
        pytest.param(0, 4, ("ddp", "sharded_base"), marks=pytest.mark.slow),
    ],
)
def test_a_prediction_that_lost_a_process_leaves_the_file_of_one(
    killed: int, then: int, strategies: tuple[str, str], trained_phase: Path, tmp_path: Path
) -> None:
    base = json.loads((trained_phase / "adapter/verifier.json").read_text())["base"]["name"]
    runs = [tmp_path / name for name in ("one", "several")]

    def args(run: Path, world: int, strategy: str = "ddp") -> list[str]:
        shutil.copytree(trained_phase, run / "phase1", dirs_exist_ok=True)
        rows = ["--predict.source", "synthetic:90", "--data.eval_tokens", "700"]
        options = [*tiny_options(Path(base), run), *rows, *processes(world, strategy)]
        return ["predict", "--config", str(ROOT / "configs/phase1.yaml"), *options]

    main(args(runs[0], 1))
    interrupted = args(runs[1], 2, strategies[0])
    statuses = fork_processes(
        interrupted, 2, tmp_path, (killed, lambda: batches_done(runs[1]) >= 4)
    )
    assert sorted(statuses) == sorted([1, KILLED]) and named(tmp_path, 1 - killed, killed)
    assert not (runs[1] / "submission.csv").exists()
    if then == 1:
        main(args(runs[1], 1))
    else:
        assert fork_processes(args(runs[1], then, strategies[1]), then, tmp_path) == [0] * then
    for name in ("submission.csv", "probabilities.csv"):
        one, several = ((run / name).read_bytes() for run in runs)
        assert one == several
    assert len(list(csv.reader((runs[0] / "submission.csv").open()))) == 91


@pytest.mark.parametrize(("status", "requeued"), [(138, True), (143, False), (0, False)])
def test_a_job_of_slurm_is_queued_again_when_its_time_is_over(
    status: int, requeued: bool, tmp_path: Path
) -> None:
    """With programs in place of srun and scontrol; 138 is what SIGUSR1 leaves."""
    for name, line in (
        ("srun", f'printf "%s\\n" "$@" > args; exit {status}'),
        ("scontrol", "echo $*"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    env = {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_ID": "77"}
    job = subprocess.run(
        ["bash", str(ROOT / "configs/slurm.sbatch"), "--config", "configs/phase2.yaml"],
        cwd=tmp_path,
        env={**os.environ, **env, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert job.returncode == status and job.stderr == ""
    assert job.stdout == ("requeue 77\n" if requeued else "")
    args = (tmp_path / "args").read_text().splitlines()
    options = args[args.index("fit") :]
    assert options.count("--config") == 3
    assert all((ROOT / option).is_file() for option in options if option.startswith("configs/"))
    assert options[5:9] == ["--trainer.num_nodes", "2", "--trainer.devices", "4"]


@pytest.mark.parametrize(("overlay", "strategy"), [("ddp", "ddp"), ("fsdp", "sharded_base")])
def test_the_overlays_have_the_rows_of_the_report_in_a_step(overlay: str, strategy: str) -> None:
    files = ("phase2", "h100", overlay, "slurm")
    configs = [arg for name in files for arg in ("--config", str(ROOT / f"configs/{name}.yaml"))]
    settings = parse(["fit", *configs])
    trainer = settings["trainer"]
    (slurm,) = trainer["plugins"]
    assert trainer["strategy"] == strategy and slurm["init_args"]["auto_requeue"] is False
    rows = settings["data"]["batch_size"] * trainer["accumulate_grad_batches"] * trainer["devices"]
    assert rows == 8
