"""Word problems of one to three steps with small numbers, for the easier levels of synthetic data.

A small model cannot follow the longer problems of `synthetic`. These have the same form, a question
and a solution with an equation for each step, and every quantity that an error could take for
another one: the problems of one step state a number that the solution does not need.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

NUMBERS = range(2, 20)
"""The numbers of a question."""
MAX_DRAWS = 1_000
"""Draws of numbers for one problem; most combinations fit."""

_NAMES = tuple(
    "Adam Alice Anna Ben Carl Clara Daniel Ella Emma Eva Felix Grace Helen Henry Ivan Jack Julia "
    "Kate Laura Leo Lily Lucas Maria Mark Nina Noah Oscar Paul Peter Rosa Sam Sara Simon Tom "
    "Victor Zoe".split()
)
_ITEMS = tuple(
    "apples balls books buttons cards coins cookies eggs flowers lemons marbles oranges pears "
    "pencils pens plums ribbons shells stamps stickers".split()
)


@dataclass(frozen=True)
class _Problem:
    question: str
    steps: tuple[tuple[str, str], ...]
    """(sentence, expression) of each step: the sentence has `{equation}`, the expression numbers
    `{a}` to `{d}` of the question and results `{r0}`, `{r1}` of steps before."""


def _one(question: str, sentence: str, expression: str) -> _Problem:
    return _Problem(question, ((sentence, expression),))


_ONE_STEP = (
    _one(
        "{name} has {a} {items} and {c} {others}. {friend} gives {name} {b} more {items}. How many "
        "{items} does {name} have now?",
        "{name} has {equation} {items}.",
        "{a} + {b}",
    ),
    _one(
        "{name} has {a} {items} and {c} {others}. {name} gives {friend} {b} {items}. How many "
        "{items} does {name} have now?",
        "{name} has {equation} {items}.",
        "{a} - {b}",
    ),
    _one(
        "{name} has {a} {items}. {friend} has {b} {items} and {c} {others}. How many {items} do "
        "they have together?",
        "They have {equation} {items}.",
        "{a} + {b}",
    ),
    _one(
        "{name} has {a} {items}. {friend} has {b} {items} and {c} {others}. How many more {items} "
        "does {name} have than {friend}?",
        "{name} has {equation} more {items}.",
        "{a} - {b}",
    ),
    _one(
        "{friend} has {c} {others} and {a} {items}. {name} has {b} more {items} than {friend}. How "
        "many {items} does {name} have?",
        "{name} has {equation} {items}.",
        "{a} + {b}",
    ),
    _one(
        "{friend} has {c} {others} and {a} {items}. {name} has {b} fewer {items} than {friend}. "
        "How many {items} does {name} have?",
        "{name} has {equation} {items}.",
        "{a} - {b}",
    ),
)
_TWO_STEPS = (
    _Problem(
        "{name} has {a} {items}. {friend} gives {name} {b} more. Then {name} loses {c} {items}. "
        "How many {items} does {name} have now?",
        (
            ("{name} first has {equation} {items}.", "{a} + {b}"),
            ("Then {name} has {equation} {items}.", "{r0} - {c}"),
        ),
    ),
    _Problem(
        "{name} has {a} {items}. {name} gives {friend} {b} of them. Then {name} finds {c} {items}. "
        "How many {items} does {name} have now?",
        (
            ("{name} first has {equation} {items}.", "{a} - {b}"),
            ("Then {name} has {equation} {items}.", "{r0} + {c}"),
        ),
    ),
    _Problem(
        "{name} has {a} {items}. {friend} has {b} more than {name}. How many {items} do they have "
        "together?",
        (
            ("{friend} has {equation} {items}.", "{a} + {b}"),
            ("Together they have {equation} {items}.", "{r0} + {a}"),
        ),
    ),
    _Problem(
        "{name} has {a} {items}. {friend} has {b} fewer than {name}. How many {items} do they have "
        "together?",
        (
            ("{friend} has {equation} {items}.", "{a} - {b}"),
            ("Together they have {equation} {items}.", "{a} + {r0}"),
        ),
    ),
    _Problem(
        "{name} buys {a} bags of {b} {items}. {name} had {c} {items} before. How many {items} does "
        "{name} have now?",
        (
            ("{name} buys {equation} {items}.", "{a} * {b}"),
            ("Now {name} has {equation} {items}.", "{r0} + {c}"),
        ),
    ),
    _Problem(
        "{name} buys {a} bags of {b} {items}. {name} gives {friend} {c} {items}. How many {items} "
        "does {name} have now?",
        (
            ("{name} buys {equation} {items}.", "{a} * {b}"),
            ("Now {name} has {equation} {items}.", "{r0} - {c}"),
        ),
    ),
    _Problem(
        "{name} fills {a} boxes with {b} {items} each. {friend} fills {c} boxes with {d} {items} "
        "each. How many {items} are in the boxes?",
        (
            ("{name} packs {equation} {items}.", "{a} * {b}"),
            ("{friend} packs {equation} {items}.", "{c} * {d}"),
            ("All boxes have {equation} {items}.", "{r0} + {r1}"),
        ),
    ),
    _Problem(
        "{name} fills {a} boxes with {b} {items} each. {friend} fills {c} boxes with {d} {items} "
        "each. How many more {items} does {name} pack?",
        (
            ("{name} packs {equation} {items}.", "{a} * {b}"),
            ("{friend} packs {equation} {items}.", "{c} * {d}"),
            ("{name} packs {equation} more {items}.", "{r0} - {r1}"),
        ),
    ),
)
_PROBLEMS = {1: _ONE_STEP, 2: _TWO_STEPS}
"""The problems of each level."""


def draw_problem(level: int, max_number: int, rng: Random) -> tuple[str, str]:
    """Draw a question and its solution, which ends with `#### ` and the answer.

    Args:
        level: 1 for one step, 2 for two or three.
        max_number: No result of a step exceeds it.
        rng: Decides everything.
    """
    problem = rng.choice(_PROBLEMS[level])
    name, friend = rng.sample(_NAMES, 2)
    items, others = rng.sample(_ITEMS, 2)
    words = {"name": name, "friend": friend, "items": items, "others": others}
    for _ in range(MAX_DRAWS):
        numbers = dict(zip("abcd", rng.sample(NUMBERS, 4), strict=True))
        results = _results(problem, numbers, max_number)
        if results is None:
            continue
        values = words | numbers | results
        lines = []
        for i, (sentence, expression) in enumerate(problem.steps):
            equation = f"{expression.format_map(values)} = {results[f'r{i}']}"
            lines.append(sentence.format_map(values | {"equation": equation}))
        answer = results[f"r{len(lines) - 1}"]
        return problem.question.format_map(values), "\n".join([*lines, f"#### {answer}"])
    raise AssertionError(f"no numbers fit {problem.question!r}")


def _results(problem: _Problem, numbers: dict[str, int], max_number: int) -> dict[str, int] | None:
    """The result of every step, or None if the numbers do not fit.

    Two numbers fit if both their sum and their difference are from 1 to `max_number`, or their
    product: the numbers then say nothing about the operation.
    """
    results: dict[str, int] = {}
    for i, (_, expression) in enumerate(problem.steps):
        left, operation, right = expression.replace("{", "").replace("}", "").split()
        known = numbers | results
        x, y = known[left], known[right]
        possible = {"*": x * y} if operation == "*" else {"+": x + y, "-": x - y}
        if min(possible.values()) < 1 or max(possible.values()) > max_number:
            return None
        results[f"r{i}"] = possible[operation]
    return results
