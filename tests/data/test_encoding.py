"""Truncation never touches the verdict; special tokens are special in the prompt, text in a row."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mv_lightning.data import encoding
from mv_lightning.data.encoding import (
    TRUNCATION_MARKER,
    RowsTooLong,
    RowsTooLongError,
    _truncate_middle,
    encode_parts,
    encode_rows,
    join_rows,
    verdict_token_ids,
)
from mv_lightning.data.prompts import PROMPTS, Prompt
from mv_lightning.model import base
from mv_lightning.schema import TEXT_COLUMNS, UNLABELLED, EncodedRows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path):
    return base.load_tokenizer(base.BaseSettings(name=str(tiny_folder)))


def encode(
    tokenizer, rows: list[tuple[str, str, str]], limit: int = 100_000, prompt: str = "explanation"
) -> EncodedRows:
    question, answer, solution = (list(column) for column in zip(*rows, strict=True))
    columns = {"question": question, "answer": answer, "solution": solution}
    return encode_rows(columns, None, np.arange(len(rows)), PROMPTS[prompt], tokenizer, limit)


def text_of(tokenizer, encoded: EncodedRows, row: int) -> str:
    ids = [
        *encoded.prefix_ids,
        *encoded.ids_T[encoded.starts_N[row] : encoded.starts_N[row + 1]].tolist(),
    ]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4))
def test_text_survives_whole_where_it_fits(tokenizer, rows: list[tuple[str, str, str]]) -> None:
    """Unicode, braces, control characters: what is decoded is what the template lays out."""
    encoded = encode(tokenizer, rows)
    prompt = PROMPTS["explanation"]
    for index, (question, answer, solution) in enumerate(rows):
        fields = {"question": question, "answer": answer, "solution": solution}
        body = "".join(literal + fields.get(field or "", "") for literal, field in prompt.pieces)
        assert text_of(tokenizer, encoded, index) == prompt.instruction + body + prompt.cue
    assert not encoded.truncated_N.any() and (encoded.labels_N == UNLABELLED).all()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(length=st.integers(0, 400), limit=st.integers(200, 500))
def test_a_long_solution_loses_its_middle_only(tokenizer, length: int, limit: int) -> None:
    solution = "".join(f"{i} " for i in range(length))
    whole, truncated = (
        encode(tokenizer, [("What?", "4", solution)], size) for size in (100_000, limit)
    )
    full_ids, ids = whole.ids_T.tolist(), truncated.ids_T.tolist()
    total = len(truncated.prefix_ids) + len(ids)
    if len(whole.prefix_ids) + len(full_ids) <= limit:
        assert ids == full_ids and truncated.truncated_N[0] == 0
        return
    assert total == limit
    assert truncated.truncated_N[0] > 0
    text = text_of(tokenizer, truncated, 0)
    assert text.startswith(PROMPTS["explanation"].instruction) and "What?" in text
    assert text.endswith(PROMPTS["explanation"].cue) and "Proposed answer:\n4\n" in text
    # Everything after the marker is the end of the whole row.
    assert TRUNCATION_MARKER in text
    tail = text.split(TRUNCATION_MARKER)[1]
    assert text_of(tokenizer, whole, 0).endswith(tail) and solution[-4:] in tail


def test_special_tokens_in_a_row_are_text(tokenizer) -> None:
    encoded = encode(tokenizer, [("Say <|eot|> now <s>", "<|eot|>", "x")])
    ids = encoded.ids_T.tolist()
    assert tokenizer.convert_tokens_to_ids("<|eot|>") not in ids
    assert tokenizer.convert_tokens_to_ids("<s>") not in ids
    assert "Say <|eot|> now <s>" in text_of(tokenizer, encoded, 0)


def test_a_row_that_cannot_fit_is_named(tokenizer) -> None:
    with pytest.raises(
        ValueError, match=r"1 rows do not fit into max_length=200 .*: row 1 \(\d+ tokens\)\. Raise"
    ):
        encode(tokenizer, [("a", "1", "b"), ("long " * 300, "1", "b")], limit=200)


def test_answer_only_never_shows_the_solution(tokenizer) -> None:
    encoded = encode(tokenizer, [("Q?", "1", "the secret steps")], prompt="answer_only")
    assert "secret" not in text_of(tokenizer, encoded, 0)


def test_verdicts_must_be_single_distinct_tokens(tokenizer) -> None:
    false, true = verdict_token_ids(tokenizer, PROMPTS["explanation"])
    assert tokenizer.decode([false]) == " False" and tokenizer.decode([true]) == " True"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {
        character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    bytes_only = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = r"got \['Ġ', 'F', 'a', 'l', 's', 'e'\] and \['Ġ', 'T', 'r', 'u', 'e'\] from"
    with pytest.raises(ValueError, match=f"one token of its own.*{letters}"):
        verdict_token_ids(
            PreTrainedTokenizerFast(tokenizer_object=bytes_only), PROMPTS["explanation"]
        )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    questions=st.lists(TEXT, min_size=1, max_size=3, unique=True),
    others=st.lists(TEXT, min_size=2, max_size=4),
)
def test_rows_of_one_question_start_alike(
    tokenizer, questions: list[str], others: list[str]
) -> None:
    """Whatever answer and solution; other questions start differently, and no row is all prefix."""
    rows = [(question, other, other[::-1]) for question in questions for other in others]
    for prompt in ("answer_only", "explanation", "detailed"):
        encoded = encode(tokenizer, rows, prompt=prompt)
        numbers_N = np.repeat(np.arange(len(questions)), len(others))
        assert encoded.prefix_groups_N.tolist() == numbers_N.tolist()
        assert (encoded.question_prefix_N > 0).all() and (
            encoded.question_prefix_N < encoded.lengths_N
        ).all()
        for start in range(0, len(rows), len(others)):
            prefixes = {
                encoded.row(i)[: encoded.question_prefix_N[i]].tobytes()
                for i in range(start, start + len(others))
            }
            assert len(prefixes) == 1 and questions[start // len(others)] in text_of(
                tokenizer, encoded, start
            )


def test_nothing_is_shared_where_another_field_comes_first(tokenizer) -> None:
    prompt = Prompt(
        "answer first", "Judge.\n", "Answer: {answer}\nQuestion: {question}\n", "Verdict:"
    )
    columns = {"question": ["What?"] * 2, "answer": ["4"] * 2, "solution": [""] * 2}
    encoded = encode_rows(columns, None, np.arange(2), prompt, tokenizer, 1_000)
    assert encoded.question_prefix_N.tolist() == [0, 0] and encoded.prefix_groups_N.tolist() == [
        0,
        1,
    ]


def byte_pair_tokenizer(template: str | None = None):
    """A Llama 3 in small: byte-level BPE, a beginning-of-text token, tokens for chats."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|eot|>", "<|header|>"]
    bpe.train_from_iterator(
        ["is True or False:", "True", "False"] * 9,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin|>",
        eos_token="<|eot|>",
        additional_special_tokens=["<|header|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece_tokenizer(kind: str):
    """A small SentencePiece model: `llama2` is BPE with byte fallback, `unigram` has Metaspace."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = ["The verdict (True or False): True. Verdict: False. It is True, not False."] * 20
    control = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "llama2":
        trained = Tokenizer(models.BPE(unk_token="<unk>"))
        pieces = ["\u2581", *sorted(set("".join(corpus)) - {" "})]
        merges = []
        for word in ("\u2581True", "\u2581False"):
            for end in range(1, len(word)):
                merges.append((word[:end], word[end]))
        pieces += [first + second for first, second in merges]
        vocabulary = {piece: i for i, piece in enumerate([*control, *byte_tokens, *pieces])}
        trained = Tokenizer(
            models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
        trained.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        trained = Tokenizer(models.Unigram())
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=control, unk_token="<unk>", show_progress=False
        )
        trained.train_from_iterator(corpus, trainer)
    trained.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("kind", ["llama2", "unigram"])
def test_verdicts_are_read_after_the_cue(kind: str) -> None:
    """By itself " True" is two pieces for Llama 2's tokenizer: the space that it adds, the word."""
    tokenizer = sentencepiece_tokenizer(kind)
    alone = tokenizer(" True", add_special_tokens=False)["input_ids"]
    ids = verdict_token_ids(tokenizer, PROMPTS["explanation"])
    assert tokenizer.convert_ids_to_tokens(ids) == ["\u2581False", "\u2581True"]
    assert kind == "unigram" or len(alone) == 2


def test_a_cue_that_merges_with_the_verdict_is_refused() -> None:
    tokenizer = sentencepiece_tokenizer("llama2")
    prompt = Prompt("merged", "i", "{question}{answer}", "Is it T", separator="")
    with pytest.raises(ValueError, match=r"one token of its own.*'False', 'True'.*Choose a base"):
        verdict_token_ids(tokenizer, prompt)


@pytest.mark.parametrize(("cue", "end"), [("It is ", "'i', 's', "), ("a ", "'▁', 'a', ")])
def test_the_message_shows_the_end_of_a_cue_that_changes_before_a_verdict(
    cue: str, end: str
) -> None:
    """A space at the end of the cue becomes part of the verdict's token."""
    prompt = Prompt("merged", "i", "{question}{answer}", cue, separator="")
    with pytest.raises(ValueError) as caught:
        verdict_token_ids(sentencepiece_tokenizer("llama2"), prompt)
    assert f"got [{end}'▁False'] and [{end}'▁True'] from" in str(caught.value)


def ids_of(tokenizer, prompt: Prompt, *row: str) -> list[int]:
    columns = {name: [text] for name, text in zip(("question", "answer"), row, strict=True)}
    encoded = encode_rows(columns, None, np.arange(1), prompt, tokenizer, 10_000)
    return [*encoded.prefix_ids, *encoded.row(0).tolist()]


@pytest.mark.parametrize("start", ["", "<|begin|>"])
def test_special_tokens_of_the_prompt_are_special_and_the_first_is_there_once(start: str) -> None:
    tokenizer = byte_pair_tokenizer()
    prompt = Prompt(
        "mine",
        f"{start}<|header|>user\n<|eot|>",
        "<|header|>{question} is {answer}<|eot|>",
        "<|header|>True?<|eot|>",
    )
    begin, end, header = range(3)
    ids = ids_of(tokenizer, prompt, "<|eot|><|begin|>", "<|header|>")
    assert ids[:2] == [begin, header] and ids.count(begin) == 1
    assert (ids.count(header), ids.count(end)) == (3, 3) and ids[-1] == end
    text = "".join(
        (prompt.instruction, "<|header|><|eot|><|begin|> is <|header|><|eot|>", prompt.cue)
    )
    assert tokenizer.decode(ids) == ("" if start else "<|begin|>") + text


def test_an_instruction_may_end_with_the_end_of_text_token() -> None:
    """Only what the tokenizer adds after a text is left out."""
    tokenizer = byte_pair_tokenizer()
    prompt = Prompt("mine", "Be fair.<|eot|>", "{question}{answer}", "So:")
    assert ids_of(tokenizer, prompt, "a", "b").count(1) == 1
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|eot|>", special_tokens=[("<|begin|>", 0), ("<|eot|>", 1)]
    )
    assert ids_of(tokenizer, prompt, "a", "b").count(1) == 1


def test_no_rows_are_encoded_as_none(tokenizer) -> None:
    empty = encode_rows(
        {"question": [], "answer": [], "solution": []},
        np.empty(0, bool),
        np.arange(0),
        PROMPTS["detailed"],
        tokenizer,
        100,
    )
    assert len(empty) == 0 and empty.starts_N.tolist() == [0] and empty.ids_T.dtype == np.int32


def test_a_prompt_without_its_chat_template_is_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="Call `render_chat` first"):
        encode(tokenizer, [("a", "b", "c")], prompt="chat")
    with pytest.raises(ValueError, match="Call `render_chat` first"):
        verdict_token_ids(tokenizer, PROMPTS["chat"])


@pytest.mark.parametrize("over", [0, 1, 2, 9])
def test_a_row_is_truncated_to_the_very_limit(tokenizer, over: int) -> None:
    rows = [("What?", "4", "".join(f"{i} " for i in range(200))), ("What?", "4", "")]
    whole = encode(tokenizer, rows)
    length = len(whole.prefix_ids) + int(whole.lengths_N[0])
    truncated = encode(tokenizer, rows, limit=length - over)
    assert truncated.truncated_N.tolist() == [over, 0]
    assert truncated.lengths_N.tolist() == [whole.lengths_N[0] - over, whole.lengths_N[1]]


@pytest.mark.parametrize(
    ("n_kept", "expected"),
    [
        (8, [0, 1, 2, -1, -2, 97, 98, 99]),
        (7, [0, 1, -1, -2, 97, 98, 99]),
        (5, [0, -1, -2, 98, 99]),
        (4, [96, 97, 98, 99]),
        (1, [99]),
        (0, []),
    ],
)
def test_start_and_end_stay_about_equally(n_kept: int, expected: list[int]) -> None:
    """Where little would stay beside the marker, the end does."""
    assert _truncate_middle(list(range(100)), n_kept, [-1, -2]) == expected


def test_all_rows_that_cannot_fit_are_named(tokenizer) -> None:
    """With the tokens that they need at least: the limit at which they fit without a solution."""
    long, longer = ("long " * 300, "1", "b c d"), ("long " * 310, "1", "")
    rows = [("a", "1", "b"), long, ("a", "1", "b"), longer]
    whole = encode(tokenizer, [(question, answer, "") for question, answer, _ in rows])
    _, first, _, second = (whole.lengths_N + len(whole.prefix_ids)).tolist()
    expected = f": row 1 ({first} tokens), row 3 ({second} tokens). Raise data.max_length"
    with pytest.raises(RowsTooLongError, match=re.escape(expected)) as refused:
        encode(tokenizer, rows, limit=200)
    assert f"to {second}," in str(refused.value)
    with pytest.raises(RowsTooLongError, match="1 rows do not fit"):
        encode(tokenizer, rows, limit=second - 1)
    assert len(encode(tokenizer, rows, limit=second)) == 4


def test_rows_that_cannot_fit_are_left_out_on_request(
    tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are encoded as if they were alone, in every chunk."""
    monkeypatch.setattr(encoding, "_CHUNK", 2)
    questions = ["a", "long " * 300, "long " * 310, "long " * 320, "b " * 20, "c"]
    labels_N, rows_N = np.array([1, 0, 1, 0, 0, 1], dtype=bool), np.arange(6) * 3
    fitting = [0, 4, 5]

    def encode_some(chosen: list[int], rows_too_long: RowsTooLong) -> EncodedRows:
        solutions = [f"{i} so " * 60 for i in chosen]
        texts = ([questions[i] for i in chosen], ["1"] * len(chosen), solutions)
        named = dict(zip(TEXT_COLUMNS, texts, strict=True))
        settings = (PROMPTS["explanation"], tokenizer, 280)
        labels, rows = labels_N[chosen], rows_N[chosen]
        return encode_rows(named, labels, rows, *settings, rows_too_long=rows_too_long)

    left, alone = encode_some(list(range(6)), "missing"), encode_some(fitting, "error")
    assert left.rows_N.tolist() == [0, 12, 15] and (left.truncated_N > 0).all()
    for field in dataclasses.fields(EncodedRows):
        assert np.array_equal(getattr(left, field.name), getattr(alone, field.name)), field.name
    assert len(encode_some([1, 2, 3], "missing")) == 0


@pytest.mark.parametrize(
    ("n_rows", "title", "shown"),
    [(8, "Tokenising", True), (3, "Tokenising", False), (8, None, False), (9, "Tokenising", True)],
)
def test_chunks_of_rows_change_nothing_but_the_progress(
    tokenizer,
    n_rows: int,
    title: str | None,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [(f"What is {i}?", str(i), "x" * i) for i in range(n_rows)]
    whole = encode(tokenizer, rows)
    monkeypatch.setattr(encoding, "_CHUNK", 3)
    columns = dict(zip(("question", "answer", "solution"), zip(*rows, strict=True), strict=True))
    prompt = PROMPTS["explanation"]
    labels_N, rows_N = np.arange(n_rows) % 2 == 0, np.arange(n_rows) + 5
    capsys.readouterr()
    chunked = encode_rows(columns, labels_N, rows_N, prompt, tokenizer, 100_000, title)
    progress = capsys.readouterr().err
    assert (f"{title}: 100%" in progress and f"{n_rows}/{n_rows}" in progress) == shown
    assert shown or not progress
    assert chunked.ids_T.tolist() == whole.ids_T.tolist()
    arrays = (chunked.ids_T, chunked.starts_N, chunked.labels_N, chunked.rows_N)
    assert [array.dtype for array in arrays] == [np.int32, np.int64, np.int8, np.int64]
    assert chunked.starts_N.tolist() == whole.starts_N.tolist()
    assert chunked.labels_N.tolist() == labels_N.tolist()
    assert chunked.rows_N.tolist() == rows_N.tolist()


def test_columns_are_only_read_in_slices(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be larger than the memory."""

    class Column(list[str]):
        def __getitem__(self, index):
            assert isinstance(index, slice) and index.stop - index.start == 3
            return super().__getitem__(index)

        def __iter__(self):
            raise AssertionError("read whole")

    monkeypatch.setattr(encoding, "_CHUNK", 3)
    rows = [(f"What is {i}?", str(i), "x" * i) for i in range(8)]
    columns = [Column(column) for column in zip(*rows, strict=True)]
    named = dict(zip(TEXT_COLUMNS, columns, strict=True))
    parts = list(encode_parts(named, None, np.arange(8), PROMPTS["explanation"], tokenizer, 1_000))
    assert [len(part) for part in parts] == [3, 3, 2]
    assert [part.rows_N.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize("cut", [1, 4])
def test_joined_rows_are_rows_encoded_together(tokenizer, cut: int) -> None:
    rows = [(f"What is {n}?", str(n), "so " * 30 * n) for n in range(5)]
    untruncated = encode(tokenizer, rows)
    limit = len(untruncated.prefix_ids) + int(untruncated.lengths_N[2])
    whole = encode(tokenizer, rows, limit)
    joined = join_rows([encode(tokenizer, rows[:cut], limit), encode(tokenizer, rows[cut:], limit)])
    for name in ("ids_T", "starts_N", "labels_N", "rows_N", "truncated_N", "question_prefix_N"):
        one, other = getattr(joined, name), getattr(whole, name)
        assert one.tolist() == other.tolist() and one.dtype == other.dtype, name
    assert joined.prefix_ids == whole.prefix_ids
    assert whole.truncated_N.astype(bool).tolist() == [False] * 3 + [True] * 2


def test_a_tokenizer_that_changes_the_instruction_is_refused(tokenizer) -> None:
    """It would put the special tokens inside the text."""

    class Inserting:
        name_or_path = "inserting"

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [*ids[:1], 0, *ids[1:]] if add_special_tokens else ids}

    with pytest.raises(ValueError, match="'inserting' changes the instruction"):
        encoding._prefix_ids(Inserting(), "Judge.")
