"""A tokenizer whose chat template writes the verifier's prompt, token for token.

The verifier tokenises a prompt piece by piece: the instruction, each literal text, each field of
the row, the cue. A tool that renders a conversation to one text and tokenises that would let tokens
span the borders of the pieces ("?" and a line break are one token of Llama 3), and would take
"<|eot_id|>" in a question for the end of a message. So the template writes two characters of
Unicode's private use area for the exported tokenizer. At one the text is split, and it is dropped.
The other is written into special tokens in a row's texts, and removed after the tokenizer has
looked for special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mv_lightning.data import completions
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.prompts import Prompt
from mv_lightning.data.rows import Rows, text_columns
from mv_lightning.schema import EncodedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BORDER = "\ue000"
"""Tokens do not span it; it is dropped."""
BREAK = "\ue001"
"""Written into special tokens of a row's texts; it is dropped."""
_ROW = {
    "question": " What is 3 + 4?\n\n",
    "solution": "Add: 3 + 4 = 7.\nSo 7 ",
    "answer": "\\frac{14}{2}",
}
"""A row in which tokens could span borders."""


@dataclass(frozen=True)
class _Spaces:
    """Where the template writes spaces that a tokenizer puts only before a whole text."""

    after_border: str
    """One, or none."""
    not_before: str = ""
    """The characters before which there is none."""
    at_start: bool = False
    """Whether there is one before the instruction, too."""

    def before(self, text: str, special_tokens: list[str]) -> str:
        """What is written before a literal text."""
        starts_special = any(text.startswith(token) for token in special_tokens)
        skipped = starts_special or text[0] in self.not_before
        return "" if skipped else self.after_border


_SPACES = (
    _Spaces(""),
    _Spaces(" "),  # the normalizer of Llama 2
    _Spaces(" ", not_before=" ▁", at_start=True),  # its pre-tokenizer, in later versions
)
_TEMPLATE = r"""
{%- set special_tokens = @special_tokens@ -%}

{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content -%}
        {%- for part in content -%}{{- part.text or '' -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{%- macro boxed(text) -%}
    {%- set found = namespace(depth=1, end=-1) -%}
    {%- set tail = text.rpartition(@boxed@)[2] -%}
    {%- for character in tail if @boxed@ in text -%}
        {%- set found.depth = found.depth + (character == '{') - (character == '}') -%}
        {%- if found.depth == 0 and found.end < 0 -%}
            {%- set found.end = loop.index0 -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if found.end > 0 -%}{{- tail[:found.end].strip() -}}{%- endif -%}
{%- endmacro -%}

{%- macro after(mark, text) -%}
    {%- if mark in text -%}
        {{- text.rpartition(mark)[2].split('\n')[0].split('. ')[0].strip(@around_answer@) -}}
    {%- endif -%}
{%- endmacro -%}

{%- macro last_number(text) -%}
    {%- set runs -%}
        {%- for character in text -%}
            {{- character if character in @number_characters@ else ' ' -}}
        {%- endfor -%}
    {%- endset -%}
    {%- set found = namespace(number='') -%}
    {%- for run in runs.split() if run.strip(@number_signs@) -%}
        {%- set found.number = run -%}
    {%- endfor -%}
    {{- found.number.lstrip('.,/').rstrip(@number_signs@) -}}
{%- endmacro -%}

{%- macro answer_of(text) -%}
    {%- set found = namespace(answer='') -%}
    {%- for candidate in @candidates@ -%}
        {%- if not found.answer and candidate | length <= @max_answer@ -%}
            {%- set found.answer = candidate -%}
        {%- endif -%}
    {%- endfor -%}
    {{- found.answer -}}
{%- endmacro -%}

{%- macro row_text(text) -%}
    {%- set row = namespace(text=text.replace(@border@, '').replace(@break@, '')) -%}
    {%- for token in special_tokens -%}
        {%- set row.text = row.text.replace(token, token[0] ~ @break@ ~ token[1:]) -%}
    {%- endfor -%}
    {%- if row.text -%}
        {{- @border@ ~ ('' if row.text[0] in @not_before@ else @after_border@) ~ row.text -}}
    {%- endif -%}
{%- endmacro -%}

{%- set row = namespace(question='', solution=none, answer=none) -%}
{%- for message in messages -%}
    {%- if message.role in ('user', 'query') -%}
        {%- set row.question = text_of(message.content) -%}
        {%- set row.solution = none -%}
        {%- set row.answer = none -%}
    {%- elif message.role in ('assistant', 'document') -%}
        {%- set text = text_of(message.content) -%}
        {%- set row.solution = text if row.solution is none else row.solution ~ '\n' ~ text -%}
        {%- if message.answer is defined and message.answer is not none -%}
            {%- set row.answer = message.answer ~ '' -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- set solution = row.solution or '' -%}
{%- set question = row.question -%}
{%- set answer = answer_of(solution) if row.answer is none else row.answer -%}
{{- @prompt@ -}}
"""


def conversation(row: dict[str, str]) -> list[dict[str, str]]:
    """Return a row as the messages that the template takes.

    Args:
        row: `question`, `solution`, `answer`.
    """
    return [
        {"role": "user", "content": row["question"]},
        {"role": "assistant", "content": row["solution"], "answer": row["answer"]},
    ]


def classifier_tokenizer(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt
) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose chat template writes the verifier's prompt, ending in the cue.

    Args:
        tokenizer: The base model's; not changed.
        prompt: Rendered.

    Raises:
        ValueError: Its tokens would be others than those of the verifier, or no token can be the
            padding.
    """
    special = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and len(token.content) > 1
    ]
    no_solution = {**_ROW, "solution": ""}
    rows = [{**_ROW, "solution": " ".join([_ROW["solution"], *special])}, no_solution]
    expected = _encode(rows, prompt, tokenizer)
    before = _before_instruction(tokenizer, prompt, expected)
    copy = _copy(tokenizer, _pad_token(tokenizer, expected))
    for spaces in _SPACES:
        copy.chat_template = _template(prompt, before, spaces, special)
        if _ids(copy, rows) == [expected.prompt_ids(index).tolist() for index in range(len(rows))]:
            return copy
    raise ValueError(
        f"the tokenizer {tokenizer.name_or_path!r} makes other tokens of a whole prompt than of "
        "its parts, so that a tool that renders a chat template would not ask what the verifier "
        "was trained on. Use --format merged or adapter"
    )


def check_template(folder: Path, rows: Rows, encoded: EncodedRows) -> None:
    """Check that the chat template of an export writes the prompts of rows, token for token.

    Args:
        folder: The export.
        rows: N rows.
        encoded: The same rows, as the verifier reads them. Rows that were cut are left out.

    Raises:
        ValueError: A row's tokens differ.
    """
    from transformers import AutoTokenizer

    tokenizer, columns = AutoTokenizer.from_pretrained(folder), text_columns(rows)
    for index in range(len(encoded)):
        if encoded.truncated_N[index]:
            continue
        row = {name: texts[index] for name, texts in columns.items()}
        (ids,), expected = _ids(tokenizer, [row]), encoded.prompt_ids(index).tolist()
        if ids != expected:
            raise ValueError(
                f"expected the chat template to write the verifier's prompt, got {len(ids)} tokens "
                f"instead of {len(expected)} or other ones for the question {row['question']!r}. "
                "Use --format merged or adapter"
            )


def _encode(
    rows: list[dict[str, str]], prompt: Prompt, tokenizer: PreTrainedTokenizerBase
) -> EncodedRows:
    import numpy as np

    columns = {name: [row[name] for row in rows] for name in _ROW}
    return encode_rows(columns, None, np.arange(len(rows)), prompt, tokenizer, 1_000_000)


def _ids(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]) -> list[list[int]]:
    texts = tokenizer.apply_chat_template([conversation(row) for row in rows], tokenize=False)
    ids: list[list[int]] = tokenizer(texts)["input_ids"]
    return ids


def _before_instruction(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, encoded: EncodedRows
) -> str:
    """Special tokens that the tokenizer puts before a text, such as beginning-of-text."""
    instruction = tokenizer(prompt.instruction, add_special_tokens=False)["input_ids"]
    ids = list(encoded.prefix_ids[: len(encoded.prefix_ids) - len(instruction)])
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def _pad_token(tokenizer: PreTrainedTokenizerBase, encoded: EncodedRows) -> str:
    """A token that no prompt ends with: the last token that is no padding is the verdict's."""
    last = int(encoded.row(0)[-1])
    for token in (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token):
        if token is not None and tokenizer.convert_tokens_to_ids(token) != last:
            return str(token)
    raise ValueError(
        f"expected the tokenizer {tokenizer.name_or_path!r} to have a padding, end-of-text or "
        "beginning-of-text token that the prompt does not end with. Use --format merged or adapter"
    )


def _copy(tokenizer: PreTrainedTokenizerBase, pad_token: str) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    steps: list[Any] = [normalizers.Replace(BREAK, "")]
    if backend.normalizer is not None:
        steps.append(backend.normalizer)
    backend.normalizer = normalizers.Sequence(steps)
    splits: list[Any] = [pre_tokenizers.Split(BORDER, "removed")]
    if backend.pre_tokenizer is not None:
        splits.append(backend.pre_tokenizer)
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    # The template writes the special tokens.
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    copy: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=pad_token,
        padding_side="right",
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
    )
    return copy


def _template(prompt: Prompt, before: str, spaces: _Spaces, special_tokens: list[str]) -> str:
    values = {
        "border": BORDER,
        "break": BREAK,
        "not_before": spaces.not_before,
        "after_border": spaces.after_border,
        "special_tokens": special_tokens,
        "boxed": completions.BOXED,
        "around_answer": completions.AROUND_ANSWER,
        "number_signs": completions.NUMBER_SIGNS,
        "number_characters": completions.DIGITS + completions.NUMBER_SIGNS,
        "max_answer": completions.MAX_ANSWER,
    }
    marks = [f"after({mark!a}, text)" for mark in completions.ANSWER_MARKS]
    template = _TEMPLATE.strip()
    # Jinja reads literals as Python writes them, in ASCII.
    for name, value in values.items():
        template = template.replace(f"@{name}@", ascii(value))
    candidates = f"[boxed(text), {', '.join(marks)}, last_number(text)]"
    template = template.replace("@candidates@", candidates)
    return template.replace("@prompt@", _prompt_expression(prompt, before, spaces, special_tokens))


def _prompt_expression(
    prompt: Prompt, before: str, spaces: _Spaces, special_tokens: list[str]
) -> str:
    """The prompt as an expression of Jinja."""
    start = spaces.before(prompt.instruction, special_tokens) if spaces.at_start and before else ""
    parts = [ascii(before + start + prompt.instruction)]
    for literal, field in prompt.pieces:
        if literal:
            parts.append(ascii(BORDER + spaces.before(literal, special_tokens) + literal))
        if field:
            parts.append(f"row_text({field})")
    parts.append(ascii(BORDER + spaces.before(prompt.cue, special_tokens) + prompt.cue))
    return " ~ ".join(parts)
