"""What a policy was asked and what it wrote, as rows to verify."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Messages = str | Sequence[Mapping[str, Any]]
"""A text, or messages with `role` and `content`."""
BOXED = "\\boxed{"
ANSWER_MARKS = ("####", "answer is")
"""Texts that an answer follows on the same line."""
AROUND_ANSWER = " \t:*$."
"""What is removed around an answer that follows a mark."""
DIGITS = "0123456789"
NUMBER_SIGNS = ".,/-"
"""What a number may contain besides digits."""
MAX_ANSWER = 200
"""Characters; a longer text is no answer."""


def extract_answer(completion: str) -> str:
    """Return the answer that a completion gives: the first of these that there is.

    1. The content of the last `\\boxed{...}`.
    2. What follows the last `####` on its line.
    3. What follows the last "answer is" on its line, up to the end of the sentence.
    4. The last number.

    Args:
        completion: A solution.

    Returns:
        The answer; empty where there is none.
    """
    candidates = [_boxed(completion)]
    candidates += [_after(mark, completion) for mark in ANSWER_MARKS]
    candidates.append(_last_number(completion))
    return next((text for text in candidates if 0 < len(text) <= MAX_ANSWER), "")


def completion_rows(
    prompts: Sequence[Messages],
    completions: Sequence[Messages],
    questions: Sequence[str] | None,
    extract: Callable[[str], str],
) -> list[dict[str, str]]:
    """Return the rows that ask whether completions are right.

    Args:
        prompts: N prompts: plain texts, or conversations of which the last user message counts.
        completions: N completions: plain texts, or the messages that follow.
        questions: N questions in place of the prompts, which may hold instructions as well.
        extract: Returns the answer of a completion's text.

    Raises:
        ValueError: The numbers differ, or a prompt has no user message.
    """
    given = prompts if questions is None else questions
    if len(given) != len(completions):
        raise ValueError(
            f"expected a completion for each prompt, got {len(given)} prompts and "
            f"{len(completions)} completions. Give as many of both"
        )
    rows = []
    for prompt, completion in zip(given, completions, strict=True):
        solution = _completion_text(completion)
        rows.append(
            {
                "question": _question_text(prompt),
                "solution": solution,
                "answer": extract(solution),
            }
        )
    return rows


def message_text(content: Any) -> str:
    """Return the text of a message's content.

    Args:
        content: A text, None, or a list of parts, of which those with a `text` count.
    """
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def _question_text(prompt: Messages) -> str:
    if isinstance(prompt, str):
        return prompt
    users = [message for message in prompt if message["role"] == "user"]
    if not users:
        roles = [message["role"] for message in prompt]
        raise ValueError(
            f"expected a prompt with a user's message, got the roles {roles}. Give the questions "
            "in a column `question`"
        )
    return message_text(users[-1]["content"])


def _completion_text(completion: Messages) -> str:
    if isinstance(completion, str):
        return completion
    replies = [message for message in completion if message["role"] == "assistant"]
    return "\n".join(message_text(message.get("content")) for message in replies)


def _boxed(text: str) -> str:
    _, found, tail = text.rpartition(BOXED)
    depth = 1 if found else 0
    for position, character in enumerate(tail):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return tail[:position].strip() if found else ""
    return ""


def _after(mark: str, text: str) -> str:
    _, found, tail = text.rpartition(mark)
    if not found:
        return ""
    return tail.split("\n")[0].split(". ")[0].strip(AROUND_ANSWER)


def _last_number(text: str) -> str:
    runs = re.findall(rf"[{DIGITS}{re.escape(NUMBER_SIGNS)}]+", text)
    numbers = [run for run in runs if run.strip(NUMBER_SIGNS)]
    return numbers[-1].lstrip(".,/").rstrip(NUMBER_SIGNS) if numbers else ""
