"""Word problems of one to three steps with small numbers, for the easier levels of synthetic data.

A small model cannot follow the problems of `gsm_symbolic`. These have the same form, a question and
a solution with an equation for each step, and the same errors are possible: the problems of one
step state a number that their solution does not need, which an error can take instead, and their
solution says in words what it computes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

NUMBERS = {1: range(1, 12), 3: range(2, 20)}
"""The numbers of a question, by the largest number of steps."""
MIN_RESULT = 2
"""Of a step: after an error, the noun that follows a 1 would be in the wrong form."""
MAX_DRAWS = 1_000
"""Draws of numbers for one problem; most combinations fit."""

_NAMES = ("Adam", "Anna", "Ben", "Clara", "Emma", "Jack", "Julia", "Leo", "Nina", "Paul", "Tom")
_ITEMS = ("apples", "balls", "books", "cards", "coins", "eggs", "flowers", "pens", "shells")


@dataclass(frozen=True)
class _Problem:
    question: str
    steps: tuple[tuple[str, str], ...]
    """(sentence, expression) of each step. The expression is of numbers of the question, `a` to
    `d`, and results of steps before, `r0` and `r1`."""


def _one(question: str, sentence: str, expression: str) -> _Problem:
    return _Problem(question, ((sentence, expression),))


_ONE_STEP = (
    _one(
        "{name} has {a} {items} and {c} {others}. {friend} gives {name} {b} more {items}. How many "
        "{items} does {name} have now?",
        "{name} has {a} {items} and gets {b} more, so {equation} {items}.",
        "a + b",
    ),
    _one(
        "{name} has {a} {items} and {c} {others}. {name} gives {friend} {b} {items}. How many "
        "{items} does {name} have now?",
        "{name} has {a} {items} and gives away {b}, so {equation} {items}.",
        "a - b",
    ),
    _one(
        "{name} has {a} {items}. {friend} has {b} {items} and {c} {others}. How many {items} do "
        "they have together?",
        "{name} has {a} {items} and {friend} has {b}, together {equation} {items}.",
        "a + b",
    ),
    _one(
        "{name} has {a} {items}. {friend} has {b} {items} and {c} {others}. How many more {items} "
        "does {name} have than {friend}?",
        "{name} has {a} {items} and {friend} has {b}, so {equation} more {items}.",
        "a - b",
    ),
    _one(
        "{friend} has {c} {others} and {a} {items}. {name} has {b} more {items} than {friend}. How "
        "many {items} does {name} have?",
        "{friend} has {a} {items} and {name} has {b} more, so {equation} {items}.",
        "a + b",
    ),
    _one(
        "{friend} has {c} {others} and {a} {items}. {name} has {b} fewer {items} than {friend}. "
        "How many {items} does {name} have?",
        "{friend} has {a} {items} and {name} has {b} fewer, so {equation} {items}.",
        "a - b",
    ),
)
_TWO_STEPS = (
    _Problem(
        "{name} has {a} {items}. {friend} gives {name} {b} more. Then {name} loses {c} {items}. "
        "How many {items} does {name} have now?",
        (
            ("{name} first has {equation} {items}.", "a + b"),
            ("Then {name} has {equation} {items}.", "r0 - c"),
        ),
    ),
    _Problem(
        "{name} has {a} {items}. {name} gives {friend} {b} of them. Then {name} finds {c} {items}. "
        "How many {items} does {name} have now?",
        (
            ("{name} first has {equation} {items}.", "a - b"),
            ("Then {name} has {equation} {items}.", "r0 + c"),
        ),
    ),
    _Problem(
        "{name} has {a} {items}. {friend} has {b} more than {name}. How many {items} do they have "
        "together?",
        (
            ("{friend} has {equation} {items}.", "a + b"),
            ("Together they have {equation} {items}.", "r0 + a"),
        ),
    ),
    _Problem(
        "{name} has {a} {items}. {friend} has {b} fewer than {name}. How many {items} do they have "
        "together?",
        (
            ("{friend} has {equation} {items}.", "a - b"),
            ("Together they have {equation} {items}.", "a + r0"),
        ),
    ),
    _Problem(
        "{name} buys {a} bags of {b} {items}. {name} had {c} {items} before. How many {items} does "
        "{name} have now?",
        (
            ("{name} buys {equation} {items}.", "a * b"),
            ("Now {name} has {equation} {items}.", "r0 + c"),
        ),
    ),
    _Problem(
        "{name} buys {a} bags of {b} {items}. {name} gives {friend} {c} {items}. How many {items} "
        "does {name} have now?",
        (
            ("{name} buys {equation} {items}.", "a * b"),
            ("Now {name} has {equation} {items}.", "r0 - c"),
        ),
    ),
    _Problem(
        "{name} fills {a} boxes with {b} {items} each. {friend} fills {c} boxes with {d} {items} "
        "each. How many {items} are in the boxes?",
        (
            ("{name} packs {equation} {items}.", "a * b"),
            ("{friend} packs {equation} {items}.", "c * d"),
            ("All boxes have {equation} {items}.", "r0 + r1"),
        ),
    ),
    _Problem(
        "{name} fills {a} boxes with {b} {items} each. {friend} fills {c} boxes with {d} {items} "
        "each. How many more {items} does {name} pack?",
        (
            ("{name} packs {equation} {items}.", "a * b"),
            ("{friend} packs {equation} {items}.", "c * d"),
            ("{name} packs {equation} more {items}.", "r0 - r1"),
        ),
    ),
)
_PROBLEMS = {1: _ONE_STEP, 3: _TWO_STEPS}
"""By the largest number of steps."""


def draw_problem(max_steps: int, max_result: int, rng: Random) -> tuple[str, str]:
    """Draw a question and its solution, which ends with `#### ` and the answer.

    Args:
        max_steps: 1 for one step, 3 for two or three.
        max_result: No result of a step exceeds it.
        rng: Decides everything.
    """
    problem = rng.choice(_PROBLEMS[max_steps])
    name, friend = rng.sample(_NAMES, 2)
    items, others = rng.sample(_ITEMS, 2)
    words = {"name": name, "friend": friend, "items": items, "others": others}
    for _ in range(MAX_DRAWS):
        numbers = dict(zip("abcd", rng.sample(NUMBERS[max_steps], 4), strict=True))
        equations, answer = _solve(problem, numbers, max_result)
        if answer is None:
            continue
        sentences = [
            sentence.format(equation=equation, **words, **numbers)
            for (sentence, _), equation in zip(problem.steps, equations, strict=True)
        ]
        question = problem.question.format(**words, **numbers)
        return _singular(question), _singular("\n".join([*sentences, f"#### {answer}"]))
    raise AssertionError(f"no numbers fit {problem.question!r}")


def _singular(text: str) -> str:
    """The text with "1 coin" for "1 coins"."""
    return re.sub(r"\b(1 (?:more |fewer )?\w+)s\b", r"\1", text)


def _solve(
    problem: _Problem, numbers: dict[str, int], max_result: int
) -> tuple[list[str], int | None]:
    """The equations of the steps, and the answer, which is None if the numbers do not fit.

    Two numbers fit if both their sum and their difference, or their product, are from `MIN_RESULT`
    to `max_result`: the numbers then say nothing about the operation.
    """
    known, equations, result = dict(numbers), list[str](), None
    for i, (_, expression) in enumerate(problem.steps):
        left, operation, right = expression.split()
        x, y = known[left], known[right]
        possible = {"*": x * y} if operation == "*" else {"+": x + y, "-": x - y}
        if min(possible.values()) < MIN_RESULT or max(possible.values()) > max_result:
            return equations, None
        result = known[f"r{i}"] = possible[operation]
        equations.append(f"{x} {operation} {y} = {result}")
    return equations, result
