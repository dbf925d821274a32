"""The comparisons at small scale: short rows, the spread over seeds, kills, and the tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import comparisons
from benchmarks.small_scale.results import lost_trials, seed_spread
from benchmarks.small_scale.rows import write_short_rows
from benchmarks.small_scale.tables import TABLE_1, TABLE_2, tuned
from benchmarks.small_scale.tables import comparisons as tables_text
from mv_lightning.atomic import write_json
from mv_lightning.data.splits import SplitPlan
from mv_lightning.experiments.grid import read_grid
from mv_lightning.experiments.option_files import option_args, shared_args
from mv_lightning.experiments.search_space import read_space
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.training.cli import parse_all


def test_short_rows_are_kept_unchanged_and_in_order(
    question_rows: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    lines = question_rows.read_text(encoding="utf-8").splitlines()
    tokenizer = load_tokenizer(BaseSettings(name=str(tiny_folder)))
    counts = []
    for line in lines:
        row = json.loads(line)
        texts = tokenizer([row["question"], row["solution"]], add_special_tokens=False)
        counts.append(sum(map(len, texts["input_ids"])))
    limit = sorted(counts)[len(counts) // 2]
    expected = [line for line, count in zip(lines, counts, strict=True) if count <= limit]
    assert 0 < len(expected) < len(lines)
    path = tmp_path / "below" / "rows.jsonl"
    kept = write_short_rows(question_rows, path, str(tiny_folder), limit)
    assert path.read_text(encoding="utf-8").splitlines() == expected
    assert (kept.rows, kept.rows_of_set, kept.max_tokens) == (len(expected), len(lines), limit)
    assert kept.questions == len({json.loads(line)["question"] for line in expected})
    assert kept.share_true == pytest.approx(
        sum(json.loads(line)["is_correct"] for line in expected) / len(expected)
    )
    with pytest.raises(ValueError, match=f"at most 1 tokens, got at least {min(counts)}"):
        write_short_rows(question_rows, path, str(tiny_folder), 1)


def test_spread_over_seeds_by_hand() -> None:
    spread = seed_spread(
        {"a": {1: 0.5, 2: 0.7}, "b": {1: 0.6, 2: 0.6}, "c": {1: 0.9}, "d": {1: 0.4, 2: 0.8}}, "a"
    )
    assert spread is not None
    # Variances 0.02, 0, 0.08; of the differences 0.1 and -0.1: 0.02; of -0.1 and 0.1: 0.02.
    assert spread.within_cells == pytest.approx((0.1 / 3) ** 0.5)
    assert spread.of_differences == pytest.approx(0.02**0.5)
    assert spread.detectable == pytest.approx(1.96 * (0.2 / 3) ** 0.5)
    assert seed_spread({"a": {1: 0.5}, "b": {1: 0.6}}, "a") is None
    assert seed_spread({"a": {1: 0.5, 2: float("nan")}, "b": {1: 0.6, 2: 0.6}}, "a") is None


def test_a_trial_that_is_not_over_is_lost() -> None:
    trials = [{"trial": "0", "state": "finished"}, {"trial": "1", "state": "running"}]
    assert lost_trials(trials, [{"trials": 1, "over": 0}]) == []
    assert lost_trials(trials, [{"trials": 1, "over": 0}, {"trials": 3, "over": 1}]) == [1, 2]


def test_a_kill_ends_the_children_too() -> None:
    script = "import subprocess; subprocess.run(['sh', '-c', 'echo started; sleep 60; true'])"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        pids = comparisons.process_tree(process.pid)
        comparisons.kill(pids)
    assert len(pids) >= 2 and pids[0] == process.pid
    deadline = time.monotonic() + 10
    while any(map(_is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_is_running, pids))


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_command_that_ends_early_is_an_error() -> None:
    with pytest.raises(ValueError, match="`python -m mv_lightning --help` to run for 600 s, but"):
        comparisons.run_until_killed(["--help"], 600)


def test_every_cell_is_in_a_table_and_every_setting_in_the_grid() -> None:
    grid = read_grid(comparisons.GRID)
    cells = [dict(cell.options) for cell in grid.cells]
    shown = [dict(row.options) for row in (*TABLE_1, *TABLE_2) if row.options]
    assert all(options in cells for options in shown)
    assert all(cell in shown for cell in cells if cell != grid.reference.options)


def test_the_settings_of_the_grid_and_of_the_search_exist() -> None:
    grid, space = read_grid(comparisons.GRID), read_space(comparisons.SPACE)
    common = ["fit", *shared_args(grid.base, grid.options, [])]
    changed = {name: value for cell in grid.cells for name, value in cell.options.items()}
    searched = ["fit", *shared_args(space.base, space.options, [])]
    defaults, base, reference, last, trial = parse_all(
        [
            ["fit"],
            common,
            [*common, *option_args(grid.reference.options)],
            [*common, *option_args(changed)],
            [*searched, *option_args(space.corners()[0])],
        ]
    )
    assert reference == base != last
    rows = last["trainer"]["max_steps"] * last["data"]["batch_size"]
    assert rows <= SplitPlan(**last["data"]["splits"]).train_rows
    assert trial["data"]["splits"]["test_rows"] > 0
    first = space.first_trial(defaults)
    assert (first["model.lora.r"], first["model.lora.alpha"]) == (128, 128)


def metric(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - 0.1, value + 0.1]}


def test_the_tables_show_what_is_stored(tmp_path: Path) -> None:
    assert tables_text(tmp_path) == tuned(tmp_path) == "not run\n"
    reference, other = read_grid(comparisons.GRID).cells[0], TABLE_2[0]
    run = {"seed": 1, "test_rows": 100}
    means = {"accuracy": metric(0.5), "auroc": metric(0.6), "log_loss": metric(0.7)}
    cells = [
        {"label": "a", "options": dict(reference.options), "means": means, "differences": {}},
        {
            "label": "b",
            "options": dict(other.options),
            "means": means,
            "differences": {name: metric(-0.05) for name in means},
        },
    ]
    spread = {"within_cells": 0.04, "of_differences": 0.03, "detectable": 0.111}
    write_json(
        tmp_path / "tables.json",
        {
            "reference": "a",
            "cells": [{**cell, "runs": [run]} for cell in cells],
            "spread": {"accuracy": spread},
        },
    )
    lines = tables_text(tmp_path).splitlines()
    (first,) = (line for line in lines if "r 16, alpha 32" in line)
    assert "55.4" in first and "0.500 (0.400 to 0.600)" in first and "- |" in first
    (second,) = (line for line in lines if other.setting in line)
    assert "55.7" in second and "-0.050 (-0.150 to +0.050)" in second
    assert sum("balanced training rows" in line and "not run" in line for line in lines) == 1
    assert any("0.040" in line and "0.111" in line for line in lines)
    (error,) = (line for line in lines if "1,000 test rows" in line)
    assert "0.016" in error and "0.044" in error
    scores = {"val": means, "test": means}
    settings = {"report": {"trial": 0, **scores}, "best": {"trial": 7, **scores}}
    write_json(tmp_path / "tune.json", {"settings": settings, "differences": scores})
    assert "best of the search, trial 7" in tuned(tmp_path)
    assert "+0.600 (+0.500 to +0.700)" in tuned(tmp_path)
