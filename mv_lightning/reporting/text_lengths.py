"""How long the texts of a source are: words of all rows, tokens of a sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.data.chat import usable_prompts
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

Lengths = dict[str, dict[str, np.ndarray]]
"""What is counted -> in which text -> int64 [N]."""
WORDS, TOKENS, ROW_TOKENS = "words", "tokens", "tokens of a row"
COUNTED_TEXTS = ("question", "solution")
TOKEN_SAMPLE = 5_000
"""Rows that are tokenised: a share then has a standard error of at most 0.7 points."""

_UNLIMITED = 1 << 30  # tokens
_TOKENISED = 200  # rows at a time: a tokenizer's output takes tens of times the bytes of its text
_COUNTED = 1 << 11  # rows at a time: a megabyte or two of text, twenty with what is counted in it
_BLANKS = b" \t\n\r\v\f"


def measure_lengths(source: Source, tokenizer: str | None, seed: int) -> Lengths:
    """Count words in all rows, and tokens in a sample of them.

    Args:
        source: N rows.
        tokenizer: Base model whose tokens are counted; None for words only.
        seed: Seed of the sample.

    Returns:
        int64 lengths by what is counted: `WORDS` of question and solution [N]; with a tokenizer
        also `TOKENS` of both, and `ROW_TOKENS` of the whole row under each prompt, of the sampled
        rows.

    Raises:
        ValueError: The tokenizer cannot be read.
    """
    table = source.table.with_format("arrow")[:]
    lengths = {WORDS: {name: count_words(table[name]) for name in COUNTED_TEXTS}}
    if tokenizer is not None:
        from mv_lightning.model.base import BaseSettings, load_tokenizer

        sample_N = np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:TOKEN_SAMPLE])
        lengths |= _count_tokens(
            source.table[sample_N], sample_N, load_tokenizer(BaseSettings(name=tokenizer))
        )
    return lengths


def count_words(column: pa.ChunkedArray) -> np.ndarray:
    """Count the words of each text: runs of characters other than ASCII white space.

    On bytes: a gigabyte takes seconds.

    Args:
        column: N texts.

    Returns:
        int64 [N].
    """
    counts = [np.empty(0, dtype=np.int64)]
    for chunk in column.chunks:
        for start in range(0, len(chunk), _COUNTED):
            counts.append(_count_slice(chunk.slice(start, _COUNTED)))
    return np.concatenate(counts)


def _count_slice(texts: pa.StringArray) -> np.ndarray:
    blank = np.zeros(256, dtype=bool)
    blank[list(_BLANKS)] = True
    _, offsets, values = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    bytes_T = np.frombuffer(values or b"", np.uint8)[bounds[0] : bounds[-1]]
    bounds = bounds - bounds[0]
    blank_T = blank[bytes_T]
    before_T = np.r_[True, blank_T[:-1]][: len(bytes_T)]
    before_T[bounds[:-1][bounds[:-1] < len(bytes_T)]] = True
    starts = np.r_[0, np.cumsum(~blank_T & before_T)]
    counts_N: np.ndarray = np.diff(starts[bounds])
    return counts_N


def _count_tokens(
    columns: Mapping[str, Sequence[str]], rows_N: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> Lengths:
    tokens: defaultdict[str, list[int]] = defaultdict(list)
    row_tokens: defaultdict[str, list[int]] = defaultdict(list)
    for start in range(0, len(rows_N), _TOKENISED):
        stop = start + _TOKENISED
        part = {name: column[start:stop] for name, column in columns.items()}
        for name in COUNTED_TEXTS:
            tokens[name] += map(len, tokenizer(part[name], add_special_tokens=False)["input_ids"])
        for name, prompt in usable_prompts(tokenizer).items():
            encoded = encode_rows(part, None, rows_N[start:stop], prompt, tokenizer, _UNLIMITED)
            row_tokens[name] += (encoded.lengths_N + len(encoded.prefix_ids)).tolist()
    return {
        TOKENS: {name: np.array(lengths) for name, lengths in tokens.items()},
        ROW_TOKENS: {name: np.array(lengths) for name, lengths in row_tokens.items()},
    }
