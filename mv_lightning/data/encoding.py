"""Rows and a prompt to token ids; what is cut never touches the verdict.

The text of a row is tokenised field by field, with special tokens switched off: whatever a question
contains is text, so no row can end its own prompt or forge a verdict, and no template is applied to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.data.prompts import VERDICTS, Prompt
from mv_lightning.schema import TEXT_COLUMNS, UNLABELLED, EncodedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRUNCATION_MARKER = "\n[...]\n"
"""Stands where the middle of a solution was taken out."""
_CHUNK = 1_000  # rows tokenised per call: enough for the tokenizer's threads, small enough for a moving bar


def verdict_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the token ids of (False, True), in the order of the labels 0 and 1.

    Raises:
        ValueError: A verdict is more than one token, or both are the same token.
    """
    ids = {word: _text_ids(tokenizer, [word])[0] for word in VERDICTS.values()}
    if any(len(found) != 1 for found in ids.values()) or len(
        {tuple(found) for found in ids.values()}
    ) != len(ids):
        raise ValueError(
            f"the verdict needs one token of its own for each of {list(ids)}, but the tokenizer "
            f"{tokenizer.name_or_path!r} gives {ids}; choose a base model whose vocabulary has both words"
        )
    return ids[VERDICTS[False]][0], ids[VERDICTS[True]][0]


def encode_rows(
    columns: dict[str, Sequence[str]],
    labels_N: np.ndarray | None,
    rows_N: np.ndarray,
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    progress: str | None = None,
) -> EncodedRows:
    """Tokenise rows under a prompt.

    A row longer than `max_length` loses the middle of its solution; instruction, question, answer, cue and the
    solution's end always survive.

    Args:
        columns: `question`, `answer`, `solution`: N strings each.
        labels_N: bool [N], or None for rows without labels.
        rows_N: int [N], each row's number in its source.
        prompt: The prompt variant.
        tokenizer: The base model's tokenizer.
        max_length: Most tokens of a row, instruction included, verdict excluded.
        progress: Title of a progress bar; None for none.

    Raises:
        ValueError: Rows that do not fit even with the solution cut to nothing.
    """
    prefix_ids = tuple(tokenizer(prompt.instruction)["input_ids"])
    if prefix_ids and prefix_ids[-1] == tokenizer.eos_token_id:
        prefix_ids = prefix_ids[:-1]
    cue_ids, mark_ids = _text_ids(tokenizer, [prompt.cue, TRUNCATION_MARKER])
    literal_ids = _text_ids(tokenizer, [literal for literal, _ in prompt.pieces])
    fields = [field for _, field in prompt.pieces]
    budget = max_length - len(prefix_ids) - len(cue_ids) - sum(map(len, literal_ids))

    encoded: list[np.ndarray] = []
    truncated_N, question_prefix_N = np.zeros((2, len(rows_N)), dtype=np.int32)
    too_long: list[int] = []
    for start in _chunks(len(rows_N), progress):
        texts = {
            name: columns[name][start : start + _CHUNK] for name in TEXT_COLUMNS if name in fields
        }
        ids = {name: _text_ids(tokenizer, list(column)) for name, column in texts.items()}
        for offset in range(len(next(iter(ids.values())))):
            parts = {name: column[offset] for name, column in ids.items()}
            solution = parts.get("solution", [])
            room = budget - sum(map(len, parts.values())) + len(solution)
            if room < 0:
                too_long.append(start + offset)
                continue
            if len(solution) > room:
                parts["solution"] = _truncate_middle(solution, room, mark_ids)
                truncated_N[start + offset] = len(solution) - room
            if fields[0] == "question":  # the literal text behind it is every row's, too
                question_prefix_N[start + offset] = sum(map(len, literal_ids[:2])) + len(
                    parts["question"]
                )
            body = (
                token
                for literal, field in zip(literal_ids, fields, strict=True)
                for token in (*literal, *(parts[field] if field else ()))
            )
            encoded.append(np.fromiter((*body, *cue_ids), dtype=np.int32))
    if too_long:
        shown = ", ".join(str(rows_N[i]) for i in too_long[:5])
        raise ValueError(
            f"{len(too_long)} rows do not fit into max_length={max_length} tokens even with the solution cut to "
            f"nothing (source rows {shown}{', ...' if len(too_long) > 5 else ''}); raise max_length, choose a "
            "shorter prompt, or take these rows out of the source"
        )
    lengths = [len(row) for row in encoded]
    return EncodedRows(
        ids_T=np.concatenate(encoded) if encoded else np.empty(0, dtype=np.int32),
        starts_N=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        labels_N=np.full(len(rows_N), UNLABELLED, dtype=np.int8)
        if labels_N is None
        else labels_N.astype(np.int8),
        rows_N=np.asarray(rows_N, dtype=np.int64),
        truncated_N=truncated_N,
        question_prefix_N=question_prefix_N,
        prefix_ids=prefix_ids,
    )


def _text_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


def _truncate_middle(ids: list[int], room: int, mark_ids: list[int]) -> list[int]:
    """Keep the start and the end of `ids` in `room` tokens; the end gets the odd token, and all where it is tight."""
    if room <= 2 * len(mark_ids):
        return ids[len(ids) - room :]
    kept = room - len(mark_ids)
    tail = kept - kept // 2
    return [*ids[: kept // 2], *mark_ids, *ids[len(ids) - tail :]]


def _chunks(rows: int, title: str | None) -> Iterator[int]:
    starts: Iterable[int] = range(0, rows, _CHUNK)
    if title and rows > _CHUNK:
        from tqdm import tqdm

        with tqdm(total=rows, desc=title, unit="row") as bar:
            for start in starts:
                yield start
                bar.update(min(_CHUNK, rows - start))
    else:
        yield from starts
