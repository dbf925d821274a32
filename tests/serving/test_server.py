"""A server that is told to stop finishes what it has accepted; versions tell verifiers apart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.serving.server import build_server, build_service, verifier_version
from mv_lightning.serving.settings import Limits
from tests.serving.conftest import HeldVerifier, wait_until


def test_sigterm_drains(
    held: HeldVerifier, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[int] = []
    kept = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    service = build_service(held, "tiny", "0123", Limits())  # type: ignore[arg-type]
    server = build_server(service, drain_seconds=60)
    answers: list[int] = []

    def post(start: int) -> None:
        url = f"http://127.0.0.1:{address[1]}/v1/score"
        response = httpx.post(url, json={"rows": rows[start : start + 4]}, timeout=60)
        answers.append(len(response.json()["results"]))

    def ask_then_stop() -> None:
        clients = [threading.Thread(target=post, args=(start,)) for start in range(0, 40, 4)]
        try:
            clients[0].start()
            assert held.started.wait(60)
            for client in clients[1:]:
                client.start()
            url = f"http://127.0.0.1:{address[1]}/metrics"
            wait_until(lambda: "mv_waiting_rows 36.0" in httpx.get(url).text)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: not accepts(address))
        held.release.set()
        for client in clients:
            client.join()

    asking = threading.Thread(target=ask_then_stop)
    asking.start()
    try:
        server.run(sockets=[listener])
    finally:
        asking.join()
        signal.signal(signal.SIGTERM, kept)
    assert answers == [4] * 10
    assert received == [signal.SIGTERM]
    assert sum(map(len, held.passes)) == 40


def accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def test_version(trained_phase: Path, tmp_path: Path) -> None:
    version = verifier_version(trained_phase / "adapter")
    assert len(version) == 12
    copy = shutil.copytree(trained_phase / "adapter", tmp_path / "adapter")
    assert verifier_version(copy) == version
    (copy / CALIBRATION_FILE).write_text("{}")
    changed = verifier_version(copy)
    (copy / CALIBRATION_FILE).unlink()
    assert len({version, changed, verifier_version(copy)}) == 3
