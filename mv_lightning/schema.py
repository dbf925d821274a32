"""The values that pass between the rooms of the package, and nothing that computes.

Shape suffixes used here and in `data/batching.py` and `model/`:

    T  tokens of a packed sequence (the shared prefix once, then every row end to end)
    B  rows of a batch
    D  hidden size of the base model
    H  attention heads
    V  vocabulary
    N  rows of a source, shard or prediction file
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TEXT_COLUMNS = ("question", "answer", "solution")
LABEL_COLUMN = "is_correct"
UNLABELLED = -1
"""The label of a row that has none (contest test rows), where a label must be an integer."""


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of N rows, end to end, without the instruction prefix that all of them share.

    Kept as three flat arrays rather than N objects: 20,000 rows cost one allocation, and a worker
    process receives them without pickling a list.
    """

    ids_T: np.ndarray
    """int32 [T], every row's ids after the prefix, row after row."""
    starts_N: np.ndarray
    """int64 [N + 1], row i is `ids_T[starts_N[i]:starts_N[i + 1]]`."""
    labels_N: np.ndarray
    """int8 [N], 1 correct, 0 incorrect, `UNLABELLED`."""
    rows_N: np.ndarray
    """int64 [N], the row's number in its source."""
    cut_N: np.ndarray
    """int32 [N], tokens taken out of the middle of the solution; 0 where the row fitted."""
    prefix_ids: tuple[int, ...]
    """The instruction's ids, beginning-of-text token included."""

    def __len__(self) -> int:
        return len(self.rows_N)

    @property
    def lengths_N(self) -> np.ndarray:
        """int64 [N], tokens of each row after the prefix."""
        return np.diff(self.starts_N)


@dataclass(frozen=True)
class Evaluation:
    """What a model said of N labelled rows."""

    rows_N: np.ndarray
    """int64 [N], source row numbers, ascending."""
    labels_N: np.ndarray
    """bool [N]."""
    log_odds_N: np.ndarray
    """float64 [N], log P(True) - log P(False)."""
    losses_N: np.ndarray
    """float64 [N], cross-entropy of the right verdict over the whole vocabulary, in nats."""
    groups_N: np.ndarray | None = None
    """int64 [N], the question of each row (`sources.question_groups`); None where it is not known."""


@dataclass(frozen=True)
class Packing:
    """Where the rows of a packed sequence lie: what attention has to know."""

    prefix: int
    """Tokens of the shared prefix, at the start of the sequence."""
    lengths: tuple[int, ...]
    """Tokens of each row after the prefix, in order; `prefix + sum(lengths) == T`."""


@dataclass(frozen=True)
class Batch:
    """Rows laid end to end behind one shared prefix. No padding exists."""

    ids_T: torch.Tensor
    """int64 [T]."""
    positions_T: torch.Tensor
    """int64 [T]; every row's positions continue from the prefix, as if it stood alone behind it."""
    packing: Packing
    labels_B: torch.Tensor
    """int64 [B], see `EncodedRows.labels_N`."""
    rows_B: torch.Tensor
    """int64 [B], source row numbers."""
    step_rows: int
    """Rows of the whole optimizer step that this micro-batch is a part of: what its loss is divided by."""

    @property
    def verdict_B(self) -> torch.Tensor:
        """int64 [B], index of each row's last token: the position that predicts the verdict."""
        import torch

        lengths = torch.tensor(self.packing.lengths, device=self.ids_T.device)
        return self.packing.prefix - 1 + lengths.cumsum(0)

    @property
    def tokens(self) -> int:
        """Real tokens: what the rows would hold without sharing their prefix."""
        return self.packing.prefix * len(self.packing.lengths) + sum(self.packing.lengths)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on `device`; Lightning calls this."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("ids_T", "positions_T", "labels_B", "rows_B")
        }
        return replace(self, **moved)
