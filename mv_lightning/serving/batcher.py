"""Packs the rows of waiting requests into shared forward passes.

One thread owns the tokenizer and the model. While it computes, requests wait; then it takes as many
of them, first come first served, as fit into one forward pass. Nothing waits for a batch to fill:
an idle server computes a request at once, and the batches grow with the load (Clipper, Crankshaw et
al. 2017, NSDI, section 4.3, calls it adaptive batching).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from mv_lightning.data.batching import packed_tokens
from mv_lightning.data.encoding import RowsTooLongError, join_rows
from mv_lightning.numerics import sigmoid
from mv_lightning.schema import EncodedRows
from mv_lightning.serving.monitoring import Monitoring
from mv_lightning.serving.protocol import RequestError, Row, RowError, RowScore
from mv_lightning.serving.settings import Limits
from mv_lightning.verifier import Verifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """The answer to a request."""

    rows: Sequence[RowScore | RowError]
    tokens: int
    """Tokens computed for it."""


@dataclass(eq=False)
class _Job:
    """A request on its way."""

    rows: Sequence[Row]
    future: Future[Scores] = field(default_factory=Future)
    encoded: EncodedRows | None = None
    """The rows that can be scored, once they are tokenised."""
    errors: dict[int, RowError] = field(default_factory=dict)
    """Of the other rows, by their position."""
    tokens: int = 0
    """Of its rows in a packed batch, without the instruction."""
    instruction_tokens: int = 0
    failure: Exception | None = None
    """Why the whole request fails."""

    @property
    def good(self) -> list[Row]:
        """The rows that can be scored, in order."""
        return [row for position, row in enumerate(self.rows) if position not in self.errors]


class Batcher:
    """Computes requests in one thread; see the module's text."""

    def __init__(self, verifier: Verifier, limits: Limits, monitoring: Monitoring) -> None:
        """Create it without its thread.

        Args:
            verifier: Used by the thread only. A forward pass has up to its `eval_tokens`.
            limits: Of requests.
            monitoring: Where rows, tokens and batches are counted.
        """
        self._verifier = verifier
        self._limits = limits
        self._monitoring = monitoring
        monitoring.watch_waiting(lambda: self._waiting_rows)
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._closed = False
        # A daemon: Ctrl-C twice does not wait for it.
        self._thread = threading.Thread(target=self._run, name="verifier", daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether requests are computed."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start to compute."""
        self._thread.start()

    def close(self) -> None:
        """Compute what waits, then end the thread; further requests are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, rows: Sequence[Row]) -> Future[Scores]:
        """Let a request wait for its turn.

        Args:
            rows: Of one request.

        Returns:
            Its scores. To cancel it takes a waiting request away.

        Raises:
            RequestError: Too many rows are waiting, or the server stops. Too many tokens are known
                later, and raised by the future.
        """
        job = _Job(rows)
        job.future.add_done_callback(lambda future: self._forget(job))
        with self._changed:
            if self._closed:
                raise RequestError(503, "stopping", "the server stops. Ask another one")
            waiting = self._waiting_rows
            if waiting and waiting + len(rows) > self._limits.max_waiting:
                raise RequestError(
                    429,
                    "queue_full",
                    f"{waiting} rows are waiting already, at most {self._limits.max_waiting} may. "
                    "Repeat the request later",
                )
            self._waiting.append(job)
            self._waiting_rows += len(rows)
            self._changed.notify()
        return job.future

    def _run(self) -> None:
        while jobs := self._take():
            try:
                self._compute(jobs)
            except Exception as error:
                # Such as too little memory: these requests fail, the server goes on.
                logger.exception("%d requests failed", len(jobs))
                for job in jobs:
                    job.future.set_exception(error)

    def _take(self) -> list[_Job]:
        """Wait for a request; return it and those behind it that fit into one forward pass.

        A request that does not fit into one is returned alone. Empty when all is done.
        """
        taken: list[_Job] = []
        free = self._verifier.eval_tokens
        while (job := self._head(wait=not taken)) is not None:
            self._encode(job)
            if taken and job.tokens > free:
                break
            if not self._remove(job):
                continue
            if job.failure is not None:
                job.future.set_exception(job.failure)
                continue
            # The requests share the instruction.
            free -= job.tokens + (0 if taken else job.instruction_tokens)
            taken.append(job)
        return taken

    def _head(self, wait: bool) -> _Job | None:
        """The first request that waits; None if there is none, and none may be waited for."""
        with self._changed:
            while wait and not self._waiting and not self._closed:
                self._changed.wait()
            return self._waiting[0] if self._waiting else None

    def _remove(self, job: _Job) -> bool:
        """Take the first request off the queue; False if its client has left in the meantime."""
        with self._changed:
            if not self._waiting or self._waiting[0] is not job:
                return False
            self._waiting.popleft()
            self._waiting_rows -= len(job.rows)
        return job.future.set_running_or_notify_cancel()

    def _forget(self, job: _Job) -> None:
        """Take a request off the queue that was cancelled there."""
        if not job.future.cancelled():
            return
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._waiting_rows -= len(job.rows)

    def _encode(self, job: _Job) -> None:
        """Tokenise a request once; rows that cannot be tokenised get errors, the others go on."""
        if job.encoded is not None:
            return
        try:
            self._encode_rows(job)
        except Exception as error:
            logger.exception("a request failed")
            job.failure = error
            return
        if job.encoded is None:
            return
        order_N = np.argsort(job.encoded.prefix_groups_N, kind="stable")
        job.tokens = packed_tokens(job.encoded, order_N)
        job.instruction_tokens = len(job.encoded.prefix_ids)
        tokens = job.tokens + job.instruction_tokens
        if tokens > self._limits.max_tokens:
            job.failure = exceeded("tokens", "tokens", f"{tokens:,}", self._limits.max_tokens)

    def _encode_rows(self, job: _Job) -> None:
        try:
            job.encoded = self._verifier.encode(job.rows)
        except ValueError:
            for position, row in enumerate(job.rows):
                try:
                    self._verifier.encode([row])
                except RowsTooLongError:
                    job.errors[position] = RowError(
                        f"expected a row of at most {self._verifier.max_length} tokens without its "
                        "solution, got more. Shorten question and answer"
                    )
                except ValueError as error:
                    job.errors[position] = RowError(str(error))
            if job.good:
                job.encoded = self._verifier.encode(job.good)

    def _compute(self, jobs: Sequence[_Job]) -> None:
        """Score the rows of requests together and answer the requests."""
        started = time.perf_counter()
        rows = [row for job in jobs for row in job.good]
        parts = [job.encoded for job in jobs if job.encoded is not None]
        scores = iter(self._score(rows, join_rows(parts)) if parts else ())
        answers = []
        for job in jobs:
            results: list[RowScore | RowError] = []
            for position in range(len(job.rows)):
                results.append(job.errors.get(position) or next(scores))
            answers.append(Scores(results, job.tokens + job.instruction_tokens))
        self._count(jobs, answers, time.perf_counter() - started)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)

    def _score(self, rows: Sequence[Row], encoded: EncodedRows) -> list[RowScore | RowError]:
        try:
            raw_N = self._verifier.raw_log_odds(encoded)
        except ValueError as error:
            # A log-odds is not finite. Only that row shall fail.
            if len(rows) == 1:
                return [RowError(str(error))]
            scores: list[RowScore | RowError] = []
            for row in rows:
                scores += self._score([row], self._verifier.encode([row]))
            return scores
        calibration = self._verifier.calibration
        log_odds_N = calibration.apply(raw_N)
        columns = (
            log_odds_N.tolist(),
            sigmoid(log_odds_N).tolist(),
            (log_odds_N > calibration.threshold).tolist(),
            encoded.truncated_N.tolist(),
        )
        return [RowScore(*values) for values in zip(*columns, strict=True)]

    def _count(self, jobs: Sequence[_Job], answers: Sequence[Scores], seconds: float) -> None:
        rows = [row for answer in answers for row in answer.rows]
        errors = sum(isinstance(row, RowError) for row in rows)
        self._monitoring.rows.inc(len(rows) - errors)
        self._monitoring.row_errors.inc(errors)
        instruction = max(job.instruction_tokens for job in jobs)
        self._monitoring.tokens.inc(instruction + sum(job.tokens for job in jobs))
        self._monitoring.batch_requests.observe(len(jobs))
        self._monitoring.batch_rows.observe(len(rows) - errors)
        self._monitoring.batch_seconds.observe(seconds)


def exceeded(what: str, unit: str, got: str, limit: int) -> RequestError:
    """Return the refusal of a request that is too large.

    Args:
        what: The limit: body, rows or tokens.
        unit: Of what.
        got: How many the request has.
        limit: How many it may have.
    """
    return RequestError(
        413,
        f"{what}_exceeded",
        f"expected a request of at most {limit:,} {unit}, got {got}. Divide it, or start the "
        f"server with a higher --max-{what}",
    )
