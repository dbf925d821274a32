"""Rows for training and for scoring, divided by question over all sets.

A question is held out, in whatever set it occurs, by a hash of its text: the decision depends on no
other question, so further sets do not change it. Questions are taken in the order of their hashes,
so that a smaller training set is a part of a larger one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proof.definitions import HELD_OUT_SHARE, ROW_SETS, SPLIT_SEED
from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.atomic import atomic_file, write_json
from mv_lightning.data.sources import Source, load_source
from mv_lightning.data.splits import read_manifest
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS


def question_position(question: str) -> float:
    """Return the position of a question in the order of the draw, from 0 to below 1.

    Questions that differ only in case, white space or punctuation have the same position.

    Args:
        question: Its text.
    """
    key = re.sub(r"[\W_]+", "", question.lower())
    digest = hashlib.sha256(f"{SPLIT_SEED}:{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class DividedSet:
    """The rows of a set, divided into training rows and held-out rows."""

    source: Source
    training: Mapping[float, np.ndarray]
    """Row numbers of each training question by its position, in the order of the draw."""
    held_out: Mapping[float, np.ndarray]
    """The same of each held-out question."""


def divide(name: str, folder: Path) -> DividedSet:
    """Load a set and divide its rows.

    Args:
        name: A key of `ROW_SETS`.
        folder: The folder of the sets.
    """
    source = load_source(str(folder / ROW_SETS[name].file))
    rows_of: defaultdict[float, list[int]] = defaultdict(list)
    for row, question in enumerate(source.table["question"][:]):
        rows_of[question_position(question)].append(row)
    training: dict[float, np.ndarray] = {}
    held_out: dict[float, np.ndarray] = {}
    for position, rows in sorted(rows_of.items()):
        questions = held_out if position < HELD_OUT_SHARE else training
        questions[position] = np.array(rows)
    return DividedSet(source, training, held_out)


def take(questions: list[np.ndarray], limit: int | None) -> np.ndarray:
    """Return the rows of the first questions, as many as fit.

    Args:
        questions: Row numbers of each question.
        limit: Maximum number of rows; None for no limit.

    Returns:
        int64 row numbers, question by question.

    Raises:
        ValueError: There are fewer rows than the limit.
    """
    ends_Q = np.cumsum([len(rows) for rows in questions])
    if limit is None:
        return np.concatenate(questions)
    if ends_Q[-1] < limit:
        raise ValueError(f"expected at least {limit:,} rows, got {ends_Q[-1]:,}. Take fewer")
    return np.concatenate(questions[: np.searchsorted(ends_Q, limit, side="right")])


def write_training_rows(
    path: Path,
    rows: Mapping[str, int | None],
    folder: Path,
    without: Sequence[Path] = (),
    without_rows: Sequence[Path] = (),
) -> None:
    """Write the training rows of a run as one file of JSON lines.

    Args:
        path: The file.
        rows: Maximum number of rows of each set, see `Run.rows`.
        folder: The folder of the sets.
        without: Files of training rows whose questions are left out, from whatever set they are.
        without_rows: Files of training rows that are left out; other rows of their questions stay.
    """
    left_out: set[float] = set()
    for file in without:
        left_out.update(map(question_position, load_source(str(file)).table["question"][:]))
    left_out_lines = {line for file in without_rows for line in _read_lines(file)}
    lines: list[str] = []
    for name, limit in rows.items():
        divided = divide(name, folder)
        questions = [
            rows_N for position, rows_N in divided.training.items() if position not in left_out
        ]
        if left_out_lines:
            questions = [_without(divided.source, rows_N, left_out_lines) for rows_N in questions]
        lines += _json_lines(divided.source, take(questions, limit))
    _write(path, lines)


def write_validated_rows(path: Path, phases: Sequence[tuple[PhaseFolder, Path]]) -> None:
    """Write the rows that trained phases were validated on, as one file of JSON lines.

    Questions that any of the phases was trained on are left out.

    Args:
        path: The file.
        phases: Each phase and the source that it was trained from.
    """
    sources = [load_source(str(training_rows)) for _, training_rows in phases]
    trained: set[float] = set()
    for (phase, _), source in zip(phases, sources, strict=True):
        for rows_N in read_manifest(phase.manifest)[1].train:
            trained.update(_positions(source, rows_N))
    lines: list[str] = []
    for (phase, _), source in zip(phases, sources, strict=True):
        rows_N = read_evaluated(phase.evaluated_rows("val")).rows_N
        unseen_N = [position not in trained for position in _positions(source, rows_N)]
        lines += _json_lines(source, rows_N[unseen_N])
    _write(path, lines)


def _positions(source: Source, rows: np.ndarray) -> list[float]:
    return [question_position(question) for question in source.table.select(rows)["question"][:]]


def write_scored_rows(path: Path, name: str, folder: Path) -> None:
    """Write the held-out rows of a set that every run predicts, as JSON lines.

    Args:
        path: The file.
        name: A key of `ROW_SETS`.
        folder: The folder of the sets.
    """
    divided = divide(name, folder)
    rows = take(list(divided.held_out.values()), ROW_SETS[name].scored_rows)
    _write(path, _json_lines(divided.source, rows))


def check_held_out(path: Path, folder: Path) -> None:
    """Compare the held-out questions with those of the stored results; store them at first.

    Args:
        path: JSON file that describes the division of every set.
        folder: The folder of the sets.

    Raises:
        ValueError: The sets or their division have changed.
    """
    divisions: dict[str, Any] = {"seed": SPLIT_SEED, "share": HELD_OUT_SHARE, "sets": {}}
    for name in ROW_SETS:
        divided = divide(name, folder)
        rows = np.concatenate(list(divided.held_out.values()))
        divisions["sets"][name] = {
            "fingerprint": divided.source.fingerprint,
            "training_questions": len(divided.training),
            "held_out_questions": len(divided.held_out),
            "held_out_rows": len(rows),
            "held_out_rows_sha256": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        }
    if not path.is_file():
        write_json(path, divisions)
    elif json.loads(path.read_text(encoding="utf-8")) != divisions:
        raise ValueError(
            f"{path} describes other held-out questions than those of {folder}: the sets, the seed "
            "or the share have changed. Restore them; or delete the folder of the stored results "
            "and run everything again"
        )


def _without(source: Source, rows: np.ndarray, lines: Set[str]) -> np.ndarray:
    return rows[[line not in lines for line in _json_lines(source, rows)]]


def _json_lines(source: Source, rows: np.ndarray) -> list[str]:
    assert source.labels_N is not None
    columns = source.table.select_columns(list(TEXT_COLUMNS)).select(rows)
    lines = []
    for texts, label in zip(columns, source.labels_N[rows].tolist(), strict=True):
        lines.append(json.dumps({**texts, LABEL_COLUMN: label}, ensure_ascii=False))
    return lines


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _write(path: Path, lines: list[str]) -> None:
    with atomic_file(path) as tmp_path:
        tmp_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
