"""Proposed answers compared by their value, as far as that is safe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_WRAPPERS = (
    re.compile(r"\\boxed\s*\{(.*)\}", re.DOTALL),
    re.compile(r"\\(?:text|mathrm|mathbf)\s*\{(.*)\}", re.DOTALL),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\\\[(.*)\\\]", re.DOTALL),
    re.compile(r"\$\$(.+)\$\$", re.DOTALL),
    re.compile(r"\$(.+)\$", re.DOTALL),
    re.compile(r"\*\*(.+)\*\*", re.DOTALL),
)
_DOLLAR_SIGN = re.compile(r"\\?\$\s*(?=[0-9.+-])|(?<=^-)\\?\$(?=[0-9.])")
_DOLLARS = re.compile(r"(?<=[0-9])\s*(?:dollars?|usd)$")
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(rf"([+-]?){_DECIMAL}(?:e[+-]?[0-9]{{1,2}})?")
_RATIO = re.compile(rf"([+-]?)({_DECIMAL})\s*/\s*({_DECIMAL})")
_MIXED = re.compile(r"([+-]?)([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MENTIONED_NUMBER = re.compile(rf"(?<![0-9.])-?{_DECIMAL}(?:\s*(?:\\?%|percent))?")
_MENTIONED_RATIO = re.compile(
    rf"(?<![0-9.])-?{_DECIMAL}\s*/\s*{_DECIMAL}|{_LATEX_FRACTION.pattern}"
)
_PERCENT = re.compile(r"(.*?)\s*(?:\\?%|percent)")


def normalize_answer(answer: str) -> str:
    """Return a text that is the same for answers of the same value.

    A number is its exact value: 1,000, 1000.0, $1000, 1000 dollars and \\boxed{1000} are `1000`;
    0.5, 1/2, 2/4 and \\frac{1}{2} are `1/2`. A percentage equals only percentages of the same
    value: 50 and 0.5 are other answers than 50 %. Anything else (units other than dollars,
    equations, words) is compared as text, apart from case and white space.

    Args:
        answer: As it was proposed.
    """
    text = _unwrap(" ".join(answer.lower().replace("\N{MINUS SIGN}", "-").split()))
    match = _PERCENT.fullmatch(text)
    if match is not None and (value := _value(match[1])) is not None:
        return f"{value}%"
    value = _value(_without_dollars(text))
    return text if value is None else str(value)


def answer_ids(answers: Sequence[str]) -> np.ndarray:
    """Number the distinct answers.

    Args:
        answers: N proposed answers.

    Returns:
        int64 [N], equal for answers of the same value, see `normalize_answer`.
    """
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(normalize_answer(answer), len(numbers)) for answer in answers]
    return np.array(ids, dtype=np.int64)


def mentions_answer(text: str, answer: str) -> bool:
    """Return whether a text contains an answer: a number of its value, or its words.

    Args:
        text: Any text.
        answer: As it was proposed; an empty one is contained nowhere.
    """
    wanted = normalize_answer(answer)
    if _value(wanted.removesuffix("%")) is None:
        return bool(wanted) and wanted in " ".join(text.lower().split())
    for pattern in (_MENTIONED_NUMBER, _MENTIONED_RATIO):
        for match in pattern.finditer(text):
            if normalize_answer(match[0]) == wanted:
                return True
    return False


def _unwrap(text: str) -> str:
    """Remove mark-up around the whole answer, and a full stop at its end."""
    before = None
    while text != before:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for wrapper in _WRAPPERS:
            match = wrapper.fullmatch(text)
            if match is not None and _balanced(match[1]):
                text = match[1].strip()
    return text


def _balanced(text: str) -> bool:
    """Whether the wrapper around `text` is one, and not the start of one and the end of another."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0 and "$" not in text.replace("\\$", "")


def _without_dollars(text: str) -> str:
    return _DOLLARS.sub("", _DOLLAR_SIGN.sub("", text, count=1))


def _value(text: str) -> Fraction | None:
    """The exact value of a number or a fraction of numbers; None for any other text."""
    text = text.replace("{,}", ",").replace("\\,", "").replace("\\!", "").strip()
    text = _LATEX_FRACTION.sub(r" \1/\2", text).replace("- ", "-").strip()
    if _NUMBER.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if match := _RATIO.fullmatch(text):
        return _signed(match[1], _divide(match[2], match[3]))
    if match := _MIXED.fullmatch(text):
        part = _divide(match[3], match[4])
        return None if part is None else _signed(match[1], int(match[2]) + part)
    return None


def _divide(numerator: str, denominator: str) -> Fraction | None:
    divisor = Fraction(denominator.replace(",", ""))
    return Fraction(numerator.replace(",", "")) / divisor if divisor else None


def _signed(sign: str, value: Fraction | None) -> Fraction | None:
    return -value if value is not None and sign == "-" else value
