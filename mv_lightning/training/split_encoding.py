"""From the rows of a split to token ids, with what is known about each row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.data.cache import cached
from mv_lightning.data.columns import SLICE_COLUMNS
from mv_lightning.data.encoding import RowsTooLong, encode_parts
from mv_lightning.data.prompts import Prompt
from mv_lightning.data.sources import Source
from mv_lightning.data.summaries import Shortened, Summarizer
from mv_lightning.hashing import sha256_bytes
from mv_lightning.metrics.answers import mentions_answer
from mv_lightning.model.fingerprints import tokenizer_fingerprint
from mv_lightning.schema import TEXT_COLUMNS, EncodedRows, Split, SummaryCounts

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

_HEX_DIGITS = 12


@dataclass(frozen=True)
class SplitEncoder:
    """Tokenises splits under one prompt, and stores the token ids of each."""

    prompt: Prompt
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Maximum tokens of a row."""
    folder: Path
    """Where token ids are stored: a run that starts again does not tokenise again."""
    write: bool
    """False for a process that only reads there."""
    verbose: bool
    """Show progress, and print how many rows were truncated."""
    summarizer: Summarizer | None = None
    """Replaces long solutions; None to keep them."""

    @cached_property
    def _tokenizer_fingerprint(self) -> str:
        """Computed once for all splits, as it goes over the whole vocabulary."""
        return tokenizer_fingerprint(self.tokenizer)

    def encode(
        self,
        name: str,
        source: Source,
        rows_N: np.ndarray,
        train_rows_N: np.ndarray | None = None,
        rows_too_long: RowsTooLong = "error",
    ) -> Split:
        """Return the rows of a split.

        Args:
            name: Of the split.
            source: All rows.
            rows_N: int64 [N], the rows of the split.
            train_rows_N: int64, training rows that the questions of the split are searched in; None
                where they are not compared.
            rows_too_long: As for `encode_rows`.

        Raises:
            RowsTooLongError: As there.
        """
        chosen = source.table.select(rows_N)
        shortened = self._shorten(name, chosen)
        encoded = self._tokenise(name, source, rows_N, shortened, rows_too_long)
        self._print_truncation(name, encoded)
        counts = None
        if shortened is not None:
            counts = _count_summaries(shortened, chosen["solution"][:], chosen["answer"][:])
            self._print_summaries(name, counts, len(rows_N))
        rows_N = np.asarray(encoded.rows_N)
        question_ids_N = source.question_ids_N[rows_N]
        seen_N = sources_N = None
        if train_rows_N is not None:
            seen_N = np.isin(question_ids_N, source.question_ids_N[train_rows_N])
        if source.source_N is not None:
            sources_N = np.array(source.source_names)[source.source_N[rows_N]]
        slices = {}
        for column, slicing in SLICE_COLUMNS.items():
            if column in source.table.column_names:
                slices[slicing] = np.array(source.table.select(rows_N)[column][:])
        ids = _row_ids(source, rows_N)
        return Split(encoded, question_ids_N, slices, seen_N, sources_N, ids, counts)

    def _tokenise(
        self,
        name: str,
        source: Source,
        rows_N: np.ndarray,
        shortened: Shortened | None,
        rows_too_long: RowsTooLong,
    ) -> EncodedRows:
        """The tokens of a split, stored or not."""
        labels_N = None if source.labels_N is None else source.labels_N[rows_N]
        title = f"Tokenising {name}" if self.verbose else None

        def encode() -> Iterator[EncodedRows]:
            chosen = source.table.select(rows_N)
            texts: dict[str, Sequence[str]] = {name: chosen[name] for name in TEXT_COLUMNS}
            if shortened is not None:
                texts["solution"] = shortened.texts
            ids = _row_ids(source, rows_N)
            settings = (self.prompt, self.tokenizer, self.max_length, title, ids, rows_too_long)
            return encode_parts(texts, labels_N, rows_N, *settings)

        key = {
            "rows": [source.fingerprint, sha256_bytes(rows_N.tobytes())],
            "prompt": self.prompt.fingerprint,
            "tokenizer": self._tokenizer_fingerprint,
            "max_length": self.max_length,
            "rows_too_long": rows_too_long,
        }
        if self.summarizer is not None:
            key["summarizer"] = self.summarizer.metadata
        # Named by the key: runs with other rows or prompts may share the folder.
        digest = sha256_bytes(json.dumps(key).encode())[:_HEX_DIGITS]
        return cached(self.folder / f"{name}-{digest}", key, encode, write=self.write)

    def _shorten(self, name: str, rows: datasets.Dataset) -> Shortened | None:
        if self.summarizer is None:
            return None
        title = f"Summarising {name}" if self.verbose else None
        return self.summarizer.shorten(rows["solution"][:], self.tokenizer, title, self.write)

    def _print_summaries(self, name: str, counts: SummaryCounts, rows: int) -> None:
        if not self.verbose:
            return
        text = f"{name}: {counts.rows} of {rows} solutions were replaced by summaries"
        if counts.rows:
            before, after = (n / counts.rows for n in (counts.tokens_before, counts.tokens_after))
            text += (
                f", of {after:.0f} tokens instead of {before:.0f} on average; "
                f"{counts.keep_answer} of the {counts.with_answer} that contained the proposed "
                "answer still do"
            )
        print(text)

    def _print_truncation(self, name: str, encoded: EncodedRows) -> None:
        truncated = int((encoded.truncated_N > 0).sum())
        if truncated and self.verbose:
            print(
                f"{name}: {truncated} of {len(encoded)} rows ({truncated / len(encoded):.1%}) were "
                f"longer than {self.max_length} tokens and lost the middle of their solution"
            )


def _count_summaries(
    shortened: Shortened, solutions: Sequence[str], answers: Sequence[str]
) -> SummaryCounts:
    replaced_N = shortened.replaced_N
    with_answer = keep_answer = 0
    for place in np.flatnonzero(replaced_N).tolist():
        if mentions_answer(solutions[place], answers[place]):
            with_answer += 1
            keep_answer += mentions_answer(shortened.texts[place], answers[place])
    return SummaryCounts(
        rows=int(replaced_N.sum()),
        tokens_before=int(shortened.tokens_before_N[replaced_N].sum()),
        tokens_after=int(shortened.tokens_after_N[replaced_N].sum()),
        with_answer=with_answer,
        keep_answer=keep_answer,
    )


def _row_ids(source: Source, rows_N: np.ndarray) -> Sequence[str] | None:
    """Return the IDs of rows; None where they are numbered, or have IDs that are not unique.

    Such IDs prevent a prediction, but not a training.
    """
    if source.id_column is None:
        return None
    try:
        return source.ids_of(rows_N)
    except ValueError:
        return None
