"""Put the chat template of an instruction-tuned base around a prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mv_lightning.data.prompts import PROMPTS, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTENT = "CONTENT-OF-THE-MESSAGE"
_REPLY = "REPLY-OF-THE-MODEL"
_DATE = "26 Jul 2024"
"""Templates that state the date get this one (the default of Llama 3.1's), or the wording would
change from day to day."""
_FIXED_DATE = f"{{% macro strftime_now(format) %}}{_DATE}{{% endmacro +%}}"
"""Hides the function that gives today's date to a template."""


def render_chat(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Return the prompt as a user's message in the tokenizer's chat template.

    Only the prompt's own text passes through the template. The fields of a row are tokenised as
    text afterwards, so no row can end its message.

    Args:
        prompt: Any prompt; one that is not for a chat, or was rendered before, is not changed.
        tokenizer: The base model's tokenizer.

    Returns:
        A prompt whose instruction begins with the start of the conversation and whose cue ends
        where the model's reply begins; its fingerprint covers the template.

    Raises:
        ValueError: The tokenizer has no chat template, or one that refuses or changes the message.
    """
    if not prompt.chat:
        return prompt
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"prompt {prompt.name!r}: expected a tokenizer with a chat template, got "
            f"{tokenizer.name_or_path!r} without one. Use the instruction-tuned version of the "
            "base, or another prompt."
        )
    message = {"role": "user", "content": _CONTENT}
    text = _render(tokenizer, [message], add_generation_prompt=True)
    if text.count(_CONTENT) != 1:
        raise ValueError(
            f"prompt {prompt.name!r}: the chat template of {tokenizer.name_or_path!r} does not "
            f"contain the user's message once, but {text.count(_CONTENT)} times. Use another "
            "prompt."
        )
    head, _, tail = text.partition(_CONTENT)
    reply = {"role": "assistant", "content": _REPLY}
    conversation = _render(tokenizer, [message, reply], add_generation_prompt=False)
    return replace(
        prompt,
        instruction=head + prompt.instruction,
        cue=prompt.cue + tail,
        chat=False,
        separator=_separator(text, conversation),
    )


def usable_prompts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Prompt]:
    """Return the built-in variants that a base can be asked with, rendered, by name."""
    usable = {}
    for name, prompt in PROMPTS.items():
        if not prompt.chat or getattr(tokenizer, "chat_template", None):
            usable[name] = render_chat(prompt, tokenizer)
    return usable


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: Any
) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=_FIXED_DATE + tokenizer.get_chat_template(),
            tokenize=False,
            # Some templates read these: a date, and reasoning before the reply.
            date_string=_DATE,
            enable_thinking=False,
            **options,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} cannot be applied: {error}. Use "
            "another prompt."
        ) from error
    return str(text)


def _separator(text: str, conversation: str) -> str:
    """White space that the template puts between the start of a reply and its words, if any."""
    if not conversation.startswith(text):
        return ""
    before, _, _ = conversation[len(text) :].partition(_REPLY)
    return before if before.isspace() else ""
