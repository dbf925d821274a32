"""Right and wrong by construction, and only the reasoning distinguishes the two."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

pytest.importorskip("reasoning_gym")

from mv_lightning.data import synthetic
from mv_lightning.data.synthetic import (
    ANSWERS,
    COLUMNS,
    CORRECT,
    LEVEL_ERRORS,
    LEVEL_SHARES,
    synthetic_table,
)

Row = dict[str, Any]

LEVELS = tuple(LEVEL_SHARES)
HARDEST = max(LEVELS)

EQUATION = re.compile(r"(\S+(?: [-+*/] \S+)+) = (\S+)")


@cache
def rows_of(split: str, rows: int, seed: int = 0, level: int | None = HARDEST) -> list[Row]:
    table: list[Row] = synthetic_table(split, rows, seed, level).to_pylist()
    return table


def train_rows(level: int) -> list[Row]:
    return rows_of("train", 3000 if level == HARDEST else 2000, level=level)


def held_out_rows(level: int) -> list[Row]:
    return rows_of("test", 1000, level=level)


def of_kind(level: int, *kinds: str) -> list[Row]:
    return [row for row in train_rows(level) if row["error"] in kinds]


def equations(solution: str) -> list[tuple[str, int]]:
    """The left and the right sides, read without the generator's own parser."""
    plain = re.sub(r"[$€£]", "", solution)
    return [(left, int(re.match(r"\d+", right)[0])) for left, right in EQUATION.findall(plain)]  # type: ignore[index]


def value(left: str) -> float:
    assert re.fullmatch(r"[\d +*/-]+", left), left
    return float(eval(left))


def wrong_equations(solution: str) -> int:
    return sum(not math.isclose(value(left), right) for left, right in equations(solution))


def final_answer(solution: str) -> str:
    return re.search(r"\nThe answer is (\d+)\.$", solution)[1]  # type: ignore[index]


def numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def test_schema() -> None:
    table = synthetic_table("train", 16, 0)
    assert tuple(table.column_names) == COLUMNS
    assert [str(kind) for kind in table.schema.types] == [
        "string",
        "string",
        "string",
        "bool",
        "string",
        "int64",
    ]


@pytest.mark.parametrize("rows", [2, 6, 16, 250])
def test_exactly_half_is_correct(rows: int) -> None:
    labels = synthetic_table("train", rows, 5)["is_correct"].to_pylist()
    assert len(labels) == rows
    assert sum(labels) == rows // 2


def test_levels_have_their_shares() -> None:
    rows = rows_of("train", 160, level=None)
    assert Counter(row["level"] for row in rows) == {
        level: round(160 * share) for level, share in LEVEL_SHARES.items()
    }
    assert {row["level"] for row in rows[:100]} == set(LEVELS), "levels are mixed"
    for level in LEVELS:
        labels = [row["is_correct"] for row in rows if row["level"] == level]
        assert sum(labels) * 2 == len(labels)
        assert {row["level"] for row in train_rows(level)} == {level}


@pytest.mark.parametrize("level", LEVELS)
def test_every_question_has_a_right_and_a_wrong_row(level: int) -> None:
    rows = train_rows(level)
    sides = [
        {row["question"] for row in rows if row["is_correct"] == side} for side in (True, False)
    ]
    assert sides[0] == sides[1] and len(sides[0]) * 2 == len(rows)
    answers = {(row["question"], row["answer"]) for row in rows}
    assert len(answers) == len(rows), "the two answers differ"


@pytest.mark.parametrize("level", LEVELS)
def test_kinds_have_equal_shares(level: int) -> None:
    rows = train_rows(level)
    counts, kinds = Counter(row["error"] for row in rows), LEVEL_ERRORS[level]
    assert counts == {CORRECT: len(rows) // 2, **dict.fromkeys(kinds, len(rows) // 2 // len(kinds))}
    assert all((row["error"] == CORRECT) == row["is_correct"] for row in rows)


@pytest.mark.parametrize(("level", "least", "most"), [(1, 1, 1), (2, 1, 1), (3, 2, 3), (4, 2, 5)])
def test_equations_hold_but_for_one_slip(level: int, least: int, most: int) -> None:
    steps = {len(equations(row["solution"])) for row in train_rows(level)}
    assert steps == set(range(least, most + 1))
    assert {
        wrong_equations(row["solution"])
        for row in of_kind(level, CORRECT, "operation", "quantity", "answer")
    } == {0}
    slips = {wrong_equations(row["solution"]) for row in of_kind(level, "slip")}
    assert slips == ({1} if "slip" in LEVEL_ERRORS[level] else set())


@pytest.mark.parametrize("level", LEVELS)
def test_solutions_arrive_at_their_answers(level: int) -> None:
    for row in train_rows(level):
        assert equations(row["solution"])[-1][1] == int(final_answer(row["solution"]))
        assert (final_answer(row["solution"]) == row["answer"]) == (row["error"] != "answer")


@pytest.mark.parametrize("level", LEVELS)
def test_steps_take_known_numbers(level: int) -> None:
    """An error is carried through: a step uses numbers of the question or results of steps."""
    for row in train_rows(level):
        known = set(numbers(row["question"]))
        for left, result in equations(row["solution"]):
            assert known.issuperset(numbers(left)), row
            known.add(result)
        assert known.issuperset(numbers(row["solution"])), row


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("level", LEVELS)
def test_wrong_answers_are_wrong(split: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the answers that the problems come with, intercepted before they are parsed."""
    truth: dict[str, str] = {}
    parse = synthetic._parse

    def record(question: str, source: str) -> synthetic._ParsedSolution | None:
        truth[question] = source.rpartition("#### ")[2]
        return parse(question, source)

    monkeypatch.setattr(synthetic, "_parse", record)
    for row in synthetic_table(split, 200, 2, level).to_pylist():
        assert (row["answer"] == truth[row["question"]]) == row["is_correct"], row


@pytest.mark.parametrize("level", LEVELS)
def test_answers_stay_plausible(level: int) -> None:
    for row in (*train_rows(level), *held_out_rows(level)):
        assert int(row["answer"]) in ANSWERS[level]
        assert max(numbers(row["question"] + row["solution"])) <= synthetic.MAX_NUMBER
        assert len(f"{row['question']} {row['solution']}".split()) <= 150


def test_same_arguments_same_table() -> None:
    """In another process as well, where strings hash differently."""
    code = (
        "from mv_lightning.data.synthetic import synthetic_table as s; import json; "
        "print(json.dumps(s({}).to_pylist()))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code.format("'test', 40, 7")]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(output.stdout) == synthetic_table("test", 40, 7).to_pylist()
    assert output.stderr == ""


def test_seeds_and_splits_differ() -> None:
    first, second = (rows_of("train", 200, seed, None) for seed in (0, 1))
    assert len({row["question"] for row in first} & {row["question"] for row in second}) < 100
    assert first != rows_of("test", 200, 0, None)


@pytest.mark.parametrize("level", LEVELS)
def test_no_question_is_in_both_splits(level: int) -> None:
    seen = {"train": set[str](), "test": set[str]()}
    for split, rows in (
        ("train", train_rows(level)),
        ("test", held_out_rows(level)),
        ("train", rows_of("train", 1000, 1, level)),
    ):
        seen[split] |= {row["question"] for row in rows}
    assert not seen["train"] & seen["test"]
    # Nor the same numbers with another name.
    train, test = (set(map(tuple, map(numbers, questions))) for questions in seen.values())
    assert not train & test


# Features that need no arithmetic. Half of the rows are correct, so 0.5 is chance; the standard
# error of an accuracy on 1,000 rows is 0.016.
CHANCE = 0.56
TEXTS = ("question", "answer", "solution")


def lengths(row: Row) -> list[float]:
    characters = [len(row[text]) for text in TEXTS]
    return characters + [len(row[text].split()) for text in TEXTS]


def answer_only(row: Row) -> list[float]:
    answer = int(row["answer"])
    digits = [float(answer % 10 == digit) for digit in range(10)]
    return [answer, math.log(answer), len(row["answer"]), answer % 2, answer % 5 == 0, *digits]


def together(row: Row) -> str:
    return " ".join(row[text] for text in TEXTS)


def by_column(row: Row) -> str:
    return " ".join(re.sub(r"(\S+)", rf"{text}_\1", row[text]) for text in TEXTS)


def accuracy(model: Any, features: Callable[[Row], Any], level: int) -> float:
    """Accuracy on held-out rows of a classifier that is trained on the other split."""
    train, held_out = train_rows(level), held_out_rows(level)
    model.fit([features(row) for row in train], [row["is_correct"] for row in train])
    predicted = model.predict([features(row) for row in held_out])
    return float((predicted == [row["is_correct"] for row in held_out]).mean())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("features", [lengths, answer_only])
def test_sizes_do_not_predict_the_label(features: Callable[[Row], list[float]], level: int) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    assert 1 - CHANCE <= accuracy(model, features, level) <= CHANCE


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("text", [together, by_column])
@pytest.mark.parametrize("token", [r"\w+", r"\S+"], ids=["words", "words and signs"])
def test_words_do_not_predict_the_label(text: Callable[[Row], str], token: str, level: int) -> None:
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(CountVectorizer(token_pattern=token), LogisticRegression(max_iter=2000))
    assert 1 - CHANCE <= accuracy(model, text, level) <= CHANCE


def test_a_solution_is_parsed_and_written_again() -> None:
    question = "Ann has 5 bags of 12 pears and eats 9. How many are left?"
    source = (
        "She had 60 pears because 5 bags x 12 pears/bag = 60 pears.\n"
        "So 60 pears - 9 = 51 are left.\n#### 51"
    )
    parsed = synthetic._parse(question, source)
    assert parsed is not None
    solution = (
        "She had 60 pears because 5 * 12 = 60 pears.\nSo 60 - 9 = 51 are left.\nThe answer is 51."
    )
    assert parsed.write(parsed.steps) == (solution, "51")
    carried = {
        parsed.write(steps) for steps in parsed.wrong_versions("operation", "-+", range(5, 80))
    }
    assert carried == {(solution.replace("- 9", "+ 9").replace("51", "69"), "69")}
    slipped = {
        parsed.write(steps)[0] for steps in parsed.wrong_versions("slip", "up", range(5, 80))
    }
    assert not parsed.wrong_versions("operation", "-+", range(5, 69)), "the answer would be 69"
    assert (
        "She had 70 pears because 5 * 12 = 70 pears.\nSo 70 - 9 = 61 are left.\nThe answer is 61."
        in slipped
    )


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("Has 5 and 12, eats 9?", "5 * 12 = 60\n60 - 9 = 50\n#### 50"),
        ("Has 5 and 12, eats 9?", "5 * 12 = 60\n60 - 9 = 51\n#### 50"),
        ("Has 5 and 12, eats 9?", "5 * 12 = 60\n60 - 7 = 53\n#### 53"),
        ("Has 5 and 12, eats 60?", "5 * 12 = 60\n60 - 12 = 48\n#### 48"),
        ("Has 5 and 12, eats 0.5?", "5 * 12 = 60\n60 - 5 = 55\n#### 55"),
        ("Has 5 and 12, eats 9?", "5 * 12 = 60\nx = 60 - 9 = 51\n#### 51"),
        ("Has 5?", "It is 5.\n#### 5"),
        ("Has 5 and 120?", "5 * 120 = 600\n600 - 5 = 595\n#### 595"),
    ],
    ids=[
        "false",
        "other answer",
        "constant",
        "ambiguous",
        "decimal",
        "unread",
        "no step",
        "large",
    ],
)
def test_ambiguous_solutions_are_left_out(question: str, source: str) -> None:
    assert synthetic._parse(question, source) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid", 10, 0), "expected the split train or test, got .valid."),
        (("train", 7, 0), "even, positive"),
        (("train", 0, 0), "even, positive"),
        (("train", -2, 0), "even, positive"),
        (("train", 2, 0, 5), "expected a level from 1 to 4, got 5"),
        (("train", 2, 0, 0), "expected a level from 1 to 4, got 0"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_table(*arguments)


def test_running_out_of_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MAX_DRAWS", 3)
    with pytest.raises(ValueError, match=r"of level 4 ran .*of 2000 rows\. Ask for fewer"):
        synthetic_table("test", 2000, 0, 4)


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r'pip install "mv-lightning\[synthetic\]"'):
        synthetic_table("train", 2, 0, 4)
