"""Practice data: generated questions with worked solutions, half of them wrong in a known way.

A demo, a test or a CI run needs labelled rows without a download. `reasoning-gym` writes grade-school
questions together with their worked solutions (its `gsm_symbolic`, after Mirzadeh et al., "GSM-Symbolic",
https://arxiv.org/abs/2410.05229). This file reads the equations of a solution into steps, changes one
step, recomputes everything that depends on it and writes the text again: the label is known by
construction, and so is the kind of error.

Nothing but the reasoning should tell a wrong row from a correct one. So a question is taken only if every
kind of error can be made in it, the kind is dealt without a look at the question, correct rows are written
by the same code, and wrong answers lie above and below the right one equally often.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "test")
CORRECT = "none"
"""The `error` of a correct row."""
IN_STEPS = ("slip", "operation", "quantity")
"""The kinds of error made in one step of the solution and carried through."""
COLUMNS = (*TEXT_COLUMNS, LABEL_COLUMN, "error")
ERRORS = (*IN_STEPS, "answer")
"""All kinds of error, in equal shares among the wrong rows."""

TEMPLATES = (0, 4, 6, 9, 10, 12, 13, 16, 20, 23, 24, 39, 43, 44, 45, 48, 54, 58, 59, 62, 72)
"""The `gsm_symbolic` templates in use, chosen by eye: short, in natural English, two to five steps in
whole numbers that all come from the question."""

LARGEST = 400
"""No number of a row exceeds this: a small model should be able to check the arithmetic."""

SLIPS = (2, 4, 10, 20)
"""Sizes of an arithmetic slip: even, and half of them keep the last digit, so that neither parity nor roundness tells."""

WAYS = {"slip": ("up", "down"), "operation": ("+-", "-+", "*+", "+*"), "quantity": ("up", "down")}
"""The ways in which an error in a step goes wrong, in equal shares: the answer above or below the right one,
or the right operation and the one it is mistaken for. Unequal shares would let the counts tell."""

DRAWS = 10_000
"""Questions drawn in a row without a usable new one before the supply counts as spent."""

FACTOR = 3
"""A wrong answer is at most this many times the right one, or the other way round: its size should not tell."""

_TERM = r"[$€£]?\d+"
_BEFORE_SYMBOL = re.compile(
    rf"({_TERM})(?: [A-Za-z]+){{0,4}}(?:/[A-Za-z]+)?\s*([-+*/×÷=]|\bx\b)\s*(?={_TERM})"
)
"""A term with its unit and the symbol after it: "9 orders/day x " of "9 orders/day x 7 = 63"."""
_SYMBOLS = {"x": "*", "×": "*", "÷": "/"}
_EQUATION = re.compile(rf"({_TERM}(?: [-+*/] {_TERM})+) = ({_TERM})")
_UNREAD = re.compile(r"[=%{}]|\d ?[-+*/.,:] ?[$€£]?\d")
"""Arithmetic that is no plain equation, or a number that is not whole."""


@dataclass(frozen=True)
class _Term:
    currency: str
    value: int
    source: int | None
    """The step whose result this is; None for a number of the question."""


@dataclass(frozen=True)
class _Step:
    terms: tuple[_Term, ...]
    operations: tuple[str, ...]
    currency: str
    slip: int = 0

    def values(self, results: list[int]) -> list[int]:
        return [term.value if term.source is None else results[term.source] for term in self.terms]

    def result(self, results: list[int]) -> int | None:
        """The step's result, or None if it is not a whole number from 1 to `LARGEST`."""
        first, *others = self.values(results)
        summands = [first]
        for operation, value in zip(self.operations, others, strict=True):
            if operation == "*":
                summands[-1] *= value
            elif operation == "/":
                summands[-1], rest = divmod(summands[-1], value)
                if rest:
                    return None
            else:
                summands.append(value if operation == "+" else -value)
        total = sum(summands) + self.slip
        return total if 1 <= total <= LARGEST else None

    def equation(self, results: list[int], result: int) -> str:
        terms = [f"{t.currency}{value}" for t, value in zip(self.terms, self.values(results), strict=True)]
        tail = "".join(f" {o} {term}" for o, term in zip(self.operations, terms[1:], strict=True))
        return f"{terms[0]}{tail} = {self.currency}{result}"


_Steps = tuple[_Step, ...]


@dataclass(frozen=True)
class _Worked:
    """A question and its solution, taken apart."""

    question: str
    text: str
    """The solution, with `{e0}` for the equation of step 0 and `{r0}` where words repeat its result."""
    steps: _Steps
    results: list[int]

    def changed(self, kind: str, way: str) -> Iterator[tuple[int, _Step]]:
        """Every error of a kind that one step admits: the step's number, the step with the error."""
        givens = sorted(set(_numbers(self.question)))
        for i, step in enumerate(self.steps):
            if kind == "slip":
                for size in SLIPS:
                    if 2 * size <= self.results[i]:
                        yield i, replace(step, slip=size)
                        yield i, replace(step, slip=-size)
            elif kind == "operation":
                right, wrong = way
                for j, operation in enumerate(step.operations):
                    if operation == right:
                        yield i, replace(step, operations=_put(step.operations, j, wrong))
            else:
                used = step.values(self.results)
                for j, term in enumerate(step.terms):
                    for value in givens:
                        if value not in used:
                            yield i, replace(step, terms=_put(step.terms, j, _Term(term.currency, value, None)))

    def wrong(self, kind: str, way: str) -> list[_Steps]:
        """The steps of every wrong version of a kind that goes wrong in this way, see `WAYS`."""
        versions = []
        for i, step in self.changed(kind, way):
            steps = _put(self.steps, i, step)
            results = _solve(steps)
            if results is None:
                continue
            low, high = sorted((results[-1], self.results[-1]))
            if low < high <= FACTOR * low and way != ("down" if results[-1] == high else "up"):
                versions.append(steps)
        return versions

    def write(self, steps: _Steps) -> tuple[str, str]:
        """The solution with `steps` for its steps, and its answer."""
        results = _solve(steps) or []
        slots = {f"r{i}": str(result) for i, result in enumerate(results)}
        slots |= {f"e{i}": step.equation(results, results[i]) for i, step in enumerate(steps)}
        return f"{self.text.format_map(slots)}\nThe answer is {results[-1]}.", str(results[-1])


def _put(items: tuple[T, ...], i: int, item: T) -> tuple[T, ...]:
    return (*items[:i], item, *items[i + 1 :])


def _solve(steps: _Steps) -> list[int] | None:
    """The result of every step, or None if one is out of bounds."""
    results: list[int] = []
    for step in steps:
        result = step.result(results)
        if result is None:
            return None
        results.append(result)
    return results


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _parse(question: str, source: str) -> _Worked | None:
    """Take a worked solution apart, or None where that leaves a doubt.

    A number of the solution is known by its value: it is the result of a step, or a number of the
    question. So results must differ from each other and from the question's numbers, and no number may
    come from elsewhere (as the 7 of "7 days a week" would).
    """
    work, _, answer = source.partition("####")
    work = _BEFORE_SYMBOL.sub(lambda m: f"{m[1]} {_SYMBOLS.get(m[2], m[2])} ", work.strip())
    equations = _EQUATION.findall(work)
    results = [_numbers(right)[0] for _, right in equations]
    givens = set(_numbers(question))
    if (
        _UNREAD.search(question)
        or _UNREAD.search(_EQUATION.sub("", work))
        or len(results) < 2
        or len(givens.union(results)) < len(givens) + len(results)
        or not givens.union(results).issuperset(_numbers(work))
        or max(givens) > LARGEST
    ):
        return None

    sources = {result: i for i, result in enumerate(results)}

    def term(written: str) -> _Term:
        (value,) = _numbers(written)
        return _Term(written.removesuffix(str(value)), value, sources.get(value))

    steps = []
    for i, (left, right) in enumerate(equations):
        symbols = left.split(" ")
        terms = tuple(map(term, symbols[::2]))
        if any(t.source is not None and t.source >= i for t in terms):
            return None
        steps.append(_Step(terms, tuple(symbols[1::2]), term(right).currency))
    if _solve(tuple(steps)) != results or _numbers(answer) != results[-1:]:
        return None

    slots = iter(range(len(steps)))
    text = _EQUATION.sub(lambda _: f"{{e{next(slots)}}}", work)
    text = re.sub(r"(?<!\{e)\b\d+", lambda m: f"{{r{sources[int(m[0])]}}}" if int(m[0]) in sources else m[0], text)
    return _Worked(question, text, tuple(steps), results)


def _split_of(question: str) -> str:
    """A fifth of all questions are test questions. Told by the numbers, so that a question of the one
    split does not come back in the other with another name in it."""
    digest = hashlib.sha256(repr(_numbers(question)).encode()).digest()
    return "test" if digest[0] % 5 == 0 else "train"


def _questions(split: str, rng: Random) -> Iterator[_Worked]:
    """Questions of the split, each once, until no new ones are found."""
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise ValueError(
            "The sample data is written by reasoning-gym, which is not installed: "
            'pip install "mv-lightning[sample]", or choose another source of data.'
        ) from error

    generators = create_dataset("gsm_symbolic", seed=0, size=1).generators
    seen: set[str] = set()
    misses = 0
    while misses < DRAWS:
        misses += 1
        item = generators[rng.choice(TEMPLATES)](rng, 1.0)
        question = item["question"]
        if question in seen or _split_of(question) != split:
            continue
        seen.add(question)
        worked = _parse(question, item["metadata"]["answer_cot"])
        if worked is not None:
            misses = 0
            yield worked


def sample_table(split: str, rows: int, seed: int) -> pa.Table:
    """Practice rows: questions with a proposed answer and its worked solution, half of them wrong.

    Args:
        split: "train" or "test". No question of the one occurs in the other, whatever the seeds.
        rows: how many; even, since exactly half of them are correct.
        seed: what the rows are drawn by. Same arguments, same table.

    Returns:
        `rows` rows in random order with the columns `question`, `answer`, `solution` (strings),
        `is_correct` (bool) and `error` (string): "none" in a correct row, otherwise

        - "slip": one step's result is miscalculated and carried through to the answer;
        - "operation": one step adds where it should subtract, or the like, and is carried through;
        - "quantity": one step takes another number of the question, and is carried through;
        - "answer": the solution is right, the proposed answer is not the one it arrives at.

    Raises:
        ValueError: unknown split, odd or negative `rows`, more rows than there are questions, or
            reasoning-gym is not installed.
    """
    import pyarrow as pa

    if split not in SPLITS:
        raise ValueError(f"The sample data has the splits {' and '.join(SPLITS)}, not {split!r}: choose one of them.")
    if rows <= 0 or rows % 2:
        raise ValueError(f"Half of the sample rows are correct, so their number must be even and positive, not {rows}.")

    rng = Random(f"{split} {seed}")
    deals = [(ERRORS[i % len(ERRORS)], i // len(ERRORS), correct) for i in range(rows // 2) for correct in (True, False)]
    rng.shuffle(deals)
    questions = _questions(split, rng)
    table: list[tuple[str, str, str, bool, str]] = []
    for kind, turn, correct in deals:
        source = IN_STEPS[turn % len(IN_STEPS)] if kind == "answer" else kind
        way = WAYS[source][turn % len(WAYS[source])]
        for worked in questions:
            if versions := worked.wrong(source, way):
                break
        else:
            raise ValueError(f"The sample data ended after {len(table)} rows, {rows} are wanted: ask for fewer.")
        right, wrong = worked.write(worked.steps), worked.write(rng.choice(versions))
        solution = right[0] if correct or kind == "answer" else wrong[0]
        answer = right[1] if correct else wrong[1]
        table.append((worked.question, answer, solution, correct, CORRECT if correct else kind))
    return pa.table(dict(zip(COLUMNS, map(list, zip(*table, strict=True)), strict=True)))
