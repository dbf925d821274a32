"""Predictions as they are made: one journal for each process, from which an interrupted prediction
resumes.

The first line of a journal identifies what the predictions belong to; a line for each batch
follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.atomic import Journal, rename_existing
from mv_lightning.formatting import setting_differences


class PredictionJournals:
    """The journals of all processes of one prediction."""

    def __init__(self, folder: RunFolder, identity: Mapping[str, Any]) -> None:
        """Read nothing yet.

        Args:
            folder: The run's folder.
            identity: What the predictions depend on, as plain values.
        """
        self._folder = folder
        self._identity = dict(identity)

    def open(self, rank: int) -> Journal:
        """Open the journal of a process for appending; a new one gets the identity as its first
        line.

        Args:
            rank: The process.
        """
        path = self._folder.journal(rank)
        is_new = not path.exists()
        journal = Journal(path)
        if is_new:
            journal.append(self._identity)
        return journal

    def rename_others(self) -> None:
        """Rename the journals of other predictions, so that only those of this one are read."""
        for path in self._folder.journals():
            lines = Journal.read(path)
            first = next(lines, None)
            for _ in lines:  # to the end, which may be damaged
                pass
            if first is None:  # killed before its first line was complete
                path.unlink()
            elif first != self._identity:
                stored = first if isinstance(first, dict) else {}
                differences = setting_differences(stored, self._identity)
                print(
                    f"{path} holds predictions made with other settings ({differences}). It was "
                    f"renamed to {rename_existing(path)} and is not used"
                )

    def log_odds(self, rows: int) -> np.ndarray:
        """Return the log-odds of the source's rows: float64 [N], nan where there are none.

        Args:
            rows: Rows of the source, N.
        """
        log_odds_N = np.full(rows, np.nan)
        for batch in self._batches():
            log_odds_N[batch["rows"]] = batch["log_odds"]
        return log_odds_N

    def texts(self) -> Iterator[tuple[int, str]]:
        """Yield each predicted row with its generated text."""
        for batch in self._batches():
            yield from zip(batch["rows"], batch["texts"], strict=True)

    def seconds(self) -> float:
        """Return the time of the slowest process, over all its starts."""
        totals = []
        for path in self._folder.journals():
            totals.append(sum(batch["seconds"] for batch in _batches(path)))
        return max(totals)

    def delete(self) -> None:
        """Delete the journals of a complete prediction."""
        for path in self._folder.journals():
            path.unlink()

    def _batches(self) -> Iterator[dict[str, Any]]:
        return chain.from_iterable(map(_batches, self._folder.journals()))


def _batches(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal after the first."""
    return islice(Journal.read(path), 1, None)
