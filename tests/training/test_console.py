"""Advertisements and lists of absent accelerators are hidden; what a user needs is not."""

from __future__ import annotations

import logging

import pytest

from mv_lightning.training.console import silence_libraries


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("TPU available: False, using: 0 TPU cores", False),
        ("💡 Tip: try installing [litlogger](https://...)", False),
        ("GPU available: True (cuda), used: True", True),
    ],
)
def test_messages_of_lightning(message: str, shown: bool) -> None:
    silence_libraries()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    record = logger.makeRecord(logger.name, logging.INFO, "file", 1, message, (), None)
    assert bool(logger.filter(record)) is shown
