"""Text for messages, and names of settings, made in one way everywhere."""

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


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; its type where it has none.

    Args:
        error: Such as one of a library that prints advice below.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names, such as `model.lora.r`.

    Args:
        settings: Nested by group; an empty group has no name.
        prefix: Before every name.
    """
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            values |= flatten_settings(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


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
