"""The values that pass between the modules of the package; nothing here computes.

Shape suffixes used here and in `data/batching.py` and `model/`:

    T  tokens of a packed sequence (shared beginnings once, then the rest of every row)
    B  rows of a batch
    D  hidden size of the base model
    H  attention heads
    V  vocabulary
    N  rows of a source, shard or prediction file
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mv_lightning.hashing import digests, number_distinct

if TYPE_CHECKING:
    import torch

TEXT_COLUMNS = ("question", "answer", "solution")
LABEL_COLUMN = "is_correct"
DEFAULT_SEED = 3407
"""The seed of the NYU contest report, used for every draw unless another one is set."""
UNLABELLED = -1
"""The label of a row that has none (contest test rows), where a label must be an integer."""


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of N rows, concatenated, without the instruction prefix that all of them share.

    Flat arrays rather than N objects: 20,000 rows cost one allocation, and a worker process
    receives them without pickling a list.
    """

    ids_T: np.ndarray
    """int32 [T], every row's ids after the prefix, row after row."""
    starts_N: np.ndarray
    """int64 [N + 1], row i is `ids_T[starts_N[i]:starts_N[i + 1]]`."""
    labels_N: np.ndarray
    """int8 [N], 1 correct, 0 incorrect, `UNLABELLED`."""
    rows_N: np.ndarray
    """int64 [N], the row's number in its source."""
    truncated_N: np.ndarray
    """int32 [N], tokens removed from the middle of the solution; 0 where the row fitted."""
    question_prefix_N: np.ndarray
    """int32 [N], tokens at the start of each row that all rows of its question share; 0 where the
    prompt puts something else before the question."""
    prefix_ids: tuple[int, ...]
    """The instruction's ids, beginning-of-text token included."""

    def __len__(self) -> int:
        return len(self.rows_N)

    def row(self, index: int) -> np.ndarray:
        """Return the ids of a row after the prefix, int32."""
        return self.ids_T[self.starts_N[index] : self.starts_N[index + 1]]

    def prompt_ids(self, index: int) -> np.ndarray:
        """Return the ids of a row's whole prompt, the instruction included: int64."""
        return np.concatenate([np.array(self.prefix_ids, dtype=np.int64), self.row(index)])

    @cached_property
    def prefix_groups_N(self) -> np.ndarray:
        """int64 [N], from 0: equal for the rows that start with the same question prefix."""
        prefixes = (
            # A row without a question prefix is a group of its own: no tokens have 9 bytes.
            self.row(index)[:tokens].data if tokens else index.to_bytes(9)
            for index, tokens in enumerate(self.question_prefix_N.tolist())
        )
        return number_distinct(digests(prefixes))

    @property
    def lengths_N(self) -> np.ndarray:
        """int64 [N], tokens of each row after the prefix."""
        return np.diff(self.starts_N)


@dataclass(frozen=True)
class SummaryCounts:
    """The solutions of a split that were replaced by summaries."""

    rows: int
    """Solutions that were replaced."""
    tokens_before: int
    """Their tokens in all."""
    tokens_after: int
    """Tokens of their summaries in all."""
    with_answer: int
    """Solutions among them that contain the proposed answer, compared by value."""
    keep_answer: int
    """Summaries of these that contain it, too."""


@dataclass(frozen=True)
class Split:
    """The rows of a split, and what is known about each of them."""

    encoded: EncodedRows
    """N rows, tokenised."""
    question_ids_N: np.ndarray
    """int64 [N], equal for rows of the same question."""
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    """str [N] each, by the name of the slicing: what the source states about the rows, the `kind`
    of error and the `level` of difficulty."""
    seen_N: np.ndarray | None = None
    """bool [N], whether the question occurs in training rows; None where rows are grouped by
    question, so that it never does, or where it is not known."""
    sources_N: np.ndarray | None = None
    """str [N], the source of each row, where a run has several."""
    ids: Sequence[str] | None = None
    """N IDs as the source spells them; None for the row numbers."""
    summaries: SummaryCounts | None = None
    """None where solutions are not summarised."""

    def positions(self, rows_N: np.ndarray) -> np.ndarray:
        """Return the positions of source rows in this split.

        Args:
            rows_N: int64 [M], row numbers of the source that are in this split.

        Returns:
            int64 [M], positions in arrays of this split.
        """
        order_N = np.argsort(self.encoded.rows_N)
        return order_N[np.searchsorted(self.encoded.rows_N, rows_N, sorter=order_N)]


@dataclass(frozen=True)
class EvalOutputs:
    """The outputs of a model for N labelled rows."""

    rows_N: np.ndarray
    """int64 [N], source row numbers, ascending."""
    labels_N: np.ndarray
    """bool [N]."""
    log_odds_N: np.ndarray
    """float64 [N], log P(True) - log P(False)."""
    losses_N: np.ndarray
    """float64 [N], cross-entropy of the right verdict over the whole vocabulary, in nats."""
    question_ids_N: np.ndarray | None = None
    """int64 [N], the question of each row (`fingerprint.question_ids`); None if not known."""


@dataclass(frozen=True)
class Packing:
    """The tree of a packed sequence, which decides what each token attends to.

    The sequence consists of consecutive spans. A span continues its parent: its tokens attend to
    the spans on the path from the root and, causally, to their own. The root is the instruction,
    which all rows share; then come the questions, each of one row or several; the rest of every
    row is a leaf. In the ablations of `batching` each row is one span (`row_spans`).
    """

    lengths: tuple[int, ...]
    """Tokens of each span, in the order of the sequence."""
    parents: tuple[int, ...]
    """The span that each one continues, an earlier one; -1 for a root."""
    row_spans: tuple[int, ...] | None = None
    """The span of each row, where each row is one span; None where a row is the path to a leaf."""

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """The spans from the root to each span, itself included."""
        paths: list[tuple[int, ...]] = []
        for span, parent in enumerate(self.parents):
            before = paths[parent] if parent >= 0 else ()
            paths.append((*before, span))
        return tuple(paths)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens on the path from the start of the root to the end of each span."""
        ends: list[int] = []
        for length, parent in zip(self.lengths, self.parents, strict=True):
            before = ends[parent] if parent >= 0 else 0
            ends.append(before + length)
        return tuple(ends)

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """The spans that rows end with, in the order of the rows."""
        continued = set(self.parents)
        return tuple(span for span in range(len(self.lengths)) if span not in continued)

    @cached_property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The spans that each row consists of, in the order of the rows."""
        if self.row_spans is not None:
            return tuple((span,) for span in self.row_spans)
        return tuple(self.paths[leaf] for leaf in self.leaves)

    @cached_property
    def row_tokens(self) -> tuple[int, ...]:
        """Tokens of each row, counted as if nothing were shared."""
        return tuple(sum(self.lengths[span] for span in row) for row in self.rows)


@dataclass(frozen=True)
class Batch:
    """Packed rows: what they start with in common is stored once, and there is no padding.

    The ablations of `batching` have neither property.
    """

    ids_T: torch.Tensor
    """int64 [T]."""
    positions_T: torch.Tensor
    """int64 [T]; positions continue over the spans of a row, as if it were the only one."""
    packing: Packing
    labels_B: torch.Tensor
    """int64 [B], see `EncodedRows.labels_N`."""
    rows_B: torch.Tensor
    """int64 [B], source row numbers."""
    step_rows: int
    """Rows of the optimizer step that this micro-batch is a part of: the divisor of its loss."""
    questions_B: torch.Tensor | None = None
    """int64 [B], equal for rows of the same question; None where no loss compares rows."""

    @cached_property
    def verdict_B(self) -> torch.Tensor:
        """int64 [B], index of each row's last token: the position that predicts the verdict."""
        import torch

        ends = list(itertools.accumulate(self.packing.lengths))
        lasts = [ends[row[-1]] - 1 for row in self.packing.rows]
        return torch.tensor(lasts, device=self.ids_T.device)

    @property
    def tokens(self) -> int:
        """Tokens of the rows, counted as if nothing were shared."""
        return sum(self.packing.row_tokens)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on `device`; Lightning calls this."""
        names = ["ids_T", "positions_T", "labels_B", "rows_B"]
        if self.questions_B is not None:
            names.append("questions_B")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        batch = replace(self, **moved)
        _ = batch.verdict_B  # now: later a GPU would have to be waited for
        return batch
