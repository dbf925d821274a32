"""A calibrated tiny verifier, one whose forward passes wait, and a server on a free port."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mv_lightning import Verifier
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.schema import TEXT_COLUMNS, EncodedRows
from mv_lightning.serving.server import build_server, build_service
from mv_lightning.serving.settings import Limits

EVAL_TOKENS = 2560


class HeldVerifier:
    """Computes nothing until `release` is set, so that requests wait for each other."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.release = threading.Event()
        self.started = threading.Event()
        self.passes: list[EncodedRows] = []
        """The rows of every call that computed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._verifier, name)

    def raw_log_odds(self, encoded: EncodedRows) -> np.ndarray:
        self.started.set()
        assert self.release.wait(60)
        self.passes.append(encoded)
        return self._verifier.raw_log_odds(encoded)


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when a condition holds; fail if it never does."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def running(verifier: Any, **limits: int) -> Iterator[httpx.Client]:
    """A client of a server in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = build_server(
        build_service(verifier, "tiny", "0123", Limits(**limits)), drain_seconds=60
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def verifier(trained_phase: Path) -> Verifier:
    loaded = Verifier.load(trained_phase, device="cpu", eval_tokens=EVAL_TOKENS)
    return dataclasses.replace(loaded, calibration=Calibration(1.7, 0.1, (0.5, 0.4)))


@pytest.fixture
def held(verifier: Verifier) -> Iterator[HeldVerifier]:
    held = HeldVerifier(verifier)
    yield held
    held.release.set()


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """Forty synthetic rows."""
    table = load_source("synthetic:40", split="test").table
    return [{name: row[name] for name in TEXT_COLUMNS} for row in table.to_list()]


@pytest.fixture(scope="module")
def client(verifier: Verifier) -> Iterator[httpx.Client]:
    """Of a server that the tests of a module share."""
    with running(verifier) as client:
        yield client
