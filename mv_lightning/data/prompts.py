"""The prompt variants: what stands around a row's question, answer and solution.

A prompt has three parts. The *instruction* is the same for every row and is computed once per batch.
The *body* lays out the row's fields. The *cue* ends the prompt, so that the next token is the verdict.

The three variants follow the ladder of the report (answer only, with the explanation, with a detailed
procedure); their wording is our own.
"""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.schema import TEXT_COLUMNS

VERDICTS = {True: " True", False: " False"}
"""The words that follow the cue; each must be one token of the base model's vocabulary."""


@dataclass(frozen=True)
class Prompt:
    """One way of asking."""

    name: str
    instruction: str
    """Stands in front of every row; no fields."""
    body: str
    """The row, with `{question}`, `{answer}` and, if the solution is shown, `{solution}`."""
    cue: str
    """Ends the prompt; no fields, no space at the end (the verdict brings its own)."""

    def __post_init__(self) -> None:
        fields = [field for _, field in self.pieces if field]
        unknown = sorted(set(fields) - set(TEXT_COLUMNS))
        if unknown or len(fields) != len(set(fields)) or not {"question", "answer"} <= set(fields):
            raise ValueError(
                f"prompt {self.name!r}: the body has the fields {fields}; it needs {{question}} and {{answer}} "
                "once each, may have {solution} once, and nothing else in braces (write a brace as {{ or }})"
            )
        if not self.instruction.strip() or not self.cue.strip() or self.cue != self.cue.rstrip():
            raise ValueError(
                f"prompt {self.name!r}: instruction and cue must have text, and the cue must not end in white space "
                f"(got the cue {self.cue!r})"
            )

    @property
    def pieces(self) -> list[tuple[str, str | None]]:
        """The body as (literal text, name of the field that follows or None) in order."""
        return [(literal, field) for literal, field, _, _ in string.Formatter().parse(self.body)]

    @property
    def fingerprint(self) -> str:
        """Hash of the wording: a model must be asked as it was trained, whatever the prompt is called."""
        return hashlib.sha256(
            "\0".join((self.instruction, self.body, self.cue)).encode()
        ).hexdigest()[:16]


_WITH_SOLUTION = "Question:\n{question}\n\nSolution:\n{solution}\n\nProposed answer:\n{answer}\n\n"
_CUE = "Verdict (True or False):"

PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt(
            name="answer_only",
            instruction="Decide whether the proposed answer to the math question below is correct.\n\n",
            body="Question:\n{question}\n\nProposed answer:\n{answer}\n\n",
            cue=_CUE,
        ),
        Prompt(
            name="explanation",
            instruction=(
                "Below are a math question, a worked solution and a proposed answer. Go through every step of the "
                "solution, then decide whether the proposed answer is correct.\n\n"
            ),
            body=_WITH_SOLUTION,
            cue=_CUE,
        ),
        Prompt(
            name="detailed",
            instruction=(
                "You are grading mathematics. Below are a question, a worked solution and the answer that was "
                "proposed.\n"
                "1. Read what the question asks and which quantities it gives.\n"
                "2. Follow the solution line by line and recompute each result; look for a step that is wrong.\n"
                "3. Notice information that the solution leaves out or invents.\n"
                "4. Confirm that the proposed answer is what the question asks for and what correct work gives.\n"
                "Say True only if the proposed answer is correct; otherwise say False.\n\n"
            ),
            body=_WITH_SOLUTION,
            cue=_CUE,
        ),
    )
}


def load_prompt(name: str) -> Prompt:
    """Return a built-in variant, or read the user's own from a file.

    Args:
        name: `answer_only`, `explanation`, `detailed`, or the path of a YAML file with the keys
            `instruction`, `body` and `cue`.

    Raises:
        ValueError: No such variant or file, or a file that does not hold a prompt.
    """
    if name in PROMPTS:
        return PROMPTS[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"prompt {name!r} is neither one of {', '.join(PROMPTS)} nor a file")
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt file {name} is not valid YAML in UTF-8: {error}") from error
    keys = {"instruction", "body", "cue"}
    if (
        not isinstance(content, dict)
        or set(content) != keys
        or not all(isinstance(v, str) for v in content.values())
    ):
        got = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"prompt file {name} must hold the text keys {sorted(keys)} and no other; got {got}"
        )
    try:
        return Prompt(name=path.stem, **content)
    except ValueError as error:
        if "single" in str(error) or "expected" in str(
            error
        ):  # string.Formatter on an unbalanced brace
            raise ValueError(
                f"prompt file {name}: {error}; write a brace in the text as {{{{ or }}}}"
            ) from error
        raise
