"""`plan` reads the base model's config, and the rows unless a mean length is given."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mv_lightning.cli import main
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT


@pytest.fixture
def config_only(tiny_folder: Path, tmp_path: Path) -> Path:
    """A folder with nothing but the config of a base model."""
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(tiny_folder / "config.json", folder)
    return folder


def plan(base: Path, folder: Path, *options: str) -> dict[str, Any]:
    """Run the command on the three phases; return what it writes."""
    path = folder / "plan.json"
    files = ["--folder", str(ROOT / "configs"), "--results", str(folder), "--json", str(path)]
    main(["plan", *tiny_options(base, folder / "run"), *files, *options])
    assert not (folder / "run").exists()
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return written


def test_all_phases_are_planned_from_the_config(
    config_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--machine A100-40 --gpus 4 --nodes 2 --network 100 --price 1.5 --mean-tokens 90"
    written = plan(config_only, tmp_path, *options.split(), "--scaling", "1", "16")
    printed = capsys.readouterr().out
    assert [phase["phase"] for phase in written["phases"]] == [1, 2, 3]
    cost = hours = 0.0
    for phase in written["phases"]:
        choice = phase["recommended"]
        cost += choice["hours"] * 1.5 * choice["gpus"]
        hours += choice["hours"]
        assert choice["cost"] == pytest.approx(choice["hours"] * 1.5 * choice["gpus"])
        assert sum(item["bytes"] for item in choice["items"]) == choice["peak_bytes"]
        assert phase["configured"]["micro_batch"] == 2
        assert choice["tokens"] == pytest.approx(choice["gpus"] * 4 * 90)
    assert f"{hours:.2f} hours, cost {cost:.2f}" in printed
    assert [choice["gpus"] for choice in written["scaling"]] == [1, 16]
    assert "computed, efficiency assumed" in printed and "No comparison" in printed


def test_rows_are_packed_unless_a_mean_is_given(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shared instruction is computed once, so that a step has fewer tokens than its rows."""
    shutil.copy(ROOT / "configs" / "phase1.yaml", tmp_path)
    written = plan(tiny_folder, tmp_path, "--folder", str(tmp_path))
    (phase,) = written["phases"]
    (mean,) = re.findall(r"24 training rows .* mean (\d+) tokens", capsys.readouterr().out)
    assert phase["recommended"]["micro_batch"] == 4
    assert 0 < phase["recommended"]["tokens"] < 4 * int(mean)
    assert phase["configured"]["tokens"] > phase["recommended"]["tokens"]


def test_comparisons_are_stored_for_later_plans(
    config_only: Path, trained_phase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = ["--results", str(tmp_path), "--json", str(tmp_path / "plan.json")]
    main(["plan", "--compare", str(trained_phase.parent), *stored])
    assert "seconds a step" in capsys.readouterr().out
    main(
        [
            "plan",
            *tiny_options(config_only, tmp_path),
            *("--folder", str(ROOT / "configs"), "--results", str(tmp_path), "--mean-tokens", "90"),
        ]
    )
    printed = capsys.readouterr().out
    assert re.search(r"Errors of the last comparison.*: peak GB -\d+% to -\d+% \(1 ", printed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--nodes 2", "--network for several nodes"),
        ("--scaling 8", "--network for several nodes"),
        ("--gpus 0", "at least 1"),
        ("--price -1", "--price above 0, got -1"),
        ("--machine cpu --gpus 2", "one process with --machine cpu"),
        ("--machine A100", "one of T4, L4"),
        ("--mean-tokens 90 --data.packing none", "data.packing=clean"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    options: str,
    message: str,
    config_only: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        plan(config_only, tmp_path, *options.split())
    assert end.value.code == 2 and message in capsys.readouterr().err
