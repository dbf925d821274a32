"""Only what can be honoured is accepted; whatever arrives is a request or refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.serving.protocol import (
    RequestError,
    RowError,
    RowScore,
    parse_json,
    parse_row,
    parse_score,
    parse_systemone,
)

ROW = {"question": "1 + 1?", "answer": "2", "solution": "1 + 1 = 2."}
NOUL = {"type": "noul", "instructions": "Is the answer correct?"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*ROW, "solutions", "type", "criteria", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


def systemone(**changes: Any) -> dict[str, Any]:
    return {"state": ROW, "questions": {"correct": NOUL}, **changes}


def test_one_solution() -> None:
    asked = parse_systemone(systemone(model="tiny", questions={"a": NOUL, "b": {"type": "noul"}}))
    assert (asked.model, asked.rows, asked.several) == ("tiny", [ROW], False)
    answer = {"type": "noul", "noul": 0.25, "decision": True}
    assert asked.answers([RowScore(-1.0, 0.25, True, 0)]) == {"a": answer, "b": answer}


def test_several_solutions() -> None:
    solutions = [{"answer": 2, "solution": None}, {"answer": 2.5}, {"answer": "3", "solution": "x"}]
    asked = parse_systemone(systemone(state={"question": "1 + 1?", "solutions": solutions}))
    assert [row["answer"] for row in asked.rows] == ["2", "2.5", "3"]
    assert [row["solution"] for row in asked.rows] == ["", "", "x"]
    scores = [RowScore(odds, odds / 10, odds > 2, 0) for odds in (1.0, 3.0, 2.0)]
    answer = asked.answers(scores)["correct"]
    assert (answer["noul"], answer["decision"], answer["best"]) == (0.3, True, 1)
    assert [solution["noul"] for solution in answer["solutions"]] == [0.1, 0.3, 0.2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state": ROW}, "`questions` is missing"),
        (systemone(temperature=1), "got 'temperature'"),
        (systemone(state="1 + 1 = 2"), "got a text"),
        (systemone(state={"question": "1 + 1?"}), "`answer` is missing"),
        (systemone(state={**ROW, "soluton": ""}), "got 'soluton'"),
        (systemone(state={"question": "q", "solutions": []}), "got an empty list"),
        (systemone(state={"question": "q", "solutions": [ROW]}), "solution 0"),
        (systemone(state={"question": "q", "solutions": [{"answer": True}]}), "solution 0.*answer"),
        (systemone(questions={}), "got an empty object"),
        (systemone(questions={"c": {"type": "choice", "criteria": {}}}), "'c'.*got 'choice'"),
        (systemone(questions={"c": {**NOUL, "criteria": {"true": "x"}}}), "cannot be honoured"),
        (systemone(questions={"c": {**NOUL, "weight": 1}}), "got 'weight'"),
        (systemone(model=3), "`model`"),
    ],
)
def test_what_cannot_be_honoured_is_refused(content: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as refused:
        parse_systemone(content)
    assert refused.value.status == 422
    assert refused.value.to_json() == {
        "detail": str(refused.value),
        "error_type": "invalid_request",
    }


def test_rows_that_cannot_be_read_do_not_fail_the_others() -> None:
    rows = [ROW, {**ROW, "question": " "}, 7, {**ROW, "answer": "\ud800"}]
    asked = parse_score({"rows": rows})
    assert asked.rows[0] == ROW
    reasons = ["`question` is empty", "got a number", "`answer` is not valid Unicode"]
    for row, reason in zip(asked.rows[1:], reasons, strict=True):
        assert isinstance(row, RowError) and reason in row.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"rows": NaN}', b'{"rows": 1e999}', b'{"a": 1, "a": 2}', b"[" * 10**5],
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        parse_json(body)
    assert (refused.value.status, refused.value.error_type) == (400, "invalid_json")


@given(st.dictionaries(st.sampled_from(["state", "questions", "rows", "model"]), JSON), JSON)
def test_anything_else_is_refused_with_a_reason(content: dict[str, Any], value: Any) -> None:
    for parse in (parse_systemone, parse_score):
        try:
            parse(content)
        except RequestError as error:
            assert error.status == 422
    try:
        row = parse_row(value)
    except ValueError:
        return
    assert all(isinstance(text, str) for text in row.values())
    assert parse_json(json.dumps(row).encode()) == row
