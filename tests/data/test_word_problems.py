"""The problems of the easier levels say what their solutions compute."""

from __future__ import annotations

import re
from random import Random

import pytest

from mv_lightning.data import word_problems
from mv_lightning.data.word_problems import draw_problem


def numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


@pytest.mark.parametrize(("max_steps", "max_result"), [(1, 20), (3, 60)])
def test_solutions_are_right_and_small(max_steps: int, max_result: int) -> None:
    rng = Random(max_steps)
    operations = set()
    for _ in range(300):
        question, solution = draw_problem(max_steps, max_result, rng)
        *lines, last = solution.split("\n")
        known = numbers(question)
        assert len(set(known)) == len(known) and "{" not in question + solution
        for line in lines:
            x, operation, y, result = re.search(r"(\d+) (.) (\d+) = (\d+)", line).groups()  # type: ignore[union-attr]
            assert {int(x), int(y)} <= set(known), (question, solution)
            assert eval(f"{x} {operation} {y}") == int(result)
            assert 2 <= int(result) <= max_result
            known.append(int(result))
            operations.add(operation)
        assert len(lines) <= max_steps
        assert last == f"#### {known[-1]}"
    assert operations == ({"+", "-"} if max_steps == 1 else {"+", "-", "*"})


def test_a_question_of_one_step_has_a_number_too_many() -> None:
    rng = Random(0)
    for _ in range(100):
        question, solution = draw_problem(1, 20, rng)
        assert len(set(numbers(question)) - set(numbers(solution.partition("=")[0]))) == 1
        assert not re.search(r"\b1 (more |fewer )?\w+s\b", question + solution)


def test_numbers_do_not_tell_the_operation() -> None:
    """Either operation gives a result from the smallest to the largest."""
    rng = Random(3)
    for _ in range(200):
        _, solution = draw_problem(1, 20, rng)
        x, _, y = re.search(r"(\d+) (.) (\d+) =", solution).groups()  # type: ignore[union-attr]
        assert int(x) - int(y) >= 2 and int(x) + int(y) <= 20


def test_every_problem_is_drawn_and_the_seed_decides() -> None:
    for max_steps, problems in word_problems._PROBLEMS.items():
        drawn = [draw_problem(max_steps, 60, Random(seed)) for seed in range(200)]
        assert drawn == [draw_problem(max_steps, 60, Random(seed)) for seed in range(200)]
        sentences = {re.sub(r"[A-Z]\w*|\d+", "", solution) for _, solution in drawn}
        assert len(sentences) >= len(problems), "each has another solution"


def test_numbers_that_never_fit() -> None:
    with pytest.raises(AssertionError, match="no numbers fit"):
        draw_problem(1, 2, Random(0))
