"""Predictions as they are made: one journal for each process, from which an interrupted prediction
resumes.

The first line of a journal identifies what the predictions belong to; a line for each batch
follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
            if not lines:  # killed before its first line was complete
                path.unlink()
            elif lines[0] != self._identity:
                stored = lines[0] if isinstance(lines[0], dict) else {}
                differences = setting_differences(stored, self._identity)
                print(
                    f"{path} holds predictions made with other settings ({differences}). It was "
                    f"renamed to {rename_existing(path)} and is not used"
                )

    def read(self, column: str) -> Iterator[tuple[int, Any]]:
        """Yield each predicted row with its entry of a column.

        Args:
            column: `log_odds` or `texts`.
        """
        for path in self._folder.journals():
            for batch in Journal.read(path)[1:]:
                yield from zip(batch["rows"], batch[column], strict=True)

    def seconds(self) -> float:
        """Return the time of the slowest process, over all its starts."""
        totals = []
        for path in self._folder.journals():
            totals.append(sum(batch["seconds"] for batch in Journal.read(path)[1:]))
        return max(totals)

    def delete(self) -> None:
        """Delete the journals of a complete prediction."""
        for path in self._folder.journals():
            path.unlink()
