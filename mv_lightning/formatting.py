"""How values are written in messages."""

from __future__ import annotations

from collections.abc import Sequence


def shorten(items: Sequence[object], max_n: int = 5) -> str:
    """Return the first items of a list that may be long, separated by commas, and "..." for the rest.

    Args:
        items: What to write; each is written as `str` does.
        max_n: Number of items written out.
    """
    shown = ", ".join(map(str, items[:max_n]))
    return f"{shown}, ..." if len(items) > max_n else shown
