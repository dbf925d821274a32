"""The HTTP interface, asked by clients that were not written here."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import systemone

from mv_lightning import Verifier
from tests.serving.conftest import HeldVerifier, running, wait_until
from tests.serving.test_monitoring import samples

Rows = list[dict[str, str]]
ASKED = {"correct": systemone.Noul("Is the answer correct?")}


def metrics(client: httpx.Client) -> dict[tuple[str, ...], float]:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples(response.content)


def test_systemone_client(client: httpx.Client, verifier: Verifier, rows: Rows) -> None:
    with systemone.Client(str(client.base_url), api_key="unused", model="tiny") as asking:
        for row in rows[:3]:
            response = asking.system_one(state=row, questions=ASKED)
            [expected] = verifier.predict_proba([row])
            assert response.nouls == {"correct": systemone.NoulAnswer(expected)}
            [log_odds] = verifier.log_odds([row])
            assert response.raw["answers"]["correct"]["decision"] == (log_odds > 0.1)
            assert (response.model, response.usage.output_tokens) == ("tiny@0123", 0)
            encoded = verifier.encode([row])
            assert response.usage.input_tokens == len(encoded.prefix_ids) + len(encoded.ids_T)
            assert response.latency_ms is not None and response.latency_ms > 0


def test_several_solutions_of_a_question(
    client: httpx.Client, verifier: Verifier, rows: Rows
) -> None:
    texts = ["It is 3.", "So it must be 12.", "", "Half of it."]
    solutions = [{"answer": rows[0]["answer"], "solution": text} for text in texts]
    state = {"question": rows[0]["question"], "solutions": solutions}
    with systemone.Client(str(client.base_url)) as asking:
        response = asking.system_one(state=state, questions=ASKED)
    expected_N = verifier.predict_proba([{**rows[0], "solution": text} for text in texts])
    answer = response.raw["answers"]["correct"]
    assert [solution["noul"] for solution in answer["solutions"]] == expected_N.tolist()
    assert answer["best"] == expected_N.argmax()
    assert response.nouls["correct"].noul == expected_N.max() > expected_N.min()


@pytest.mark.parametrize(
    ("state", "question", "reason"),
    [
        ({}, systemone.Noul("?"), "`question` is missing"),
        (None, systemone.Choice("?", {"a": None, "b": None}), "got 'choice'"),
        (
            {"question": "many words " * 3000, "answer": "1"},
            systemone.Noul("?"),
            "at most 2048 tokens",
        ),
    ],
)
def test_what_cannot_be_answered(
    client: httpx.Client, rows: Rows, state: Any, question: Any, reason: str
) -> None:
    asking = systemone.Client(str(client.base_url))
    with asking, pytest.raises(systemone.SystemOneError, match=reason) as refused:
        asking.system_one(state=rows[0] if state is None else state, questions={"q": question})
    assert refused.value.status == 422


def test_score(client: httpx.Client, verifier: Verifier, rows: Rows) -> None:
    before = metrics(client)
    long = {**rows[1], "solution": "many words " * 3000}
    bad = {**rows[2], "question": ""}
    content = client.post("/v1/score", json={"rows": [rows[0], bad, long]}).json()
    good = verifier.encode([rows[0], long])
    probabilities = verifier.predict_proba([rows[0], long]).tolist()
    log_odds = verifier.log_odds([rows[0], long]).tolist()
    expected: list[dict[str, Any]] = []
    for position in range(2):
        expected.append(
            {
                "probability": probabilities[position],
                "log_odds": log_odds[position],
                "verdict": log_odds[position] > 0.1,
                "truncated_tokens": int(good.truncated_N[position]),
            }
        )
    assert good.truncated_N[1] > 1000
    assert content["results"] == [expected[0], {"error": "`question` is empty"}, expected[1]]
    assert content["model"] == "tiny@0123"
    after = metrics(client)
    assert after["mv_rows_total",] - before["mv_rows_total",] == 2
    assert after["mv_row_errors_total",] - before["mv_row_errors_total",] == 1
    tokens = after["mv_tokens_total",] - before["mv_tokens_total",]
    assert tokens == content["usage"]["input_tokens"]


def test_only_bad_rows(client: httpx.Client) -> None:
    content = client.post("/v1/score", json={"rows": [{"question": "1?"}, 3]}).json()
    assert [set(result) for result in content["results"]] == [{"error"}] * 2


def test_models(client: httpx.Client, rows: Rows) -> None:
    for model, status in (("tiny", 200), ("tiny@0123", 200), ("tiny@4567", 404)):
        body = {"rows": rows[:1], "model": model}
        assert client.post("/v1/score", json=body).status_code == status
    assert client.get("/health").json() == {"status": "ok", "model": "tiny@0123"}


def test_other_paths_and_methods(client: httpx.Client) -> None:
    assert client.get("/v1/chat").json() == {"detail": "Not Found", "error_type": "http_error"}
    assert client.get("/v1/score").status_code == 405
    refused = client.post("/v1/score", content=b"{")
    assert (refused.status_code, refused.json()["error_type"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("limit", "value", "unit"),
    [("body", 3000, "bytes"), ("rows", 2, "rows"), ("tokens", 1500, "tokens")],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_limit_is_named(
    verifier: Verifier, rows: Rows, limit: str, value: int, unit: str, chunked: bool
) -> None:
    body = json.dumps({"rows": rows}).encode()
    with running(verifier, **{f"max_{limit}": value}) as client:
        small = client.post("/v1/score", json={"rows": rows[:1]})
        assert small.status_code == 200
        refused = client.post("/v1/score", content=iter([body]) if chunked else body)
        assert (refused.status_code, refused.json()["error_type"]) == (413, f"{limit}_exceeded")
        detail = refused.json()["detail"]
        assert f"at most {value:,} {unit}" in detail and f"--max-{limit}" in detail
        assert (
            client.post("/v1/score", json={"rows": rows[:1]}).json()["results"]
            == (small.json()["results"])
        )


def test_every_client_gets_its_own_answer(
    held: HeldVerifier, verifier: Verifier, rows: Rows
) -> None:
    requests = [rows[number % 40 : number % 40 + 1 + number % 2] for number in range(32)]
    in_all = sum(map(len, requests[1:]))
    with running(held) as client, ThreadPoolExecutor(32) as threads:

        def score(request: Rows) -> list[float]:
            results = client.post("/v1/score", json={"rows": request}).json()["results"]
            return [result["probability"] for result in results]

        first = threads.submit(score, requests[0])
        assert held.started.wait(60)
        others = [threads.submit(score, request) for request in requests[1:]]
        wait_until(lambda: metrics(client)["mv_waiting_rows",] == in_all)
        held.release.set()
        for request, future in zip(requests, [first, *others], strict=True):
            expected_N = verifier.predict_proba(request)
            np.testing.assert_allclose(future.result(60), expected_N, atol=1e-5)
        values = metrics(client)
    assert values["mv_requests_total", "/v1/score", "200"] == 32
    assert values["mv_request_seconds_count", "/v1/score"] == 32
    assert values["mv_batch_requests_sum",] == 32
    assert values["mv_batch_requests_count",] == len(held.passes) < 16
    assert np.ptp(verifier.predict_proba(rows)) > 1e-3  # a swapped answer would be noticed


def test_a_full_queue_and_a_client_that_leaves(held: HeldVerifier, rows: Rows) -> None:
    with running(held, max_waiting=2) as client, ThreadPoolExecutor(4) as threads:

        def post(rows: Rows) -> httpx.Response:
            return client.post("/v1/score", json={"rows": rows})

        first = threads.submit(post, rows[:1])
        assert held.started.wait(60)
        leaving = socket.create_connection((client.base_url.host, client.base_url.port or 0))
        body = json.dumps({"rows": rows[1:3]}).encode()
        head = f"POST /v1/score HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
        leaving.sendall(head.encode() + body)
        wait_until(lambda: metrics(client)["mv_waiting_rows",] == 2)
        refused = post(rows[3:4])
        assert (refused.status_code, refused.json()["error_type"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        leaving.close()
        wait_until(lambda: metrics(client)["mv_waiting_rows",] == 0)
        second = threads.submit(post, rows[3:4])
        held.release.set()
        assert [future.result().status_code for future in (first, second)] == [200, 200]
        values = metrics(client)
    assert [len(encoded) for encoded in held.passes] == [1, 1]
    assert values["mv_requests_total", "/v1/score", "429"] == 1
    assert values["mv_requests_total", "/v1/score", "499"] == 1


def test_a_failure_is_reported(
    held: HeldVerifier, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.release.set()
    with running(held) as client:
        with monkeypatch.context() as patch:
            patch.setattr(held, "raw_log_odds", lambda encoded: 1 / 0)
            failed = client.post("/v1/score", json={"rows": rows[:1]})
        assert (failed.status_code, failed.json()["error_type"]) == (500, "internal_error")
        assert client.post("/v1/score", json={"rows": rows[:1]}).status_code == 200
