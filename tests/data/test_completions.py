"""Rows are made of what a policy was asked and what it wrote."""

from __future__ import annotations

import pytest

from mv_lightning.data.completions import MAX_ANSWER, completion_rows, extract_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"So \boxed{7}, no: $\boxed{\frac{1}{2}}$. #### 3", r"\frac{1}{2}"),
        (r"So \boxed{7, then #### 3", "3"),
        ("#### 1\n3 + 4 = 7\n#### $7 \nDone: 8", "7"),
        ("the answer is 5. The answer is: **12 apples**. I hope it is right. 9", "12 apples"),
        ("The answer is:\n\n4.5", "4.5"),
        ("3 x 4 = 12, and 10-3 = -1,007.", "-1,007"),
        ("3/4 of it.", "3/4"),
        ("I do not know.", ""),
        ("", ""),
        (r"\boxed{" + "9" * (MAX_ANSWER + 1) + "} or 8", "8"),
    ],
)
def test_the_answer_of_a_completion(completion: str, answer: str) -> None:
    assert extract_answer(completion) == answer


def test_conversations_and_texts_give_the_same_rows() -> None:
    plain = completion_rows(["3 + 4?"], ["It is\n7"], None, extract_answer)
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello 1"},
        {"role": "user", "content": [{"type": "text", "text": "3 + 4?"}]},
    ]
    reply = [
        {"role": "assistant", "content": "It is"},
        {"role": "tool", "content": "99"},
        {"role": "assistant", "content": "7"},
    ]
    assert completion_rows([prompt], [reply], None, extract_answer) == plain
    assert plain == [{"question": "3 + 4?", "solution": "It is\n7", "answer": "7"}]


def test_questions_of_a_column_and_another_rule() -> None:
    (row,) = completion_rows(["Solve: 3 + 4?"], ["a 7 b"], ["3 + 4?"], lambda text: text[0])
    assert row == {"question": "3 + 4?", "solution": "a 7 b", "answer": "a"}


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 prompts and 1 completions"):
        completion_rows(["a", "b"], ["c"], None, extract_answer)
    with pytest.raises(ValueError, match=r"got the roles \['system'\]"):
        completion_rows([[{"role": "system", "content": ""}]], ["c"], None, extract_answer)
