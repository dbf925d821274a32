"""The HTTP interface: paths, limits of a body, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mv_lightning.serving.batcher import Batcher, Scores, exceeded
from mv_lightning.serving.monitoring import CONTENT_TYPE, Monitoring
from mv_lightning.serving.protocol import (
    RequestError,
    Row,
    RowError,
    RowScore,
    parse_json,
    parse_score,
    parse_systemone,
)
from mv_lightning.serving.settings import Limits

CLIENT_LEFT = 499
"""Status of a request whose client closed the connection before the answer; only counted."""
_RETRY_AFTER_S = 1

Answer = Callable[[Request, dict[str, Any]], Awaitable[dict[str, Any]]]


class Service:
    """Answers requests with one verifier."""

    def __init__(
        self, batcher: Batcher, monitoring: Monitoring, limits: Limits, name: str, version: str
    ) -> None:
        """Store what the answers need.

        Args:
            batcher: Computes the scores; started and closed with the application.
            monitoring: Where requests are counted.
            limits: Of requests.
            name: Of the verifier.
            version: Of the verifier; it changes with its weights, prompt or calibration.
        """
        self._batcher = batcher
        self._monitoring = monitoring
        self._limits = limits
        self._name = name
        self.model = f"{name}@{version}"

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/v1/systemone", self._systemone, methods=["POST"]),
                Route("/v1/score", self._score, methods=["POST"]),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._batcher.start()
        yield
        self._batcher.close()

    async def _systemone(self, request: Request) -> Response:
        return await self._respond(request, self._systemone_answer)

    async def _score(self, request: Request) -> Response:
        return await self._respond(request, self._score_answer)

    async def _health(self, request: Request) -> Response:
        running = self._batcher.is_running
        body = {"status": "ok" if running else "failed", "model": self.model}
        return JSONResponse(body, status_code=200 if running else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self._monitoring.text(), media_type=CONTENT_TYPE)

    async def _respond(self, request: Request, answer: Answer) -> Response:
        """Answer a request to compute something, and count it."""
        started = time.perf_counter()
        path, status = request.url.path, 500
        try:
            body = await answer(request, parse_json(await self._body(request)))
            seconds, status = time.perf_counter() - started, 200
            self._monitoring.request_seconds.labels(path).observe(seconds)
            return JSONResponse({**body, "latency_ms": round(1000 * seconds, 3)})
        except RequestError as error:
            status = error.status
            return _refusal(error)
        except ClientDisconnect:
            status = CLIENT_LEFT
            return Response(status_code=status)
        finally:
            self._monitoring.requests.labels(path, str(status)).inc()

    async def _systemone_answer(self, request: Request, content: dict[str, Any]) -> dict[str, Any]:
        asked = parse_systemone(content)
        self._check(asked.model, len(asked.rows))
        scores = await self._scores(request, asked.rows)
        rows: list[RowScore] = []
        for number, row in enumerate(scores.rows):
            if isinstance(row, RowError):
                context = f"solution {number}: " if asked.several else ""
                raise RequestError(422, "invalid_request", f"`state`: {context}{row.message}")
            rows.append(row)
        return {"model": self.model, "answers": asked.answers(rows), "usage": _usage(scores)}

    async def _score_answer(self, request: Request, content: dict[str, Any]) -> dict[str, Any]:
        asked = parse_score(content)
        self._check(asked.model, len(asked.rows))
        good = [row for row in asked.rows if not isinstance(row, RowError)]
        scores = await self._scores(request, good) if good else Scores([], 0)
        self._monitoring.row_errors.inc(len(asked.rows) - len(good))
        scored = iter(scores.rows)
        results = []
        for row in asked.rows:
            result = row if isinstance(row, RowError) else next(scored)
            results.append(result.to_json())
        return {"model": self.model, "results": results, "usage": _usage(scores)}

    def _check(self, model: str | None, rows: int) -> None:
        if model not in (None, self._name, self.model):
            raise RequestError(
                404, "model_not_found", f"expected the model {self.model!r}, got {model!r}"
            )
        if rows > self._limits.max_rows:
            raise exceeded("rows", "rows", f"{rows:,}", self._limits.max_rows)

    async def _scores(self, request: Request, rows: Sequence[Row]) -> Scores:
        """Wait for scores; a client that leaves takes its rows off the queue.

        Raises:
            ClientDisconnect: The client has left.
        """
        scores = asyncio.wrap_future(self._batcher.submit(rows))
        left = asyncio.ensure_future(_disconnection(request))
        either: set[asyncio.Future[Any]] = {scores, left}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not scores.done():
                raise ClientDisconnect
            return scores.result()
        finally:
            left.cancel()
            scores.cancel()

    async def _body(self, request: Request) -> bytes:
        """Read a body; one that is too large is not read to its end."""
        limit = self._limits.max_body
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise exceeded("body", "bytes", f"{int(declared):,}", limit)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise exceeded("body", "bytes", "more", limit)
        return bytes(body)


async def _disconnection(request: Request) -> None:
    """Return when the client has closed the connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _usage(scores: Scores) -> dict[str, int]:
    return {"input_tokens": scores.tokens, "output_tokens": 0}


def _refusal(error: RequestError) -> Response:
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if error.status == 429 else {}
    if error.error_type == "body_exceeded":
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse(error.to_json(), status_code=error.status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"detail": error.detail, "error_type": "http_error"}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    body = {"detail": "the server failed; its log says why", "error_type": "internal_error"}
    # uvicorn closes the connection after an error that nothing handled: say so.
    return JSONResponse(body, status_code=500, headers={"Connection": "close"})
