"""The prompt variants: the text around a row's question, answer and solution.

A prompt has three parts. The *instruction* is the same for every row and is computed once per
batch. The *body* lays out the fields of the row. The *cue* ends the prompt; the next token is the
verdict.

The variants `answer_only`, `explanation` and `detailed` are those that the NYU contest report
compares (answer only, with the explanation, with a detailed procedure), in other words. `chat` is
for instruction-tuned bases: `chat.render_chat` puts the tokenizer's chat template around it.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mv_lightning.hashing import sha256_bytes
from mv_lightning.schema import TEXT_COLUMNS


@dataclass(frozen=True)
class Prompt:
    """One wording of the task. Special tokens in its text are special, unlike those in a row."""

    name: str
    instruction: str
    """Precedes every row; no fields."""
    body: str
    """The row, with `{question}`, `{answer}` and, if the solution is shown, `{solution}`."""
    cue: str
    """Ends the prompt; no fields, no space at the end (the verdict brings its own)."""
    chat: bool = False
    """True: the text is the content of a user's message, and `chat.render_chat` must be called."""
    separator: str = " "
    """Between the cue and the verdict."""

    def __post_init__(self) -> None:
        """Refuse a wording that cannot ask for a verdict.

        Raises:
            ValueError: Missing, repeated or unknown fields; an empty part; a space after the cue.
        """
        fields = [field for _, field in self.pieces if field]
        unknown = set(fields) - set(TEXT_COLUMNS)
        if unknown or len(fields) != len(set(fields)) or not {"question", "answer"} <= set(fields):
            raise ValueError(
                f"prompt {self.name!r}: expected the fields {{question}} and {{answer}} once each, "
                f"{{solution}} at most once and no others, got {fields}. Change the body; write a "
                "brace as {{ or }}."
            )
        if not self.instruction.strip() or not self.cue.strip():
            raise ValueError(
                f"prompt {self.name!r}: expected text in instruction and cue, got "
                f"{self.instruction!r} and {self.cue!r}. Write both."
            )
        if self.separator and self.cue != self.cue.rstrip():
            raise ValueError(
                f"prompt {self.name!r}: expected no white space at the end of the cue, got "
                f"{self.cue!r}. Remove it: the verdict begins with a space."
            )

    @property
    def pieces(self) -> list[tuple[str, str | None]]:
        """The body as (literal text, name of the field that follows or None) in order."""
        return [(literal, field) for literal, field, _, _ in string.Formatter().parse(self.body)]

    @property
    def verdicts(self) -> tuple[str, str]:
        """What follows the cue of a wrong and of a correct answer: the text of labels 0 and 1."""
        return f"{self.separator}False", f"{self.separator}True"

    @property
    def fingerprint(self) -> str:
        """Hash of the wording, whatever the prompt is called: it must be that of the training.

        Raises:
            ValueError: The chat template is not around the prompt yet.
        """
        self.check_rendered()
        parts = [self.instruction, self.body, self.cue]
        if self.separator != " ":
            parts.append(self.separator)
        return sha256_bytes("\0".join(parts).encode())[:16]

    def check_rendered(self) -> None:
        """Check that this is the whole wording.

        Raises:
            ValueError: The chat template is not around the prompt yet.
        """
        if self.chat:
            raise ValueError(
                f"prompt {self.name!r} has no wording before the tokenizer's chat template is "
                "around it. Call `render_chat` first."
            )


def prompt_from_metadata(values: Mapping[str, Any]) -> Prompt:
    """Return the prompt that an adapter's metadata describe.

    Args:
        values: The fields of a rendered prompt, and its fingerprint.
    """
    return Prompt(**{name: value for name, value in values.items() if name != "fingerprint"})


_INSTRUCTION = (
    "Below are a math question, a worked solution and a proposed answer. Go through every step of "
    "the solution, then decide whether the proposed answer is correct.\n\n"
)
_WITH_SOLUTION = "Question:\n{question}\n\nSolution:\n{solution}\n\nProposed answer:\n{answer}\n\n"
_CUE = "Verdict (True or False):"

_VARIANTS = (
    Prompt(
        name="answer_only",
        instruction=(
            "Decide whether the proposed answer to the math question below is correct.\n\n"
        ),
        body="Question:\n{question}\n\nProposed answer:\n{answer}\n\n",
        cue=_CUE,
    ),
    Prompt(name="explanation", instruction=_INSTRUCTION, body=_WITH_SOLUTION, cue=_CUE),
    Prompt(
        name="detailed",
        instruction=(
            "You are grading mathematics. Below are a question, a worked solution and the answer "
            "that was proposed.\n"
            "1. Read what the question asks and which quantities it gives.\n"
            "2. Follow the solution line by line and recompute each result; look for a step that "
            "is wrong.\n"
            "3. Notice information that the solution leaves out or invents.\n"
            "4. Confirm that the proposed answer is what the question asks for and what correct "
            "work gives.\n"
            "Say True only if the proposed answer is correct; otherwise say False.\n\n"
        ),
        body=_WITH_SOLUTION,
        cue=_CUE,
    ),
    Prompt(
        name="chat",
        instruction=_INSTRUCTION,
        body=_WITH_SOLUTION,
        cue="Is the proposed answer correct? Reply with one word, True or False.",
        chat=True,
    ),
)
PROMPTS = {prompt.name: prompt for prompt in _VARIANTS}
"""The built-in variants by name."""


def load_prompt(name: str) -> Prompt:
    """Return a built-in variant, or read the user's own from a file.

    Args:
        name: `answer_only`, `explanation`, `detailed`, `chat`, or the path of a YAML file with the
            keys `instruction`, `body` and `cue`, and optionally `chat: true`, or of the metadata
            file of an adapter. Special tokens in the texts of the file are special tokens.

    Raises:
        ValueError: No such variant or file, or a file that does not hold a prompt.
    """
    if name in PROMPTS:
        return PROMPTS[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"prompt {name!r}: expected one of {', '.join(PROMPTS)}, or a file; got neither "
            f"(looked for {path.absolute()}). Correct the name."
        )
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompt file {name}: expected YAML in UTF-8, got {error}. Correct the file."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        return prompt_from_metadata(content["prompt"])  # the file is an adapter's metadata
    _check_keys(name, content)
    try:
        return Prompt(name=path.stem, **content)
    except ValueError as error:
        # string.Formatter on an unbalanced brace
        if "single" in str(error).lower() or str(error).startswith("expected"):
            raise ValueError(
                f"prompt file {name}: {error}. Write a brace in the text as {{{{ or }}}}."
            ) from error
        raise


def _check_keys(name: str, content: object) -> None:
    """Check what a prompt file holds."""
    types = {"instruction": str, "body": str, "cue": str, "chat": bool}
    if not isinstance(content, dict):
        got = type(content).__name__
    elif {*content, "chat"} != set(types):
        got = str(sorted(map(str, content)))
    else:
        wrong = [key for key, value in content.items() if not isinstance(value, types[key])]
        if not wrong:
            return
        got = f"another type for {wrong}"
    raise ValueError(
        f"prompt file {name}: expected the keys instruction, body and cue, each a text, and at "
        f"most `chat: true` beside them; got {got}. Correct the file."
    )
