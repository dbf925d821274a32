"""The short rows of a set of labelled solutions: what a row costs is proportional to its tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mv_lightning.atomic import atomic_file
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.schema import LABEL_COLUMN

MAX_TOKENS = 120
"""Of question and solution together, without the prompt around them."""


@dataclass(frozen=True)
class ShortRows:
    """What was kept of a set."""

    rows: int
    rows_of_set: int
    questions: int
    share_true: float
    mean_tokens: float
    """Of question and solution."""
    max_tokens: int


def write_short_rows(source: Path, path: Path, base: str, max_tokens: int) -> ShortRows:
    """Write the rows of a JSON Lines file whose question and solution are short.

    Args:
        source: The file.
        path: The file of its short rows, in the same order.
        base: The base whose tokenizer counts; see `BaseSettings.name`.
        max_tokens: Of question and solution together.

    Returns:
        What was kept.

    Raises:
        ValueError: No row is so short.
    """
    tokenizer = load_tokenizer(BaseSettings(name=base))
    lines = source.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    tokens_N = np.zeros(len(rows), dtype=np.int64)
    for name in ("question", "solution"):
        texts = [row[name] for row in rows]
        tokens_N += [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    kept = np.flatnonzero(tokens_N <= max_tokens)
    if not len(kept):
        raise ValueError(
            f"expected rows of at most {max_tokens} tokens, got at least {tokens_N.min()} in "
            f"{source}. Raise the limit"
        )
    with atomic_file(path) as tmp_path:
        tmp_path.write_text("".join(f"{lines[row]}\n" for row in kept), encoding="utf-8")
    return ShortRows(
        rows=len(kept),
        rows_of_set=len(rows),
        questions=len({rows[row]["question"] for row in kept}),
        share_true=float(np.mean([rows[row][LABEL_COLUMN] for row in kept])),
        mean_tokens=float(tokens_N[kept].mean()),
        max_tokens=max_tokens,
    )
