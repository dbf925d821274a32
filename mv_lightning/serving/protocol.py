"""The JSON of the server: requests to checked rows, scores to answers.

`POST /v1/systemone` is the System One wire format (TypeSafe AI's API, served and called by others
as well): typed questions about a state, answered with calibrated probabilities. A verifier answers
one question, whether the answer is correct, so of the types only `noul` (yes or no) is served.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mv_lightning.data.columns import value_text
from mv_lightning.schema import TEXT_COLUMNS

NOUL = "noul"
"""The type of a yes/no question, and the name of its answer's probability."""
_NOUL_FIELDS = ("type", "instructions", "criteria")
_SEVERAL_FIELDS = ("question", "solutions")

Row = dict[str, str]
"""`question`, `answer` and `solution`."""


class RequestError(Exception):
    """A request that is refused."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        """Store what the response says.

        Args:
            status: HTTP status.
            error_type: The reason for programs, such as `rows_exceeded`.
            message: The reason for people.
        """
        super().__init__(message)
        self.status = status
        self.error_type = error_type

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response; clients of the format show `detail`."""
        return {"detail": str(self), "error_type": self.error_type}


@dataclass(frozen=True)
class RowScore:
    """What the verifier says about a row."""

    log_odds: float
    """Calibrated log P(True) - log P(False)."""
    probability: float
    """That the answer is correct, 0 to 1."""
    verdict: bool
    """Whether the log-odds are above the calibration's threshold."""
    truncated_tokens: int
    """Tokens removed from the middle of a solution that is too long."""

    def to_json(self) -> dict[str, Any]:
        """Return the row's result in `/v1/score`."""
        return {
            "probability": self.probability,
            "log_odds": self.log_odds,
            "verdict": self.verdict,
            "truncated_tokens": self.truncated_tokens,
        }


@dataclass(frozen=True)
class RowError:
    """Why a row has no score."""

    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the row's result in `/v1/score`."""
        return {"error": self.message}


@dataclass(frozen=True)
class SystemOneRequest:
    """A request to `/v1/systemone`."""

    model: str | None
    rows: Sequence[Row]
    """One, or the solutions of one question."""
    several: bool
    """Whether the state has a list of solutions."""
    questions: Sequence[str]
    """The client's names of its questions."""

    def answers(self, scores: Sequence[RowScore]) -> dict[str, Any]:
        """Return the answers by the names of the questions; all have the same answer.

        With several solutions, probability and decision are those of the most probable one.

        Args:
            scores: Of the rows.
        """
        best = max(range(len(scores)), key=lambda index: scores[index].log_odds)
        answer: dict[str, Any] = {"type": NOUL, **_noul(scores[best])}
        if self.several:
            answer |= {"best": best, "solutions": [_noul(score) for score in scores]}
        return dict.fromkeys(self.questions, answer)


@dataclass(frozen=True)
class ScoreRequest:
    """A request to `/v1/score`."""

    model: str | None
    rows: Sequence[Row | RowError]
    """With the reason in place of a row that cannot be read."""


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the object that a body holds.

    Args:
        body: JSON, with every name once in an object and only finite numbers.

    Raises:
        RequestError: It is something else.
    """
    try:
        content = json.loads(
            body, object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise _invalid(f"expected a JSON object, got {_kind(content)}")
    return content


def parse_systemone(content: Mapping[str, Any]) -> SystemOneRequest:
    """Check a request to `/v1/systemone`.

    Args:
        content: Has `state`, `questions` and optionally `model`.

    Raises:
        RequestError: A field is missing, unknown or not as expected, or a question is of another
            type than `noul`.
    """
    _check_fields(content, ("state", "questions"), ("model",), "the request")
    state = content["state"]
    if not isinstance(state, dict):
        raise _invalid(
            "expected `state` to be an object with question, answer and solution, or with question "
            f"and solutions, got {_kind(state)}"
        )
    several = "solutions" in state
    try:
        rows = _solutions(state) if several else [parse_row(state)]
    except ValueError as error:
        raise _invalid(f"`state`: {error}") from error
    return SystemOneRequest(_model(content), rows, several, _questions(content["questions"]))


def parse_score(content: Mapping[str, Any]) -> ScoreRequest:
    """Check a request to `/v1/score`.

    Args:
        content: Has `rows`, a list, and optionally `model`.

    Raises:
        RequestError: A field is missing, unknown or not as expected. A row that cannot be read is
            no reason: the others are scored.
    """
    _check_fields(content, ("rows",), ("model",), "the request")
    if not isinstance(content["rows"], list) or not content["rows"]:
        raise _invalid(f"expected `rows` to be a list of rows, got {_kind(content['rows'])}")
    rows: list[Row | RowError] = []
    for value in content["rows"]:
        try:
            rows.append(parse_row(value))
        except ValueError as error:
            rows.append(RowError(str(error)))
    return ScoreRequest(_model(content), rows)


def parse_row(value: Any) -> Row:
    """Return the texts of a row.

    Args:
        value: An object with `question`, `answer` (a text or a number) and `solution` (a text; null
            or absent is empty).

    Raises:
        ValueError: It is not one.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object with {', '.join(TEXT_COLUMNS)}, got {_kind(value)}")
    _check_names(value, ("question", "answer"), ("solution",))
    row = {}
    for name in TEXT_COLUMNS:
        text = value.get(name)
        if name == "answer" and isinstance(text, int | float) and not isinstance(text, bool):
            text = value_text(text)
        if name == "solution" and text is None:
            text = ""
        if not isinstance(text, str):
            raise ValueError(f"expected `{name}` to be a text, got {_kind(text)}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"`{name}` is not valid Unicode: half a surrogate pair") from error
        row[name] = text
    if not row["question"].strip():
        raise ValueError("`question` is empty")
    return row


def _solutions(state: Mapping[str, Any]) -> list[Row]:
    """The rows of a state with several solutions of one question."""
    _check_names(state, _SEVERAL_FIELDS, ())
    solutions = state["solutions"]
    if not isinstance(solutions, list) or not solutions:
        raise ValueError(
            "expected `solutions` to be a list of objects with answer and solution, got "
            f"{_kind(solutions)}"
        )
    rows = []
    for number, solution in enumerate(solutions):
        if not isinstance(solution, dict) or "question" in solution:
            raise ValueError(f"solution {number}: expected an object with answer and solution")
        try:
            rows.append(parse_row({"question": state["question"], **solution}))
        except ValueError as error:
            raise ValueError(f"solution {number}: {error}") from error
    return rows


def _questions(questions: Any) -> list[str]:
    """The names of the questions, after a check of each."""
    if not isinstance(questions, dict) or not questions:
        raise _invalid(
            f"expected `questions` to be an object of questions by name, got {_kind(questions)}"
        )
    for name, question in questions.items():
        context = f"question {name!r}"
        if not isinstance(question, dict):
            raise _invalid(f"{context}: expected an object, got {_kind(question)}")
        if question.get("type") != NOUL:
            raise _invalid(
                f"{context}: expected the type {NOUL!r}, got {question.get('type')!r}. A verifier "
                "answers one question with yes or no: is the answer correct?"
            )
        _check_fields(question, ("type",), _NOUL_FIELDS, context)
        if question.get("criteria") is not None:
            raise _invalid(
                f"{context}: `criteria` cannot be honoured, the verifier has learned what is "
                "correct from its training rows. Leave it out"
            )
    return list(questions)


def _noul(score: RowScore) -> dict[str, Any]:
    return {NOUL: score.probability, "decision": score.verdict}


def _model(content: Mapping[str, Any]) -> str | None:
    model = content.get("model")
    if not isinstance(model, str | None):
        raise _invalid(f"expected `model` to be a text, got {_kind(model)}")
    return model


def _check_fields(
    content: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str], context: str
) -> None:
    try:
        _check_names(content, needed, optional)
    except ValueError as error:
        raise _invalid(f"{context}: {error}") from error


def _check_names(
    content: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str]
) -> None:
    """Refuse missing and unknown names: a misspelt one would change what is scored."""
    missing = [name for name in needed if name not in content]
    if missing:
        raise ValueError(f"`{missing[0]}` is missing")
    unknown = [name for name in content if name not in (*needed, *optional)]
    if unknown:
        raise ValueError(
            f"expected the fields {', '.join([*needed, *optional])}, got {unknown[0]!r}"
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return content


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is not a finite number")
    return float(number)


def _kind(value: Any) -> str:
    """What a JSON value is, for messages."""
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty object"
    names = {type(None): "null", bool: "true or false", str: "a text", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a number")


def _invalid(message: str) -> RequestError:
    return RequestError(422, "invalid_request", message)
