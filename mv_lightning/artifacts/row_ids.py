"""Rows of two files matched by their IDs, never by their position.

IDs are strings as the source spells them. An ID that is a number equals another spelling of the
same number (7, 7.0, 007): programs that read and write tables change the spelling. Any other ID
equals only itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from mv_lightning.formatting import shorten

_NUMBER = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*")
_MISSING = -1


@dataclass(frozen=True)
class IdMatch:
    """Which of the expected IDs each given ID is, and what does not match."""

    positions_N: np.ndarray
    """int64 [N], the position of each given ID among the expected ones; -1 where it is unknown."""
    repeated: Sequence[str]
    """Given IDs that occur several times, once each."""
    unknown: Sequence[str]
    """Given IDs that are not expected."""
    missing: Sequence[str]
    """Expected IDs that are not given."""

    def differences(self, given: str, expected: str) -> str:
        """Return what does not match, as text; an empty string if all IDs match one to one.

        Args:
            given: What the given IDs belong to, such as "the sample".
            expected: The same of the expected IDs, such as "the source".
        """
        kinds = {
            f"IDs occur several times in {given}": self.repeated,
            f"IDs of {given} are not in {expected}": self.unknown,
            f"IDs of {expected} are not in {given}": self.missing,
        }
        parts = [f"{len(ids):,} {kind}: {shorten(ids)}" for kind, ids in kinds.items() if ids]
        return "; ".join(parts)


def match_ids(given: Sequence[str], expected: Sequence[str]) -> IdMatch:
    """Find each given ID among the expected ones.

    The same spelling matches first. A number in another spelling matches by value, unless several
    expected IDs have that value.

    Args:
        given: N IDs.
        expected: IDs without repetition.
    """
    given, expected = list(given[:]), list(expected[:])
    if given == expected:  # usual, and without tables of all IDs
        return IdMatch(np.arange(len(given)), [], [], [])
    positions = {name: position for position, name in enumerate(expected)}
    found = [positions.get(name, _MISSING) for name in given]
    if _MISSING in found:
        by_value = _positions_by_value(expected)
        for index, name in enumerate(given):
            if found[index] == _MISSING and (value := _number(name)) is not None:
                found[index] = by_value.get(value, _MISSING)
    names = Counter(given)
    times = Counter(found)
    pairs = list(zip(given, found, strict=True))
    repeated = [
        name
        for name, position in pairs
        if names[name] > 1 or (position != _MISSING and times[position] > 1)
    ]
    unknown = [name for name, position in pairs if position == _MISSING]
    missing = [name for position, name in enumerate(expected) if position not in times]
    return IdMatch(
        np.array(found, dtype=np.int64),
        list(dict.fromkeys(repeated)),
        list(dict.fromkeys(unknown)),
        missing,
    )


def _positions_by_value(ids: Sequence[str]) -> dict[Decimal, int]:
    """Positions of the IDs that are numbers; without the values that several of them have."""
    positions: dict[Decimal, int] = {}
    ambiguous = set()
    for position, name in enumerate(ids):
        value = _number(name)
        if value is None:
            continue
        if value in positions:
            ambiguous.add(value)
        positions[value] = position
    for value in ambiguous:
        del positions[value]
    return positions


def _number(name: str) -> Decimal | None:
    return Decimal(name.strip()) if _NUMBER.fullmatch(name) else None
