"""Rows and a prompt to token ids; truncation never touches the verdict.

The prompt's own text is trusted: special tokens in it are special. The text of a row is tokenised
field by field with special tokens switched off: whatever a question contains is text, so no row can
end its own prompt or imitate a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from mv_lightning.data.prompts import Prompt
from mv_lightning.schema import TEXT_COLUMNS, UNLABELLED, EncodedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRUNCATION_MARKER = "\n[...]\n"
"""Replaces the middle of a solution that is too long."""
RowsTooLong = Literal["error", "missing"]
"""What becomes of a prediction with rows that do not fit: it is refused, or they have no score."""
_CHUNK = 1_000
"""Rows per call of the tokenizer: enough for its threads, few enough for a moving progress bar."""


class RowsTooLongError(ValueError):
    """Rows that do not fit into the maximum length even without their solution."""

    def __init__(self, tokens: Mapping[int, int], names: Sequence[str], max_length: int) -> None:
        """Name all of them.

        Args:
            tokens: By the position of a row: its tokens without the solution.
            names: What each of these rows is called in the message.
            max_length: Maximum tokens of a row.
        """
        counts = zip(names, tokens.values(), strict=True)
        rows = ", ".join(f"{name} ({count} tokens)" for name, count in counts)
        super().__init__(
            f"{len(tokens):,} rows do not fit into max_length={max_length} tokens even without "
            f"their solution: {rows}. Raise data.max_length (in Python: max_length) to "
            f"{max(tokens.values())}, shorten the prompt, or remove these rows. A prediction can "
            "leave them without a score: predict.rows_too_long=missing (in Python: "
            'rows_too_long="missing")'
        )


def verdict_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, int]:
    """Return the token ids of (False, True), in the order of the labels 0 and 1.

    They are read in context, after the cue: a tokenizer of the SentencePiece kind, such as Llama
    2's, splits " True" in two when it stands by itself, and has one token for it after other text.

    Args:
        tokenizer: The base model's tokenizer.
        prompt: The prompt, rendered.

    Raises:
        ValueError: After the cue the verdicts are not one token each, or they are the same token.
    """
    prompt.check_rendered()
    cue_ids = _trusted_ids(tokenizer, prompt.cue)
    wrong, right = [_trusted_ids(tokenizer, prompt.cue + verdict) for verdict in prompt.verdicts]
    n_cue = len(cue_ids)
    keeps_cue = wrong[:n_cue] == right[:n_cue] == cue_ids
    if keeps_cue and len(wrong) == len(right) == n_cue + 1 and wrong != right:
        return wrong[-1], right[-1]
    n_shown = n_cue if keeps_cue else max(0, n_cue - 3)
    got = [tokenizer.convert_ids_to_tokens(ids[n_shown:]) for ids in (wrong, right)]
    raise ValueError(
        f"expected one token of its own for each of {prompt.verdicts} after the cue "
        f"{prompt.cue!r}, got {got[0]} and {got[1]} from the tokenizer "
        f"{tokenizer.name_or_path!r}. Choose a base model whose vocabulary has both words, or "
        "another end of the cue."
    )


def encode_rows(
    columns: Mapping[str, Sequence[str]],
    labels_N: np.ndarray | None,
    rows_N: np.ndarray,
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    progress: str | None = None,
    ids: Sequence[str] | None = None,
    rows_too_long: RowsTooLong = "error",
) -> EncodedRows:
    """Tokenise rows under a prompt.

    A row longer than `max_length` loses the middle of its solution; instruction, question, answer,
    cue and the end of the solution always stay.

    Args:
        columns: `question`, `answer`, `solution`: N strings each.
        labels_N: bool [N], or None for rows without labels.
        rows_N: int [N], each row's number in its source.
        prompt: The prompt variant, rendered.
        tokenizer: The base model's tokenizer.
        max_length: Maximum tokens of a row, instruction included, verdict excluded.
        progress: Title of a progress bar; None for none.
        ids: N IDs that name rows in a message; None for their numbers.
        rows_too_long: For rows that do not fit even without their solution: `error`, or `missing`
            to leave them out.

    Raises:
        RowsTooLongError: There are such rows.
    """
    settings = (prompt, tokenizer, max_length, progress, ids, rows_too_long)
    return concatenate_rows(list(encode_parts(columns, labels_N, rows_N, *settings)))


def encode_parts(
    columns: Mapping[str, Sequence[str]],
    labels_N: np.ndarray | None,
    rows_N: np.ndarray,
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    progress: str | None = None,
    ids: Sequence[str] | None = None,
    rows_too_long: RowsTooLong = "error",
) -> Iterator[EncodedRows]:
    """Tokenise rows a part at a time, so that more rows can be encoded than the memory can hold.

    Args:
        columns, labels_N, rows_N, prompt, tokenizer, max_length, progress, ids, rows_too_long: As
            for `encode_rows`. The columns are only read in slices.

    Yields:
        Some rows, in order, as `encode_rows` would return them; at least one part.

    Raises:
        RowsTooLongError: As for `encode_rows`, after the last part.
    """
    prompt.check_rendered()
    tokens = _tokenize_prompt(prompt, tokenizer)
    too_long: dict[int, int] = {}
    for start, fields in _tokenize_fields(columns, tokens, tokenizer, progress):
        part = slice(start, start + len(fields["question"]))
        labels = None if labels_N is None else labels_N[part]
        encoded, too_long_here = _encode_part(fields, labels, rows_N[part], tokens, max_length)
        for index, n_tokens in too_long_here.items():
            too_long[start + index] = n_tokens
        yield encoded
    if too_long and rows_too_long == "error":
        names = [f"row {rows_N[i]}" if ids is None else f"ID {ids[i]}" for i in too_long]
        raise RowsTooLongError(too_long, names, max_length)


def _encode_part(
    fields: Mapping[str, list[list[int]]],
    labels_N: np.ndarray | None,
    rows_N: np.ndarray,
    tokens: _PromptTokens,
    max_length: int,
) -> tuple[EncodedRows, dict[int, int]]:
    """The rows that fit, and of the others the tokens without the solution, by their positions."""
    max_fields = max_length - tokens.n_fixed
    encoded: list[np.ndarray] = []
    if labels_N is None:
        labels_N = np.full(len(rows_N), UNLABELLED)
    truncated_N, question_prefix_N = np.zeros((2, len(rows_N)), dtype=np.int32)
    too_long: dict[int, int] = {}
    for index in range(len(rows_N)):
        row = {name: column[index] for name, column in fields.items()}
        n_solution = len(row.get("solution", []))
        n_over = sum(map(len, row.values())) - max_fields
        if n_over > n_solution:
            too_long[index] = max_length + n_over - n_solution
            continue
        if n_over > 0:
            row["solution"] = _truncate_middle(row["solution"], n_solution - n_over, tokens.marker)
            truncated_N[index] = n_over
        question_prefix_N[index] = tokens.n_question_prefix(row["question"])
        encoded.append(tokens.row(row))
    fits_N = ~np.isin(np.arange(len(rows_N)), list(too_long))
    rows = EncodedRows(
        ids_T=np.concatenate([np.empty(0, dtype=np.int32), *encoded]),
        starts_N=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        labels_N=labels_N[fits_N].astype(np.int8),
        rows_N=rows_N[fits_N].astype(np.int64),
        truncated_N=truncated_N[fits_N],
        question_prefix_N=question_prefix_N[fits_N],
        prefix_ids=tuple(tokens.prefix),
    )
    return rows, too_long


def concatenate_rows(parts: Sequence[EncodedRows]) -> EncodedRows:
    """Return parts as one.

    Args:
        parts: At least one, tokenised under the same prompt.
    """
    arrays = {}
    for name in ("ids_T", "labels_N", "rows_N", "truncated_N", "question_prefix_N"):
        arrays[name] = np.concatenate([getattr(part, name) for part in parts])
    lengths_N = np.concatenate([part.lengths_N for part in parts])
    starts_N = np.concatenate([[0], np.cumsum(lengths_N)])
    return EncodedRows(**arrays, starts_N=starts_N, prefix_ids=parts[0].prefix_ids)


def join_rows(parts: Sequence[EncodedRows]) -> EncodedRows:
    """Return the rows of several calls of `encode_rows` as those of one, numbered from 0.

    Args:
        parts: As for `concatenate_rows`.
    """
    return replace(concatenate_rows(parts), rows_N=np.arange(sum(map(len, parts))))


@dataclass(frozen=True)
class _PromptTokens:
    """A prompt as token ids."""

    prefix: list[int]
    """The instruction, beginning-of-text token included."""
    literals: list[list[int]]
    """The literal texts of the body."""
    fields: list[str | None]
    """The field after each of them."""
    cue: list[int]
    marker: list[int]
    """`TRUNCATION_MARKER`."""

    @property
    def n_fixed(self) -> int:
        """Tokens of a row whose fields are empty."""
        return len(self.prefix) + sum(map(len, self.literals)) + len(self.cue)

    def n_question_prefix(self, question: list[int]) -> int:
        """Tokens at the start of the row that all rows of its question have."""
        if self.fields[0] != "question":
            return 0
        # The literal text after the question is the same in every row, too.
        return sum(map(len, self.literals[:2])) + len(question)

    def row(self, parts: Mapping[str, list[int]]) -> np.ndarray:
        """int32, body and cue of a row with these fields."""
        ids: list[int] = []
        for literal, field in zip(self.literals, self.fields, strict=True):
            ids += literal
            if field:
                ids += parts[field]
        return np.array(ids + self.cue, dtype=np.int32)


def _tokenize_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> _PromptTokens:
    return _PromptTokens(
        prefix=_prefix_ids(tokenizer, prompt.instruction),
        literals=[_trusted_ids(tokenizer, literal) for literal, _ in prompt.pieces],
        fields=[field for _, field in prompt.pieces],
        cue=_trusted_ids(tokenizer, prompt.cue),
        marker=_trusted_ids(tokenizer, TRUNCATION_MARKER),
    )


def _tokenize_fields(
    columns: Mapping[str, Sequence[str]],
    tokens: _PromptTokens,
    tokenizer: PreTrainedTokenizerBase,
    progress: str | None,
) -> Iterator[tuple[int, dict[str, list[list[int]]]]]:
    """Yield the first row of every chunk, and the ids of each field by its name."""
    names = [name for name in TEXT_COLUMNS if name in tokens.fields]
    for start in _chunks(len(columns["question"]), progress):
        fields = {}
        for name in names:
            texts = list(columns[name][start : start + _CHUNK])
            fields[name] = _row_text_ids(tokenizer, texts) if texts else []
        yield start, fields


def _prefix_ids(tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
    """The instruction after what the tokenizer puts before a text, such as beginning-of-text.

    Where the instruction begins with that itself, it is there once. What the tokenizer puts after a
    text, such as an end-of-text token, is left out.
    """
    ids = _trusted_ids(tokenizer, instruction)
    with_added: list[int] = tokenizer(instruction)["input_ids"]
    for n_before in range(len(with_added) - len(ids) + 1):
        if with_added[n_before : n_before + len(ids)] == ids:
            before = with_added[:n_before]
            return ids if ids[:n_before] == before else before + ids
    raise ValueError(
        f"the tokenizer {tokenizer.name_or_path!r} changes the instruction where it adds special "
        "tokens. Choose another base model."
    )


def _trusted_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a prompt's own text; special tokens in it are special."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _row_text_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Ids of the texts of rows; special tokens in them are text."""
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _truncate_middle(ids: list[int], n_kept: int, marker: list[int]) -> list[int]:
    """Keep start and end of `ids` in `n_kept` tokens, a marker between them.

    The end gets the odd token, and everything where there is little space.
    """
    if n_kept <= 2 * len(marker):
        return ids[len(ids) - n_kept :]
    n_text = n_kept - len(marker)
    n_end = n_text - n_text // 2
    return [*ids[: n_text // 2], *marker, *ids[len(ids) - n_end :]]


def _chunks(n_rows: int, title: str | None) -> Iterator[int]:
    """The first row of every chunk, one at least, with a progress bar where there are several."""
    starts = range(0, max(n_rows, 1), _CHUNK)
    if not title or n_rows <= _CHUNK:
        yield from starts
        return
    from tqdm import tqdm

    with tqdm(total=n_rows, desc=title, unit="row") as bar:
        for start in starts:
            yield start
            bar.update(min(_CHUNK, n_rows - start))
