"""Options of the server; needs nothing of the extra `serve`."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all. There is no authentication: put a proxy in front."""
    port: int = 8000
    """Port to listen on; 0 for any free one, which is printed."""
    drain_seconds: int = 30
    """After SIGTERM or SIGINT: how long requests that were accepted may still take."""

    def listen(self) -> socket.socket:
        """Return a socket that has the port, but does not accept connections yet.

        Raises:
            OSError: The port is taken, or the address is not one of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
        except (OSError, OverflowError) as error:
            listener.close()
            raise OSError(
                f"cannot listen on {self.host}:{self.port}: {error}. Set --host or --port"
            ) from error
        return listener


@dataclass(frozen=True)
class Limits:
    """What a client may ask for at once."""

    max_body: int = 4 * 2**20
    """Maximum bytes of a request's body."""
    max_rows: int = 256
    """Maximum rows of a request."""
    max_tokens: int = 65_536
    """Maximum tokens of a request; beginnings that its rows share count once."""
    max_waiting: int = 2048
    """Maximum rows of all requests that wait to be computed; a request that would exceed it is
    answered with 429."""

    def __post_init__(self) -> None:
        if min(self.max_body, self.max_rows, self.max_tokens, self.max_waiting) < 1:
            raise ValueError(f"expected limits of at least 1, got {self}. Raise them")
