"""`serve` loads a phase, says where it listens, and ends on a signal."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import httpx
import pytest

from mv_lightning import Verifier
from mv_lightning.cli import main
from mv_lightning.exporting.hub import push
from tests.hub_server import Hub
from tests.serving.conftest import wait_until

ROW = {"question": "What is 2 + 3?", "answer": "5", "solution": "2 + 3 = 5."}


def served(args: list[str], name: str, capfd: pytest.CaptureFixture[str]) -> float:
    """Serve in this process until a row is scored, and return its probability."""
    received: list[int] = []
    kept = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    printed: list[str] = []
    results: list[dict[str, float]] = []

    def ask_then_stop() -> None:
        def listens() -> bool:
            printed.append(capfd.readouterr().out)
            return "serving" in "".join(printed)

        try:
            wait_until(listens)
            [url] = re.findall(rf"serving {name}@\w{{12}} on (\S+)", "".join(printed))
            response = httpx.post(f"{url}/v1/score", json={"rows": [ROW]}, timeout=60)
            results.extend(response.json()["results"])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_then_stop)
    asking.start()
    try:
        main(["serve", *args, "--port", "0", "--device", "cpu"])
    finally:
        asking.join()
        signal.signal(signal.SIGTERM, kept)
    assert received == [signal.SIGTERM]
    [result] = results
    return result["probability"]


def test_serve(trained_phase: Path, capfd: pytest.CaptureFixture[str]) -> None:
    got = served([str(trained_phase), "--name", "tiny"], "tiny", capfd)
    assert [got] == Verifier.load(trained_phase, device="cpu").predict_proba([ROW])


def test_a_verifier_on_the_hub_is_served(
    hub: Hub, trained_phase: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    push(trained_phase / "adapter", "me/judge", private=True)
    got = served(["me/judge"], "judge", capfd)
    assert [got] == Verifier.load(trained_phase, device="cpu").predict_proba([ROW])


def test_a_folder_without_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path), "--port", "0"])
    assert "no adapter" in capsys.readouterr().err
