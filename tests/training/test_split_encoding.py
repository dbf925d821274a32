"""What is known about the rows of a split follows their order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.data.summaries import Summarizer, SummarySettings
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.training.split_encoding import SplitEncoder

ROWS_N = np.array([5, 0, 3])


@pytest.fixture
def encoder(tiny_settings: BaseSettings, tmp_path: Path) -> SplitEncoder:
    tokenizer = load_tokenizer(tiny_settings)
    prompt = load_prompt("answer_only")
    return SplitEncoder(prompt, tokenizer, 300, tmp_path / "tokens", write=True, verbose=True)


def write_rows(path: Path, ids: list[str]) -> str:
    """Write a row for each ID; the error and the level of a row name it."""
    lines = [
        {
            "id": name,
            "question": f"{i % 4}?",
            "answer": "1",
            "solution": "",
            "is_correct": True,
            "error": f"e{i}",
            "level": 10 + i,
        }
        for i, name in enumerate(ids)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_ids_slices_and_questions_are_those_of_the_rows(
    encoder: SplitEncoder, tmp_path: Path
) -> None:
    source = load_source(write_rows(tmp_path / "rows.jsonl", list("abcdef")))
    split = encoder.encode("val", source, ROWS_N, train_rows_N=np.array([1, 2]))
    assert split.ids == ["f", "a", "d"] and split.encoded.rows_N.tolist() == ROWS_N.tolist()
    slices = {name: values_N.tolist() for name, values_N in split.slices.items()}
    assert slices == {"kind": ["e5", "e0", "e3"], "level": ["15", "10", "13"]}
    # Row 5 has the question of row 1; rows 0 and 3 have questions of their own.
    assert split.seen_N is not None and split.seen_N.tolist() == [True, False, False]


def test_summaries_are_encoded_and_counted(
    encoder: SplitEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Halves(Summarizer):
        """Keeps the first half of each text, in place of a model."""

        @property
        def metadata(self) -> dict[str, Any]:  # type: ignore[override]
            return {"name": "halves", "fingerprint": "h"}

        def _summaries(self, texts: Sequence[str], progress: str | None, store: bool) -> list[str]:
            return [text[: len(text) // 2] for text in texts]

    rows = [
        ("5", "so 5 is it; 1 + 1 + 1 + 1 + 1"),
        ("7", "1 + 1 + 1 + 1 + 1 + 2 and 7"),
        ("5", "5"),
    ]
    lines = [
        {"question": "?", "answer": answer, "solution": solution, "is_correct": True}
        for answer, solution in [*rows, ("3", "2 + 2 + 2 + 2 + 2 + 2")]
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summarizer = Halves(SummarySettings("halves", above_tokens=5))
    encoder = replace(encoder, prompt=load_prompt("explanation"), summarizer=summarizer)
    split = encoder.encode("val", load_source(str(path)), np.arange(4))
    counts = split.summaries
    assert counts is not None
    assert (counts.rows, counts.with_answer, counts.keep_answer) == (3, 2, 1)
    assert 0 < counts.tokens_after < counts.tokens_before
    text = encoder.tokenizer.decode(split.encoded.row(1))
    assert "1 + 1 + 1" in text and "and 7" not in text
    printed = capsys.readouterr().out
    assert "3 of 4 solutions were replaced" in printed and "1 of the 2 that contained" in printed
    whole = replace(encoder, summarizer=None).encode("val", load_source(str(path)), np.arange(4))
    assert whole.summaries is None and len(whole.encoded.ids_T) > len(split.encoded.ids_T)


def test_ids_that_repeat_do_not_prevent_training(encoder: SplitEncoder, tmp_path: Path) -> None:
    source = load_source(write_rows(tmp_path / "rows.jsonl", list("aabcde")))
    assert encoder.encode("train", source, ROWS_N).ids is None


def test_rows_that_do_not_fit_are_named_by_their_ids(encoder: SplitEncoder, tmp_path: Path) -> None:
    short = dataclasses.replace(encoder, max_length=20)
    source = load_source(write_rows(tmp_path / "rows.jsonl", list("abcdef")))
    with pytest.raises(ValueError, match=r"3 rows .*: ID f \(\d+ tokens\), ID a \(.*, ID d \("):
        short.encode("predict", source, ROWS_N)


def test_tokens_are_stored_once(
    encoder: SplitEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(write_rows(tmp_path / "rows.jsonl", list("abcdef")))
    first = encoder.encode("val", source, ROWS_N)
    monkeypatch.setattr("mv_lightning.training.split_encoding.encode_parts", None)
    again = encoder.encode("val", source, ROWS_N)
    assert np.array_equal(first.encoded.ids_T, again.encoded.ids_T)


def test_rows_are_read_and_stored_in_parts(
    encoder: SplitEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(write_rows(tmp_path / "rows.jsonl", list("abcdefg")))
    rows_N = np.array([6, 2, 0, 5, 3])
    whole = replace(encoder, folder=tmp_path / "whole").encode("val", source, rows_N).encoded
    monkeypatch.setattr("mv_lightning.data.encoding._CHUNK", 2)
    parts = encoder.encode("val", source, rows_N).encoded
    for field in dataclasses.fields(parts):
        assert np.array_equal(getattr(parts, field.name), getattr(whole, field.name)), field.name
