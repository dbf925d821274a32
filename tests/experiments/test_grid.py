"""Grid files: their expansion, what is refused, and those that are shipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mv_lightning.experiments.grid import Grid, GridCell, make_cells, read_grid
from mv_lightning.experiments.option_files import option_args
from mv_lightning.training.cli import parse_all
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
SHIPPED = [file for file in FILES if "space" not in yaml.safe_load(file.read_text())]
"""All but the spaces of searches."""


def grid(tmp_path: Path, text: str) -> Grid:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    return read_grid(file)


def test_axes_are_combined_with_each_other_and_with_listed_cells(tmp_path: Path) -> None:
    made = grid(
        tmp_path,
        """
        title: Both
        base: [a.yaml, sub/b.yaml]
        axes: {model.lora.r: [4, 8], data.splits.balance: [true, false]}
        cells: [{data.batch_size: 1, trainer.max_steps: 8}, {data.batch_size: 2}]
        options: {model.optim.lr: 0.001}
        seeds: [5, 6]
        reference: {model.lora.r: 8, data.splits.balance: true, data.batch_size: 2}
        """,
    )
    assert made.title == "Both" and made.seeds == [5, 6]
    assert made.base == [tmp_path / "a.yaml", tmp_path / "sub/b.yaml"]
    assert len(made.cells) == 8 and made.options == {"model.optim.lr": 0.001}
    assert made.cells[0].label == "r=4, balance=true, batch_size=1, max_steps=8"
    assert made.cells[-1].options == {
        "model.lora.r": 8,
        "data.splits.balance": False,
        "data.batch_size": 2,
    }
    assert made.reference is made.cells[5]


def test_the_first_cell_is_the_reference_by_default(tmp_path: Path) -> None:
    made = grid(tmp_path, "axes: {data.prompt: [detailed, explanation]}")
    assert made.title == "grid" and made.reference.label == "prompt=detailed"
    assert made.axes == {"data.prompt": ["detailed", "explanation"]} and made.seeds == [3407]


def test_names_that_would_be_equal_stay_long() -> None:
    cells = make_cells({"model.lora.r": [1], "data.r": [None], "run.keep": ["x"]}, [])
    assert [cell.label for cell in cells] == ["model.lora.r=1, data.r=null, keep=x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: {data.phase: [1]}", r"got \['axis'\]"),
        ("- 1", "expected a mapping of"),
        ("title: {", "cannot be read"),
        ("title: nothing", "at least one cell"),
        ("axes: {data.phase: [1]}\nseeds: []", "at least one cell and one seed"),
        ("axes: {data.phase: 1}", "expected data.phase to be a list"),
        ("axes: [data.phase]", "expected axes to map dotted options"),
        ("cells: [data.phase]", "expected a cell to map dotted options"),
        ("axes: {data.phase: [1, 1]}", "got 1 twice"),
        ("axes: {data.phase: [1]}\nseeds: [1, 1]", "got 1 twice"),
        ("axes: {data.phase: [1]}\nseeds: [-1]", "expected seeds of 0 or more"),
        ("axes: {data.phase: [1]}\nreference: {data.phase: 2}", "one of its cells, such as"),
        ("axes: {seed_everything: [1, 2]}", "sets seed_everything, .* Use seeds"),
        ("axes: {data.phase: [1]}\noptions: {run.dir: x}", "sets run.dir, .* Use --folder"),
        ("axes: {data.phase: [1]}\noptions: {data.phase: 2}", "under `options` and in its cells"),
    ],
)
def test_mistakes_are_told(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        grid(tmp_path, text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_grid(tmp_path / "none.yaml")


def test_cells_of_a_program_are_checked_too() -> None:
    cell = GridCell("one", {"run.fresh": True})
    with pytest.raises(ValueError, match=r"sets run\.fresh"):
        Grid("title", [cell], cell)


def test_every_shipped_grid_is_accepted_by_the_parser() -> None:
    """Each value of an axis and each listed cell is parsed, on top of the grid's base."""
    lines = []
    for file in SHIPPED:
        made = read_grid(file)
        common = ["fit", *(arg for path in made.base for arg in ("--config", str(path)))]
        common += option_args(made.options)
        last = made.cells[-1].options
        seen: set[str] = set()
        for cell in made.cells:
            args = option_args(cell.options)
            if not seen.issuperset(args):
                lines.append((file.stem, [*common, *args], cell.options))
            seen.update(args)
        assert last and made.reference in made.cells
    for (name, _, options), settings in zip(
        lines, parse_all([line for _, line, _ in lines]), strict=True
    ):
        for option, value in options.items():
            found = settings
            for part in option.split("."):
                found = found[part]
            assert found == value, (name, option)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_the_header_of_a_shipped_grid(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    header = text[: text.index("title:")]
    assert f"python -m mv_lightning ablate configs/experiments/{file.name} --config" in header
    assert re.findall(r"^# (Cost|Report|Here) ", header, re.MULTILINE) == ["Cost", "Report", "Here"]
    assert max(map(len, text.splitlines())) <= 120
    assert len(yaml.safe_load(text)["seeds"]) >= 3
