"""A grid of settings: the file that states it, and its cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mv_lightning.experiments.option_files import read_mapping, value_text
from mv_lightning.schema import DEFAULT_SEED

RESERVED = {
    "seed_everything": "seeds",
    "data.splits.seed": "seeds",
    "run.dir": "--folder",
    "run.fresh": "another --folder",
    "ckpt_path": "another --folder",
}
"""Options that are set for each run of an experiment, and what to use instead."""
_NAMES = ("title", "base", "axes", "cells", "options", "seeds", "reference")


@dataclass(frozen=True)
class GridCell:
    """One combination of settings, which is run once per seed."""

    label: str
    """Its name in tables and plots."""
    options: Mapping[str, Any]
    """What it sets: dotted names and values."""


@dataclass(frozen=True)
class Grid:
    """Cells over a base configuration."""

    title: str
    cells: Sequence[GridCell]
    reference: GridCell
    """The cell that the others are compared with."""
    seeds: Sequence[int] = (DEFAULT_SEED,)
    """Each draws other rows, another order and other adapters."""
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Options and their values whose combinations are the cells; empty for cells that are listed
    one by one."""
    base: Sequence[Path] = ()
    """Configuration files of `fit`; later ones override."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What all cells set beyond the base: dotted names and values."""

    def __post_init__(self) -> None:
        """Check what the cells set.

        Raises:
            ValueError: An option is reserved or set twice, or cells or seeds repeat.
        """
        for cell in self.cells:
            for name in (*cell.options, *self.options):
                if name in RESERVED:
                    raise ValueError(
                        f"the grid sets {name}, which an experiment sets for each of its runs. Use "
                        f"{RESERVED[name]} instead"
                    )
            both = cell.options.keys() & self.options.keys()
            if both:
                raise ValueError(
                    f"the grid sets {min(both)} under `options` and in its cells. Remove one"
                )
        labels = [cell.label for cell in self.cells]
        _check_distinct("cells", labels)
        _check_distinct("seeds", self.seeds)


def read_grid(file: Path) -> Grid:
    """Read a grid file.

    It is a YAML mapping of `title`, `base` (configuration files, relative to this file), `axes`
    (options and lists of their values, of which all combinations are taken), `cells` (a list of
    mappings of options, each of which is combined with those combinations), `options` (set in all
    cells), `seeds` and `reference` (the options of the cell that the others are compared with;
    default: the first cell). It needs `axes` or `cells`; options have dotted names.

    Args:
        file: The file.

    Raises:
        ValueError: It cannot be read, or is not such a mapping.
    """
    content = read_mapping(file, "the grid", _NAMES)
    axes = _options(file, "axes", content.get("axes", {}))
    listed = content.get("cells", [])
    seeds = content.get("seeds", [DEFAULT_SEED])
    base = content.get("base", [])
    lists = {"cells": listed, "seeds": seeds, "base": base, **axes}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise ValueError(f"the grid {file}: expected {name} to be a list, got {values!r}")
        _check_distinct(name, values)
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise ValueError(f"the grid {file}: expected seeds of 0 or more, got {seeds!r}")
    cells = make_cells(axes, [_options(file, "a cell", cell) for cell in listed])
    if not cells or not seeds:
        raise ValueError(f"the grid {file}: expected at least one cell and one seed, got none")
    return Grid(
        title=str(content.get("title", file.stem)),
        cells=cells,
        reference=_reference(file, cells, content.get("reference")),
        seeds=seeds,
        axes={} if listed else axes,
        base=[file.parent / path for path in base],
        options=_options(file, "options", content.get("options", {})),
    )


def make_cells(
    axes: Mapping[str, Sequence[Any]], listed: Sequence[Mapping[str, Any]]
) -> list[GridCell]:
    """Return all combinations of the axes' values, each with every one of the listed cells.

    Args:
        axes: Options and their values.
        listed: Options that go together; may be empty.

    Returns:
        The cells, the values of the first axis changing slowest; none without axes and listed ones.
    """
    if not axes and not listed:
        return []
    names = [*axes, *(name for cell in listed for name in cell)]
    short = _short_names(names)
    cells = []
    for values in itertools.product(*axes.values()):
        for cell in listed or [{}]:
            options = {**dict(zip(axes, values, strict=True)), **cell}
            parts = [f"{short[name]}={value_text(value)}" for name, value in options.items()]
            cells.append(GridCell(", ".join(parts), options))
    return cells


def _options(file: Path, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(
            f"the grid {file}: expected {name} to map dotted options to values, got {value!r}"
        )
    return value


def _reference(file: Path, cells: Sequence[GridCell], options: Any) -> GridCell:
    if options is None:
        return cells[0]
    for cell in cells:
        if cell.options == options:
            return cell
    raise ValueError(
        f"the grid {file}: expected reference to state the options of one of its cells, such as "
        f"{dict(cells[0].options)}, got {options!r}"
    )


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name, or all of it where two share that."""
    lasts: dict[str, set[str]] = {}
    for name in names:
        lasts.setdefault(name.rpartition(".")[2], set()).add(name)
    short = {}
    for name in names:
        last = name.rpartition(".")[2]
        short[name] = last if len(lasts[last]) == 1 else name
    return short


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    texts = [value_text(value) for value in values]
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated:
        raise ValueError(f"expected each of the {name} of a grid once, got {repeated[0]} twice")
