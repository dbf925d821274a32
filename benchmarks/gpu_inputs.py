"""What `benchmarks.gpu` reads where neither the generator of rows nor the bundled model is there.

    python -m benchmarks.gpu_inputs FOLDER

Writes `FOLDER/rows.jsonl` (the rows of all stages) and `FOLDER/cache` (the tokenizer of the bundled
model, as `XDG_CACHE_HOME` of the other machine). Needs the extra `synthetic`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import BUNDLED, PROMPT
from mv_lightning.atomic import atomic_file
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.synthetic import synthetic_table
from mv_lightning.model.base import load_tokenizer
from mv_lightning.model.bundled import bundled_folder
from mv_lightning.model.model_cache import cache_folder
from mv_lightning.schema import DEFAULT_SEED, TEXT_COLUMNS

ROWS = 2_000
MEAN_TOKENS, LONGEST_ROW = 385, 1_929
"""The report's, with its longest prompt."""
LENGTHS_SIGMA = 0.45
"""Standard deviation of the log of a row's own tokens; few rows reach the report's maximum."""
DISTINCT_ROWS = 200
"""Rows that are generated; the others repeat them, with a number before the question."""


class RowLengths:
    """Changes the lengths of rows by repeating or cutting their solutions."""

    def __init__(self) -> None:
        """Load the bundled model's tokenizer."""
        self._tokenizer, prompt = load_tokenizer(BUNDLED), load_prompt(PROMPT)
        body = prompt.body.format_map(dict.fromkeys(TEXT_COLUMNS, ""))
        self.prompt_tokens = len(self._ids(prompt.instruction + body + prompt.cue))
        """Tokens of a row without question, answer and solution."""

    def stretch(self, row: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        """Return a row of about a number of tokens, the prompt included.

        Args:
            row: Question, answer, solution and label.
            tokens: More than prompt, question and answer have.
        """
        others = len(self._ids(row["question"])) + len(self._ids(row["answer"]))
        room = max(1, tokens - self.prompt_tokens - others)
        ids = self._ids(f"{row['solution']}\n")
        solution = self._tokenizer.decode((ids * (room // len(ids) + 1))[:room])
        return {**row, "solution": solution}

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def report_rows(rows: int) -> Iterator[dict[str, Any]]:
    """Yield synthetic rows with the lengths of the report.

    Args:
        rows: Number of rows; even.
    """
    lengths = RowLengths()
    draws = np.random.default_rng(DEFAULT_SEED).lognormal(0, LENGTHS_SIGMA, rows)
    own = (MEAN_TOKENS - lengths.prompt_tokens) * draws / draws.mean()
    tokens_N = np.minimum(lengths.prompt_tokens + own, LONGEST_ROW).round().astype(int)
    table = synthetic_table("train", min(rows, DISTINCT_ROWS), seed=DEFAULT_SEED).to_pylist()
    generated = itertools.cycle(table)
    for number, (row, tokens) in enumerate(zip(generated, tokens_N.tolist(), strict=False)):
        # Without the number, repeated rows would be counted as duplicates.
        numbered = {**row, "question": f"{number}. {row['question']}"}
        yield lengths.stretch(numbered, tokens)


def long_rows(path: Path, rows: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Yield the first rows of a file, all of them of one length.

    Args:
        path: What `write_rows` wrote.
        rows: Number of rows.
        tokens: Length of a row, the prompt included.
    """
    lengths = RowLengths()
    with path.open(encoding="utf-8") as lines:
        for line in itertools.islice(lines, rows):
            yield lengths.stretch(json.loads(line), tokens)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines.

    Args:
        path: The file.
        rows: The rows.
    """
    with atomic_file(path) as tmp_path, tmp_path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_tokenizer(cache: Path) -> Path:
    """Write the tokenizer of the bundled model, and return its folder.

    Args:
        cache: A folder; as `XDG_CACHE_HOME` it makes `load_tokenizer` find the tokenizer.
    """
    folder = cache / bundled_folder().relative_to(cache_folder().parent)
    load_tokenizer(BUNDLED).save_pretrained(folder)
    return folder


def main() -> None:
    """Write rows and tokenizer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    write_rows(rows, report_rows(ROWS))
    print(f"{ROWS:,} rows: {rows}, {rows.stat().st_size / 1e6:.1f} MB")
    tokenizer = write_tokenizer(folder / "cache")
    print(f"tokenizer: {tokenizer}")


if __name__ == "__main__":
    main()
