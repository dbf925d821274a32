"""The rows of the GPU benchmark have the lengths of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks.gpu_inputs import (
    MEAN_TOKENS,
    RowLengths,
    long_rows,
    report_rows,
    write_rows,
    write_tokenizer,
)
from benchmarks.harness import PROMPT
from mv_lightning.data.prompts import load_prompt


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, report_rows(60))
    return path


def tokens(tokenizer_folder: Path, lines: list[str]) -> np.ndarray:
    tokenizer, prompt = AutoTokenizer.from_pretrained(tokenizer_folder), load_prompt(PROMPT)
    counts = []
    for line in lines:
        text = prompt.instruction + prompt.body.format_map(json.loads(line)) + prompt.cue
        counts.append(len(tokenizer(text)["input_ids"]))
    return np.array(counts)


def test_the_carried_tokenizer_measures_the_lengths(
    tokenizer_folder: Path, rows_file: Path
) -> None:
    assert not list(tokenizer_folder.glob("*.safetensors"))
    lines = rows_file.read_text("utf-8").splitlines()
    counts_N = tokens(tokenizer_folder, lines)
    assert counts_N.mean() == pytest.approx(MEAN_TOKENS, rel=0.03)
    assert counts_N.std() > 50 and len(set(lines)) == 60
    labels = [json.loads(line)["is_correct"] for line in lines]
    assert sum(labels) == 30


def test_long_rows_are_the_first_ones_stretched(tokenizer_folder: Path, rows_file: Path) -> None:
    rows = list(long_rows(rows_file, 5, 900))
    lines = rows_file.read_text("utf-8").splitlines()[:5]
    originals = [json.loads(line) for line in lines]
    assert [row["question"] for row in rows] == [row["question"] for row in originals]
    counts_N = tokens(tokenizer_folder, [json.dumps(row) for row in rows])
    assert counts_N == pytest.approx(900, abs=10)
    shorter = RowLengths().stretch(originals[0], 200)["solution"]
    assert originals[0]["solution"].startswith(shorter) and shorter
