"""Practice data: generated questions with worked solutions, half of them wrong in a known way.

A demo, a test or a CI run needs labelled rows without a download. `reasoning-gym` writes grade-school
questions together with their worked solutions (its `gsm_symbolic`, after Mirzadeh et al., "GSM-Symbolic",
https://arxiv.org/abs/2410.05229). This file reads the equations of a solution into steps, changes one
step, recomputes everything that depends on it and writes the text again: the label is known by
construction, and so is the kind of error.

Nothing but the reasoning should tell a wrong row from a correct one. So every wrong row has a correct
twin, drawn from the questions in which the same error could have been made and written by the same code,
and errors come in opposite pairs (up and down, plus for minus and minus for plus), so that neither the
size of an answer nor a count of words and signs gives a row away. The tests hold this to account.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (*TEXT_COLUMNS, LABEL_COLUMN, "error")
SPLITS = ("train", "test")

WAYS = {"slip": ("up", "down"), "operation": ("+-", "-+"), "quantity": ("up", "down")}
"""The errors that can be made in a step, and the ways of each in equal shares: to an answer above or below
the right one, or the right operation and the one it is mistaken for. Products stay products: a sum for a
product is plausible in many questions, a product for a sum in few, and the odd plus sign would tell."""
ERRORS = (*WAYS, "answer")
"""The kinds of error, in equal shares."""
CORRECT = "none"
"""The `error` of a correct row."""

TEMPLATES = (0, 6, 9, 10, 12, 16, 20, 23, 24, 39, 43, 44, 45, 48, 54, 58, 59, 62, 72)
"""Numbers of the `gsm_symbolic` templates in use, chosen by eye: short, in natural English, two to five
steps in whole numbers that all come from the question."""
WORDS = 32
"""Longest question taken: a small model on a CPU pays for every word, and short ones hold the same errors."""
LARGEST = 400
"""No number of a row exceeds this: a small model should be able to check the arithmetic."""
SLIPS = (2, 4, 10, 20)
"""Sizes of an arithmetic slip. Even, and half of them keep the last digit: parity and roundness do not tell."""
SMALLEST = 5
"""No proposed answer is below this: an answer of 1 has no wrong ones below it, so it would tell."""
FACTOR = 3
"""A wrong answer is at most this many times the right one, or the other way round."""
DRAWS = 10_000
"""Questions drawn for one row before the supply counts as spent."""

_TERM = r"[$€£]?\d+"
_UNIT = r"(?: [A-Za-z]+){0,4}(?:/[A-Za-z]+)?"
_BEFORE_SYMBOL = re.compile(rf"({_TERM}){_UNIT}\s*([-+*/×÷=]|\bx\b)\s*(?={_TERM})")
"""The "9 orders/day x " of "9 orders/day x 7 = 63 orders"."""
_SYMBOLS = {"x": "*", "×": "*", "÷": "/"}
_EQUATION = re.compile(rf"({_TERM}(?: [-+*/] {_TERM})+) = ({_TERM})")
_UNREAD = re.compile(r"[=%{}]|\d ?[-+*/.,:] ?[$€£]?\d")
"""Arithmetic beside the equations, or a number that is not whole."""


@dataclass(frozen=True)
class _Term:
    currency: str
    value: int
    source: int | None = None
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
                summands[-1], remainder = divmod(summands[-1], value)
                if remainder:
                    return None
            else:
                summands.append(value if operation == "+" else -value)
        total = sum(summands) + self.slip
        return total if 1 <= total <= LARGEST else None

    def equation(self, results: list[int], result: int) -> str:
        terms = [
            f"{t.currency}{value}"
            for t, value in zip(self.terms, self.values(results), strict=True)
        ]
        tail = "".join(f" {o} {term}" for o, term in zip(self.operations, terms[1:], strict=True))
        return f"{terms[0]}{tail} = {self.currency}{result}"


_Steps = tuple[_Step, ...]


def _solve(steps: _Steps) -> list[int] | None:
    """The result of every step, or None if one is out of bounds."""
    results: list[int] = []
    for step in steps:
        result = step.result(results)
        if result is None:
            return None
        results.append(result)
    return results


@dataclass(frozen=True)
class _Worked:
    """A question and its solution, taken apart."""

    question: str
    text: str
    """The solution, with `{e0}` for the equation of step 0 and `{r0}` where words repeat its result."""
    steps: _Steps
    results: list[int]

    def changes(self, kind: str, way: str) -> Iterator[tuple[int, _Step]]:
        """Every error of the kind that a step admits: the step's number, the step with the error."""
        for i, step in enumerate(self.steps):
            if kind == "slip":
                for size in SLIPS:
                    # Both signs or none: a slip of 20 in a result of 15 could only go up.
                    if 2 * size <= self.results[i]:
                        yield i, replace(step, slip=size)
                        yield i, replace(step, slip=-size)
            elif kind == "operation":
                right, wrong = way[0], way[1]
                for j, operation in enumerate(step.operations):
                    if operation == right:
                        yield i, replace(step, operations=_put(step.operations, j, wrong))
            else:
                unused = sorted(set(_numbers(self.question)).difference(step.values(self.results)))
                for j, term in enumerate(step.terms):
                    for value in unused:
                        yield (
                            i,
                            replace(step, terms=_put(step.terms, j, _Term(term.currency, value))),
                        )

    def wrong(self, kind: str, way: str) -> list[_Steps]:
        """The steps of every wrong version of this kind and way, see `WAYS`."""
        versions = []
        right = self.results[-1]
        for i, step in self.changes(kind, way):
            steps = _put(self.steps, i, step)
            results = _solve(steps)
            if results is None:
                continue
            low, high = sorted((right, results[-1]))
            if SMALLEST <= low < high <= FACTOR * low and way != ("down" if right == low else "up"):
                versions.append(steps)
        return versions

    def write(self, steps: _Steps) -> tuple[str, str]:
        """The solution as it reads with these steps, and the answer it arrives at."""
        results = _solve(steps) or []
        slots = {f"r{i}": str(result) for i, result in enumerate(results)}
        slots |= {f"e{i}": step.equation(results, results[i]) for i, step in enumerate(steps)}
        return f"{self.text.format_map(slots)}\nThe answer is {results[-1]}.", str(results[-1])


def _put(items: tuple[Any, ...], i: int, item: Any) -> tuple[Any, ...]:
    return (*items[:i], item, *items[i + 1 :])


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
    if len(equations) < 2 or _UNREAD.search(question) or _UNREAD.search(_EQUATION.sub("", work)):
        return None
    givens = set(_numbers(question))
    results = [_numbers(right)[0] for _, right in equations]
    known = givens.union(results)
    if (
        len(known) < len(givens) + len(results)
        or not known.issuperset(_numbers(work))
        or max(known) > LARGEST
    ):
        return None

    sources = {result: i for i, result in enumerate(results)}
    steps: list[_Step] = []
    for left, right in equations:
        terms = []
        for written in left.split(" ")[::2]:
            (value,) = _numbers(written)
            terms.append(_Term(written.removesuffix(str(value)), value, sources.get(value)))
            if sources.get(value, -1) >= len(steps):
                return None
        steps.append(_Step(tuple(terms), tuple(left.split(" ")[1::2]), right.rstrip("0123456789")))
    if _solve(tuple(steps)) != results or _numbers(answer) != results[-1:]:
        return None

    slots = iter(range(len(steps)))
    text = _EQUATION.sub(lambda _: f"{{e{next(slots)}}}", work)
    text = re.sub(
        r"\b\d+", lambda m: f"{{r{sources[int(m[0])]}}}" if int(m[0]) in sources else m[0], text
    )
    return _Worked(question, text, tuple(steps), results)


def _split_of(question: str) -> str:
    """One question in five is a test question. Told by its numbers: a question of the one split does not
    come back in the other with another name in it."""
    return (
        "test"
        if hashlib.sha256(repr(_numbers(question)).encode()).digest()[0] % 5 == 0
        else "train"
    )


def _templates() -> Mapping[int, Any]:
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise ValueError(
            "The sample data is written by reasoning-gym, which is not installed: "
            'pip install "mv-lightning[sample]", or choose another source of data.'
        ) from error
    templates: Mapping[int, Any] = create_dataset("gsm_symbolic", seed=0, size=1).generators
    return templates


def _deals(rows: int) -> dict[tuple[str, str], list[tuple[str, bool]]]:
    """The rows to fill: for each error of `WAYS`, the kind and the label of every row that is dealt it."""
    deals: dict[tuple[str, str], list[tuple[str, bool]]] = {
        (kind, way): [] for kind in WAYS for way in WAYS[kind]
    }
    for i in range(rows // 2):
        turn, kind = i // len(ERRORS), ERRORS[i % len(ERRORS)]
        made = kind if kind in WAYS else tuple(WAYS)[turn % len(WAYS)]
        deals[made, WAYS[made][turn % len(WAYS[made])]] += [(kind, True), (kind, False)]
    return deals


def synthetic_table(split: str, rows: int, seed: int) -> pa.Table:
    """Practice rows: questions with a proposed answer and its worked solution, half of them wrong.

    Args:
        split: "train" or "test". No question of the one occurs in the other, whatever the seeds.
        rows: How many; even, since exactly half of them are correct.
        seed: What the rows are drawn by. Same arguments, same table.

    Returns:
        `rows` rows in random order, no question twice, with the columns `question`, `answer`, `solution`
        (strings), `is_correct` (bool) and `error` (string): "none" in a correct row, otherwise

        - "slip": one step's result is miscalculated, and carried through to the answer;
        - "operation": one step adds where it should subtract, or the like, and is carried through;
        - "quantity": one step takes another number of the question, and is carried through;
        - "answer": the solution is right, but the proposed answer is not the one it arrives at.

    Raises:
        ValueError: Unknown split; rows odd or not positive; more rows than there are questions;
            reasoning-gym not installed.
    """
    import pyarrow as pa

    if split not in SPLITS:
        raise ValueError(
            f"The sample data has the splits {' and '.join(SPLITS)}, not {split!r}: choose one of them."
        )
    if rows <= 0 or rows % 2:
        raise ValueError(
            f"Half of the sample rows are correct: choose an even, positive number of rows, not {rows}."
        )
    templates = _templates()
    rng = Random(f"{split} {seed}")
    deals = _deals(rows)
    table: list[tuple[str, str, str, bool, str]] = []
    seen: set[str] = set()
    draws = 0
    while len(table) < rows:
        if (draws := draws + 1) > DRAWS:
            raise ValueError(
                f"The sample data ran out of questions after {len(table)} of {rows} rows: ask for fewer."
            )
        item = templates[rng.choice(TEMPLATES)](rng, 1.0)
        question = item["question"]
        if question in seen or len(question.split()) > WORDS or _split_of(question) != split:
            continue
        worked = _parse(question, item["metadata"]["answer_cot"])
        # Chosen before it is known what the question admits: otherwise the questions that admit little
        # would all get the same error.
        error = rng.choice([error for error in deals if deals[error]])
        versions = worked.wrong(*error) if worked else []
        if worked is None or not versions:
            continue
        kind, correct = deals[error].pop()
        solution, answer = worked.write(worked.steps)
        if not correct:
            wrong_solution, answer = worked.write(rng.choice(versions))
            solution = solution if kind == "answer" else wrong_solution
        table.append((question, answer, solution, correct, CORRECT if correct else kind))
        seen.add(question)
        draws = 0
    rng.shuffle(table)
    return pa.table(dict(zip(COLUMNS, zip(*table, strict=True), strict=True)))
