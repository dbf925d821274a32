"""Loads a verifier and serves it until a signal."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.hashing import sha256_bytes, sha256_file
from mv_lightning.model.adapter_files import METADATA_FILE, WEIGHTS
from mv_lightning.serving.app import Service
from mv_lightning.serving.batcher import Batcher
from mv_lightning.serving.monitoring import Monitoring
from mv_lightning.serving.settings import Limits
from mv_lightning.verifier import Verifier

_VERSION_DIGITS = 12
_BACKLOG = 2048


def verifier_version(folder: Path) -> str:
    """Return digits that change with the weights, the prompt, the base or the calibration.

    Args:
        folder: Of an adapter.
    """
    files = [folder / name for name in (WEIGHTS, METADATA_FILE, CALIBRATION_FILE)]
    digests = [sha256_file(file) if file.is_file() else "none" for file in files]
    return sha256_bytes(" ".join(digests).encode())[:_VERSION_DIGITS]


def build_service(verifier: Verifier, name: str, version: str, limits: Limits) -> Service:
    """Return what answers requests.

    Args:
        verifier: The loaded verifier; nothing else may use it.
        name: Of the verifier, in requests and responses.
        version: As `verifier_version` returns it.
        limits: Of requests.
    """
    monitoring = Monitoring(f"{name}@{version}")
    return Service(Batcher(verifier, limits, monitoring), monitoring, limits, name, version)


def build_server(service: Service, drain_seconds: int) -> uvicorn.Server:
    """Return a server that finishes what it has accepted when it is told to stop.

    On SIGTERM or SIGINT it closes its socket, answers the requests that it has, and ends with the
    signal. A second SIGINT stops at once.

    Args:
        service: What answers.
        drain_seconds: Maximum seconds to finish.
    """
    config = uvicorn.Config(
        service.app(),
        lifespan="on",
        ws="none",
        backlog=_BACKLOG,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=drain_seconds,
    )
    return uvicorn.Server(config)
