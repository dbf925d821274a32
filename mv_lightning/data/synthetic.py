"""Synthetic data: generated questions with worked solutions, half of them wrong in a known way.

A demo, a test or a CI run needs labelled rows without a download. `reasoning-gym` writes
grade-school questions together with their worked solutions (its `gsm_symbolic`, after Mirzadeh et
al., "GSM-Symbolic", https://arxiv.org/abs/2410.05229), and `word_problems` has easier ones. This
module parses the equations of a solution into steps, changes one step, recomputes everything that
depends on it and writes the text again: the label is known by construction, and so is the kind of
error.

Only the reasoning should distinguish a wrong row from a correct one. Every question therefore has
both, written by the same code, and errors come in opposite pairs (up and down, plus for minus and
minus for plus), so that neither the size of an answer nor a count of words and signs predicts the
label. The tests measure this.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from mv_lightning.data.columns import KIND_COLUMN, LEVEL_COLUMN
from mv_lightning.data.word_problems import MIN_RESULT, draw_problem
from mv_lightning.hashing import sha256_bytes
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (*TEXT_COLUMNS, LABEL_COLUMN, KIND_COLUMN, LEVEL_COLUMN)
LEVEL_SHARES = {1: 0.6, 2: 0.3, 3: 0.05, 4: 0.05}
"""Share of the rows of each level of difficulty. Levels 1 and 2 have questions of one step, level 3
of two or three steps, level 4 those of the templates of reasoning-gym. At level 1 a wrong answer is
not the one that the solution arrives at: comparing them is enough. From level 2 on the steps must
be checked. A small model learns the first level quickly; the others show where it ends."""
MAX_STEPS = {1: 1, 2: 1, 3: 3}
"""Of the word problems of the easier levels."""
SPLITS = ("train", "test")

STEP_ERRORS = {"slip": ("up", "down"), "operation": ("+-", "-+"), "quantity": ("up", "down")}
"""The kinds of error in a step, and the directions of each in equal shares: to an answer above or
below the right one, or the right operation and the wrong one in its place. Products stay products:
a sum for a product is plausible in many questions, a product for a sum in few, so the rare plus
sign would predict the label."""
ERRORS = (*STEP_ERRORS, "answer")
"""All kinds of error."""
LEVEL_ERRORS = {1: ("answer",), 2: ERRORS, 3: ERRORS, 4: ERRORS}
"""The kinds of error of each level, in equal shares."""
CORRECT = "none"
"""The `error` of a correct row."""

TEMPLATES = (0, 6, 9, 10, 12, 16, 20, 23, 24, 39, 43, 44, 45, 48, 54, 58, 59, 62, 72)
"""Numbers of the `gsm_symbolic` templates in use, chosen by reading them: short, in natural
English, two to five steps in whole numbers that all come from the question."""
MAX_WORDS = 32
"""Of a question: every word costs time on a CPU, and short questions have the same errors."""
ANSWERS = {
    1: range(MIN_RESULT, 13),
    2: range(MIN_RESULT, 13),
    3: range(5, 61),
    4: range(5, 401),
}
"""The proposed answers of each level: a small model should be able to check the arithmetic. With
one step all are about equally frequent; with more an answer of 1 would have no wrong ones
below it, which would predict the label."""
MAX_NUMBER = max(map(max, ANSWERS.values()))
"""No number of a row exceeds this."""
SLIPS = (2, 4, 10, 20)
"""Sizes of an arithmetic slip. They are even, and half of them keep the last digit, so that neither
parity nor roundness predicts the label."""
MAX_RATIO = 3
"""Of a wrong answer to the right one, or of the right one to the wrong one."""
MAX_DRAWS = 10_000
"""Questions drawn for one row before the supply counts as used up."""

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
        """The step's result, or None unless it is whole and from `MIN_RESULT` to `MAX_NUMBER`."""
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
        return total if MIN_RESULT <= total <= MAX_NUMBER else None

    def equation(self, results: list[int], result: int) -> str:
        first, *others = self.values(results)
        text = f"{self.terms[0].currency}{first}"
        for operation, term, value in zip(self.operations, self.terms[1:], others, strict=True):
            text += f" {operation} {term.currency}{value}"
        return f"{text} = {self.currency}{result}"


_Steps = tuple[_Step, ...]
_Row = tuple[str, str, str, bool, str, int]
"""The values of `COLUMNS`."""


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
class _ParsedSolution:
    """A question and its solution as steps."""

    question: str
    text: str
    """The solution, with `{e0}` for the equation of step 0 and `{r0}` where the text repeats its
    result."""
    steps: _Steps
    results: list[int]

    def step_errors(self, kind: str, direction: str) -> Iterator[tuple[int, _Step]]:
        """Every error of the kind that a step admits: (number of the step, step with the error)."""
        errors = {
            "slip": self._slips,
            "operation": lambda: self._wrong_operations(right=direction[0], wrong=direction[1]),
            "quantity": self._wrong_quantities,
        }
        return errors[kind]()

    def _slips(self) -> Iterator[tuple[int, _Step]]:
        for i, step in enumerate(self.steps):
            for size in SLIPS:
                # Both signs or none: a slip of 20 in a result of 15 could only go up. The result of
                # a question of one step is the answer, which has bounds of its own.
                if len(self.steps) == 1 or 2 * size <= self.results[i]:
                    yield i, replace(step, slip=size)
                    yield i, replace(step, slip=-size)

    def _wrong_operations(self, right: str, wrong: str) -> Iterator[tuple[int, _Step]]:
        for i, step in enumerate(self.steps):
            for j, operation in enumerate(step.operations):
                if operation == right:
                    yield i, replace(step, operations=_replace_at(step.operations, j, wrong))

    def _wrong_quantities(self) -> Iterator[tuple[int, _Step]]:
        for i, step in enumerate(self.steps):
            unused = sorted(set(_numbers(self.question)).difference(step.values(self.results)))
            for j, term in enumerate(step.terms):
                for value in unused:
                    other = _Term(term.currency, value)
                    yield i, replace(step, terms=_replace_at(step.terms, j, other))

    def wrong_versions(self, kind: str, direction: str, answers: range) -> list[_Steps]:
        """The steps of every wrong version of this kind and direction, see `STEP_ERRORS`."""
        versions = []
        right = self.results[-1]
        for i, step in self.step_errors(kind, direction):
            steps = _replace_at(self.steps, i, step)
            results = _solve(steps)
            if results is None:
                continue
            low, high = sorted((right, results[-1]))
            other_direction = "down" if right == low else "up"
            plausible = low in answers and high in answers and low < high <= MAX_RATIO * low
            if plausible and direction != other_direction:
                versions.append(steps)
        return versions

    def write(self, steps: _Steps) -> tuple[str, str]:
        """The solution as it reads with these steps, and the answer it arrives at."""
        results = _solve(steps) or []
        slots = {f"r{i}": str(result) for i, result in enumerate(results)}
        slots |= {f"e{i}": step.equation(results, results[i]) for i, step in enumerate(steps)}
        return f"{self.text.format_map(slots)}\nThe answer is {results[-1]}.", str(results[-1])


def _replace_at(items: tuple[Any, ...], i: int, item: Any) -> tuple[Any, ...]:
    return (*items[:i], item, *items[i + 1 :])


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _parse(question: str, source: str) -> _ParsedSolution | None:
    """Parse a worked solution, or return None where it is ambiguous.

    A number of the solution is identified by its value: it is the result of a step, or a number of
    the question. So results must differ from each other and from the question's numbers, and no
    number may come from elsewhere (as the 7 of "7 days a week" would).
    """
    work, _, answer = source.partition("####")
    work = _BEFORE_SYMBOL.sub(lambda m: f"{m[1]} {_SYMBOLS.get(m[2], m[2])} ", work.strip())
    equations = _EQUATION.findall(work)
    if not equations or _UNREAD.search(question) or _UNREAD.search(_EQUATION.sub("", work)):
        return None
    givens = set(_numbers(question))
    results = [_numbers(right)[0] for _, right in equations]
    known = givens.union(results)
    ambiguous = len(known) < len(givens) + len(results)
    if ambiguous or not known.issuperset(_numbers(work)) or max(known) > MAX_NUMBER:
        return None
    sources = {result: i for i, result in enumerate(results)}
    steps = _parse_steps(equations, sources)
    if steps is None or _solve(steps) != results or _numbers(answer) != results[-1:]:
        return None
    return _ParsedSolution(question, _slot_text(work, sources), steps, results)


def _parse_steps(equations: list[tuple[str, str]], sources: Mapping[int, int]) -> _Steps | None:
    """The steps of (left side, right side), or None where one uses a result that comes later."""
    steps: list[_Step] = []
    for left, right in equations:
        terms = []
        for written in left.split(" ")[::2]:
            (value,) = _numbers(written)
            terms.append(_Term(written.removesuffix(str(value)), value, sources.get(value)))
            if sources.get(value, -1) >= len(steps):
                return None
        steps.append(_Step(tuple(terms), tuple(left.split(" ")[1::2]), right.rstrip("0123456789")))
    return tuple(steps)


def _slot_text(work: str, sources: Mapping[int, int]) -> str:
    """The text of a solution with slots in place of equations and results."""

    def result_slot(number: re.Match[str]) -> str:
        value = int(number[0])
        return f"{{r{sources[value]}}}" if value in sources else number[0]

    slots = itertools.count()
    text = _EQUATION.sub(lambda _: f"{{e{next(slots)}}}", work)
    return re.sub(r"\b\d+", result_slot, text)


def _split_of(question: str) -> str:
    """One question in five is a test question.

    The numbers of the question decide: a question of one split does not occur in the other with
    another name in it.
    """
    digest = sha256_bytes(repr(_numbers(question)).encode())
    return "test" if int(digest[:2], 16) % 5 == 0 else "train"


def _wrong_rows(questions: int, kinds: tuple[str, ...]) -> dict[tuple[str, str], list[str]]:
    """The wrong rows to fill: (kind of step error, direction) -> their kinds."""
    todo: dict[tuple[str, str], list[str]] = {}
    for kind, directions in STEP_ERRORS.items():
        for direction in directions:
            todo[kind, direction] = []
    for i in range(questions):
        turn, kind = i // len(kinds), kinds[i % len(kinds)]
        step_kind = kind if kind in STEP_ERRORS else tuple(STEP_ERRORS)[turn % len(STEP_ERRORS)]
        directions = STEP_ERRORS[step_kind]
        todo[step_kind, directions[turn % len(directions)]].append(kind)
    return todo


def synthetic_table(split: str, rows: int, seed: int, level: int | None = None) -> pa.Table:
    """Generate questions with a proposed answer and its worked solution, half of them wrong.

    Args:
        split: "train" or "test". No question of one occurs in the other, whatever the seeds.
        rows: Number of rows; even, since exactly half of them are correct.
        seed: Seed of the draw. The same arguments give the same table.
        level: Level of difficulty of all questions; None for the shares of `LEVEL_SHARES`.

    Returns:
        `rows` rows in random order, two of each question, with the columns `question`, `answer`,
        `solution` (strings), `is_correct` (bool), `level` (int, of `LEVEL_SHARES`) and `error`
        (string): "none" in a correct row, otherwise

        - "slip": one step's result is miscalculated, and carried through to the answer;
        - "operation": one step adds where it should subtract, or the reverse, and is carried
          through;
        - "quantity": one step takes another number of the question, and is carried through;
        - "answer": the solution is right, but the proposed answer is not the one it arrives at.

    Raises:
        ValueError: Unknown split or level; rows odd or not positive; more rows than there are
            questions; reasoning-gym not installed.
    """
    import pyarrow as pa

    if split not in SPLITS:
        raise ValueError(
            f"Synthetic data: expected the split {' or '.join(SPLITS)}, got {split!r}. Choose one "
            "of them."
        )
    if level is not None and level not in LEVEL_SHARES:
        raise ValueError(
            f"Synthetic data: expected a level from 1 to {max(LEVEL_SHARES)}, got {level}. Choose "
            "one of them, or none for all."
        )
    if rows <= 0 or rows % 2:
        raise ValueError(
            f"Synthetic data: expected an even, positive number of rows, got {rows}. Half of the "
            "rows are correct."
        )
    rng = Random(f"{split} {seed}")
    rows_by_level = _rows_by_level(rows) if level is None else {level: rows}
    table: list[_Row] = []
    seen: set[str] = set()
    for drawn_level, drawn_rows in rows_by_level.items():
        table += _draw_rows(split, drawn_rows, drawn_level, rng, seen)
    rng.shuffle(table)
    return pa.table(dict(zip(COLUMNS, zip(*table, strict=True), strict=True)))


def _rows_by_level(rows: int) -> dict[int, int]:
    """An even number of rows for every level; the easiest gets those that remain."""
    counts = {level: int(rows // 2 * share) * 2 for level, share in LEVEL_SHARES.items()}
    counts[1] += rows - sum(counts.values())
    return counts


def _draw_rows(split: str, rows: int, level: int, rng: Random, seen: set[str]) -> list[_Row]:
    """Draw the rows of a level; their questions are added to those that were drawn before."""
    todo = _wrong_rows(rows // 2, LEVEL_ERRORS[level])
    draw = _problems(level)
    table: list[_Row] = []
    draws = 0
    while len(table) < rows:
        draws += 1
        if draws > MAX_DRAWS:
            raise ValueError(
                f"Synthetic data: questions of level {level} ran out after {len(table)} of {rows} "
                "rows. Ask for fewer."
            )
        question, work = draw(rng)
        if question in seen or len(question.split()) > MAX_WORDS or _split_of(question) != split:
            continue
        parsed = _parse(question, work)
        # Chosen before it is known which errors the question admits: otherwise the questions that
        # admit few would all get the same error.
        error = rng.choice([error for error in todo if todo[error]])
        versions = parsed.wrong_versions(*error, ANSWERS[level]) if parsed else []
        if parsed is None or not versions:
            continue
        kind = todo[error].pop()
        solution, answer = parsed.write(parsed.steps)
        wrong_solution, wrong_answer = parsed.write(rng.choice(versions))
        if kind == "answer":
            wrong_solution = solution
        table.append((question, answer, solution, True, CORRECT, level))
        table.append((question, wrong_answer, wrong_solution, False, kind, level))
        seen.add(question)
        draws = 0
    return table


def _problems(level: int) -> Callable[[Random], tuple[str, str]]:
    """What draws a question and its solution, which ends with `#### ` and the answer."""
    if level in MAX_STEPS:
        return partial(draw_problem, MAX_STEPS[level], ANSWERS[level][-1])
    templates = _templates()

    def draw(rng: Random) -> tuple[str, str]:
        item = templates[rng.choice(TEMPLATES)](rng, 1.0)
        return item["question"], item["metadata"]["answer_cot"]

    return draw


def _templates() -> Mapping[int, Any]:
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise ValueError(
            "Synthetic data needs reasoning-gym, which is not installed. Run "
            '`pip install "mv-lightning[synthetic]"`, or choose another source of data.'
        ) from error
    templates: Mapping[int, Any] = create_dataset("gsm_symbolic", seed=0, size=1).generators
    return templates
