"""Text for messages, made in one way everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any


def shorten(items: Iterable[object], max_n: int = 5) -> str:
    """Return the first items, separated by commas; ", ..." stands for the others.

    Args:
        items: Any number of them, each shown as `str` gives it.
        max_n: How many are shown.
    """
    shown = [str(item) for item in islice(items, max_n + 1)]
    if len(shown) > max_n:
        shown[max_n] = "..."
    return ", ".join(shown)


def setting_differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return which settings changed, with both values; an empty string if none did.

    Args:
        stored: Settings by name when something was saved. A missing one counts as None.
        current: Settings by name now. Only these are compared.
    """
    changes = [
        f"{name} was {stored.get(name)!r}, is {value!r}"
        for name, value in current.items()
        if stored.get(name) != value
    ]
    return "; ".join(changes)
