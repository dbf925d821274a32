"""The server under 32 clients, compared with scoring one row after another.

    python -m benchmarks.serve

The model is SmolLM2-135M in NF4, r 32; server and clients are two processes on one machine, over
loopback, one row a request, the questions all different. One by one is `Verifier.predict_proba`
called for each row in turn, without a server. Both take turns on the same rows.

Also checked: every client gets the probability of its own row; of a request with one bad row only
that row fails; a client that leaves takes its request off the queue. Writes
`benchmarks/results/serve.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import MODEL, PROMPT, RANK, short_run_adapter
from benchmarks.measure import PACKAGE, Cost, alternate, one_by_one, ratios, record, spread, timed
from mv_lightning.data.sources import load_source
from mv_lightning.schema import TEXT_COLUMNS
from mv_lightning.verifier import Verifier

Rows = Sequence[dict[str, str]]
ONE_BY_ONE = "one_by_one"
TOLERANCE = 1e-5
"""Of a probability that was computed among other rows."""


@contextlib.contextmanager
def serve(adapter: Path) -> Iterator[tuple[str, int]]:
    """Run the server in a process of its own, with one thread of torch; stop it with SIGTERM.

    Args:
        adapter: What is served.

    Yields:
        Host and port.
    """
    command = [sys.executable, "-m", "mv_lightning", "serve", str(adapter), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        host, _, port = process.stdout.readline().strip().rpartition("/")[2].partition(":")
        yield host, int(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def post(connection: HTTPConnection, rows: Rows) -> Any:
    """Score rows over a connection; return the results."""
    connection.request("POST", "/v1/score", json.dumps({"rows": rows}))
    response = connection.getresponse()
    content = json.loads(response.read())
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {content}")
    return content["results"]


class Load:
    """Clients that send rows to a server, one row a request; keeps latencies and probabilities."""

    def __init__(self, address: tuple[str, int], rows: Rows, clients: int) -> None:
        """Create with no answers.

        Args:
            address: Host and port.
            rows: All rows of a turn.
            clients: Connections that send at the same time.
        """
        self._address, self._rows, self._clients = address, rows, clients
        self.seconds: list[list[float]] = []
        """Latencies of each turn."""
        self.probabilities: list[list[float]] = []
        """Of each turn, in the order of the rows."""

    def turn(self, number: int) -> Cost:
        """Send every row once."""
        with ThreadPoolExecutor(self._clients) as pool:
            cost, parts = timed(lambda: list(pool.map(self._client, range(self._clients))))
        answers = {row: answer for part in parts for row, answer in part.items()}
        ordered = [answers[row] for row in range(len(self._rows))]
        self.seconds.append([seconds for seconds, _ in ordered])
        self.probabilities.append([probability for _, probability in ordered])
        return {**cost, "rows": len(ordered)}

    def _client(self, client: int) -> dict[int, tuple[float, float]]:
        """Seconds and probability by row, of the rows of one client."""
        answers = {}
        with contextlib.closing(HTTPConnection(*self._address)) as connection:
            for row in range(client, len(self._rows), self._clients):
                started = time.perf_counter()
                [result] = post(connection, [self._rows[row]])
                answers[row] = (time.perf_counter() - started, result["probability"])
        return answers


def metric(address: tuple[str, int], name: str) -> float:
    """Return a value of the server's metrics; 0 where it has not been counted yet."""
    with contextlib.closing(HTTPConnection(*address)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    values = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
    return float(values[0]) if values else 0.0


def only_the_bad_row_fails(address: tuple[str, int], rows: Rows, expected: Sequence[float]) -> bool:
    """Return whether good rows are scored although one between them has no question."""
    with contextlib.closing(HTTPConnection(*address)) as connection:
        first, bad, second = post(connection, [rows[0], {**rows[1], "question": ""}, rows[2]])
    good = [first.get("probability"), second.get("probability")]
    return "error" in bad and np.allclose(good, [expected[0], expected[2]], rtol=0, atol=TOLERANCE)


def rows_of_a_client_that_left(address: tuple[str, int], rows: Rows) -> dict[str, float]:
    """Let a client leave while its rows wait behind others.

    Args:
        address: Of the server.
        rows: For the request that is computed meanwhile.

    Returns:
        How many requests the server counts as left, and how many rows it scored for both.
    """
    before = metric(address, "mv_rows_total")
    with (
        contextlib.closing(HTTPConnection(*address)) as staying,
        ThreadPoolExecutor(1) as pool,
        socket.create_connection(address) as leaving,
    ):
        answer = pool.submit(post, staying, rows)
        time.sleep(0.3)
        body = json.dumps({"rows": rows}).encode()
        leaving.sendall(b"POST /v1/score HTTP/1.1\r\nHost: server\r\n")
        leaving.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        time.sleep(0.3)
        leaving.close()
        answer.result()
    return {
        "left": metric(address, 'mv_requests_total{path="/v1/score",status="499"}'),
        "rows_scored_of_both": metric(address, "mv_rows_total") - before,
        "rows_of_each": len(rows),
    }


def main() -> None:
    """Alternate, check the answers, print the figures and write them."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    adapter = short_run_adapter(PROMPT, options.adapter_steps)
    table = load_source(f"synthetic:{options.rows}", split="test").table
    rows = [{name: row[name] for name in TEXT_COLUMNS} for row in table.to_list()]
    verifier = Verifier.load(adapter, device="cpu")
    single: list[float] = []

    def score_one_by_one(turn: int) -> Cost:
        cost, values = timed(lambda: [verifier.predict_proba([row])[0] for row in rows])
        single[:] = values
        return {**cost, "rows": len(rows)}

    with serve(adapter) as address:
        load = Load(address, rows, options.clients)
        turns = alternate(one_by_one(load.turn), {ONE_BY_ONE: score_one_by_one}, options.turns)
        bad_row = only_the_bad_row_fails(address, rows, single)
        passes = metric(address, "mv_batch_rows_count")
        scored = metric(address, "mv_batch_rows_sum")
        left = rows_of_a_client_that_left(address, rows[: min(16, len(rows))])
    latencies = np.concatenate(load.seconds[1:])
    errors_N = np.abs(np.array(load.probabilities) - single).max(axis=0)
    record(
        "serve",
        settings={"model": MODEL, "rank": RANK, "prompt": PROMPT, **vars(options)},
        turns=turns,
        rows_per_s=_rates(turns),
        ratio=ratios(turns, ONE_BY_ONE, "wall_s"),
        latency_s={
            "p50": float(np.quantile(latencies, 0.5)),
            "p99": float(np.quantile(latencies, 0.99)),
            "max": float(latencies.max()),
        },
        rows_per_pass=scored / passes,
        answers={
            "requests": int(np.size(load.probabilities)),
            "not_their_own": int((errors_N > TOLERANCE).sum()),
            "largest_difference": float(errors_N.max()),
            "different_probabilities": len(set(single)),
        },
        only_the_bad_row_fails=bad_row,
        client_that_leaves=left,
    )


def _rates(turns: list[dict[str, Cost]]) -> dict[str, float]:
    """Return the median rows per second of the clock of each side."""
    medians = {}
    for side in (PACKAGE, ONE_BY_ONE):
        rates = [turn[side]["rows"] / turn[side]["wall_s"] for turn in turns]
        medians[side] = spread(rates)["median"]
    return medians


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--turns", type=int, default=3, help="turns that are counted; one more warms up"
    )
    parser.add_argument("--rows", type=int, default=96, help="rows per turn")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--adapter-steps", type=int, default=2, help="as in benchmarks.predict")
    return parser


if __name__ == "__main__":
    main()
