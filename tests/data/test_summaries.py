"""Only long solutions are replaced, each text is summarised once, and a kill loses no batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mv_lightning.data import summaries
from mv_lightning.data.summaries import Summarizer, SummarySettings
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.testing import save_tiny_summarizer

SOLUTIONS = [
    "6 x 7 = 42.",
    "The verdict is True, as 1 + 1 is 2. " * 4,
    "",
    "Question: 9 * 9 is 81 and nothing else. " * 3,
    "The verdict is True, as 1 + 1 is 2. " * 4,
    "Solution: 8 - 3 is 5, so the answer is 5. " * 5,
]


def settings(model: Path, **values: int) -> SummarySettings:
    return SummarySettings(**{"model": str(model), "above_tokens": 20, "max_length": 6, **values})


def test_long_solutions_are_replaced(tiny_summarizer: Path, tiny_settings: BaseSettings) -> None:
    tokenizer = load_tokenizer(tiny_settings)
    shortened = Summarizer(settings(tiny_summarizer)).shorten(SOLUTIONS, tokenizer, None)
    assert shortened.replaced_N.tolist() == [False, True, False, True, True, True]
    for index, text in enumerate(SOLUTIONS):
        if not shortened.replaced_N[index]:
            assert shortened.texts[index] == text
        for tokens_N, counted in (
            (shortened.tokens_before_N, text),
            (shortened.tokens_after_N, shortened.texts[index]),
        ):
            ids = tokenizer(counted, add_special_tokens=False)["input_ids"]
            assert tokens_N[index] == len(ids)
    assert (shortened.tokens_before_N[shortened.replaced_N] > 20).all()
    assert shortened.texts[1] == shortened.texts[4] and all(shortened.texts[1:2])


def test_summaries_are_read_back(
    tiny_summarizer: Path,
    tiny_settings: BaseSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = load_tokenizer(tiny_settings)
    chosen = settings(tiny_summarizer, batch_size=2)
    first = Summarizer(chosen, tmp_path).shorten(SOLUTIONS, tokenizer, "Summarising")
    (file,) = tmp_path.iterdir()
    lines = [line for line in file.read_bytes().splitlines() if line]
    assert len(lines) == 3, "equal texts are summarised once"
    # A kill in the middle of a write leaves a part of a line.
    file.write_bytes(lines[0] + b"\n" + lines[1] + b"\n" + lines[2][:9])
    read_only = Summarizer(chosen, tmp_path).shorten(SOLUTIONS, tokenizer, None, store=False)
    assert read_only.texts == first.texts and file.read_bytes().endswith(lines[2][:9])
    again = Summarizer(chosen, tmp_path).shorten(SOLUTIONS, tokenizer, None)
    assert again.texts == first.texts and file.read_bytes().endswith(lines[2] + b"\n")
    monkeypatch.setattr(summaries, "_load", None)
    stored = Summarizer(chosen, tmp_path).shorten(SOLUTIONS, tokenizer, None)
    assert stored.texts == first.texts


def test_another_model_or_length_has_other_summaries(
    tiny_folder: Path, tiny_summarizer: Path, tmp_path: Path
) -> None:
    one = Summarizer(settings(tiny_summarizer)).metadata
    copy = tmp_path / "copy"
    save_tiny_summarizer(tiny_folder, copy)
    same = Summarizer(settings(copy, batch_size=3)).metadata
    assert same["fingerprint"] == one["fingerprint"], "neither its place nor the batch matters"
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_heads": 2, "d_kv": 16}))
    others = [
        Summarizer(settings(copy)).metadata,
        Summarizer(settings(tiny_summarizer, max_length=7)).metadata,
        Summarizer(settings(tiny_summarizer, above_tokens=21)).metadata,
    ]
    fingerprints = {one["fingerprint"], *(other["fingerprint"] for other in others)}
    assert len(fingerprints) == 4
    restored = Summarizer.from_metadata(one)
    assert restored is not None and restored.metadata == one
    assert Summarizer.from_metadata(None) is None
    assert Summarizer.from_metadata({"name": None, "fingerprint": None}) is None


def test_what_is_refused(tiny_folder: Path, tiny_settings: BaseSettings, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_settings)
    for folder, message in (
        (tiny_folder, "expected a sequence-to-sequence model"),
        (tmp_path / "no" / "such" / "folder", "the folder or the Hub id"),
    ):
        with pytest.raises(ValueError, match=message):
            Summarizer(settings(folder), tmp_path / "s").shorten(SOLUTIONS, tokenizer, None)
    for values in ({"above_tokens": -1}, {"max_length": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"expected data\.summarize"):
            SummarySettings(**values)
