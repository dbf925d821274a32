"""The exported tokenizer writes the verifier's prompt, whatever kind of tokenizer it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mv_lightning.data.completions import extract_answer
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.prompts import PROMPTS, Prompt
from mv_lightning.exporting.chat_template import (
    check_template,
    classifier_tokenizer,
    conversation,
)
from mv_lightning.schema import EncodedRows

_LLAMA_3 = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|[^\r\n\p{L}\p{N}]?\p{L}+|\s+"
KINDS = {
    "byte-level": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama-3": (
        normalizers.NFC(),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    ),
    "llama-2": (
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
    ),
    "metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "gemma": (normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")),
}
"""Normalizer and pre-tokenizer of the kinds of tokenizers that bases have."""
PROMPT = Prompt(
    "quoted", 'Grade "it\'s" <|eot|>\n\n', "Q:\n{question}\n\n{solution}\n\n{answer}\n", "{é}: so"
)
TEXTS = st.lists(
    st.sampled_from(["What", " ", "\n", "\n\n", "?", ")", "31", ".5", "<|eot|>", "<s>", "é", "'"])
).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return train_tokenizer(request.param)


@pytest.fixture(scope="module")
def exported(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    classifier_tokenizer(tokenizer, PROMPT).save_pretrained(folder)
    return folder


def train_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """A BPE tokenizer that merges wherever it may, and puts <s> before a text."""
    normalizer, pre_tokenizer = KINDS[kind]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    if normalizer is not None:
        bpe.normalizer = normalizer
    if pre_tokenizer is not None:
        bpe.pre_tokenizer = pre_tokenizer
    texts = ['Grade "it\'s"\n\nQ:\nWhat is 31?\n\nSo ).\n\n.5?\n\n {é}: so'] * 30
    special = ["<unk>", "<s>", "<|eot|>"]
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="<|eot|>", unk_token="<unk>"
    )


def encode(row: dict[str, str], tokenizer: PreTrainedTokenizerBase, limit: int) -> EncodedRows:
    columns = {name: [text] for name, text in row.items()}
    return encode_rows(columns, None, np.arange(1), PROMPT, tokenizer, limit)


@settings(max_examples=15)
@given(row=st.fixed_dictionaries(dict.fromkeys(("question", "solution", "answer"), TEXTS)))
def test_the_template_writes_the_verifiers_tokens(
    row: dict[str, str], tokenizer: PreTrainedTokenizerBase, exported: Path
) -> None:
    row["question"] += "1"
    encoded = encode(row, tokenizer, 10_000)
    check_template(exported, [row], encoded)
    reloaded = AutoTokenizer.from_pretrained(exported)
    ids = reloaded.apply_chat_template(conversation(row))["input_ids"]
    assert ids == [*encoded.prefix_ids, *encoded.row(0).tolist()]


def test_other_tokens_are_refused(tokenizer: PreTrainedTokenizerBase, exported: Path) -> None:
    row = {"question": "What?", "solution": "31" * 20, "answer": "31"}
    other = encode({**row, "answer": "1"}, tokenizer, 10_000)
    with pytest.raises(ValueError, match="write the verifier's prompt"):
        check_template(exported, [row], other)
    check_template(exported, [row], encode(row, tokenizer, 110))  # cut: not compared


MARKS = ["\\boxed{", "}", "{", "#### ", "answer is", ": ", "\n", ". ", "-1,0", "/2", "x", "$", "*"]


@settings(max_examples=60)
@given(pieces=st.lists(st.sampled_from(MARKS)))
def test_the_template_finds_the_answer_that_python_finds(pieces: list[str]) -> None:
    text = "".join(pieces)
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": text}]
    explicit = conversation({"question": "What?", "solution": text, "answer": extract_answer(text)})
    assert render(messages) == render(explicit)


def test_conversations_of_other_shapes() -> None:
    row = {"question": "What?", "solution": "So\n31", "answer": "31"}
    expected = render(conversation(row))
    part = {"type": "text", "text": "What?"}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "5", "answer": "5"},
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": "So"},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "31"},
    ]
    pair = [{"role": "query", "content": "What?"}, {"role": "document", "content": "So\n31"}]
    assert render(turns) == render(pair) == expected
    assert "Question:\n\ue000What?" in expected


def test_a_prompt_without_a_solution() -> None:
    prompt = PROMPTS["answer_only"]
    template = classifier_tokenizer(train_tokenizer("byte-level"), prompt)
    row = {"question": "What?", "solution": "So\n31", "answer": "31"}
    text = template.apply_chat_template(conversation(row), tokenize=False)
    assert "So" not in text and text.endswith(prompt.cue)


def test_a_token_that_ends_the_prompt_is_no_padding() -> None:
    tokenizer = train_tokenizer("byte-level")
    assert classifier_tokenizer(tokenizer, PROMPT).pad_token == "<|eot|>"
    ended = Prompt("ended", PROMPT.instruction, PROMPT.body, "so<|eot|>", separator="")
    assert classifier_tokenizer(tokenizer, ended).pad_token == "<s>"


def test_a_tokenizer_that_reads_beyond_borders_is_refused() -> None:
    tokenizer = train_tokenizer("byte-level")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("\\s+$"), "")
    with pytest.raises(ValueError, match="makes other tokens of a whole prompt"):
        classifier_tokenizer(tokenizer, PROMPT)


def render(messages: list[dict[str, object]]) -> str:
    return str(_TEMPLATE.apply_chat_template(messages, tokenize=False))


_TEMPLATE = classifier_tokenizer(train_tokenizer("byte-level"), PROMPTS["explanation"])
