"""A taken port and senseless limits are refused before a model is loaded."""

from __future__ import annotations

import socket

import pytest

from mv_lightning.serving.settings import Address, Limits


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            Address(port=port).listen()
    with pytest.raises(OSError, match="cannot listen"):
        Address(port=99999).listen()


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Limits(max_rows=0)
