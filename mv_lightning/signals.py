"""Handlers of signals for the duration of a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_sigterm(handler: Callable[[], object]) -> Iterator[None]:
    """Call a function when SIGTERM arrives; without effect outside the main thread.

    Args:
        handler: Called in the main thread, between two instructions of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
