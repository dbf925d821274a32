"""What is cut never touches the verdict, and a row's text is only ever text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mv_lightning.data.encoding import TRUNCATION_MARKER, encode_rows, verdict_token_ids
from mv_lightning.data.prompts import PROMPTS, Prompt
from mv_lightning.model import base
from mv_lightning.schema import UNLABELLED, EncodedRows

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
    """Unicode, braces, control characters and all: what is decoded is what the template lays out."""
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
    whole, cut = (encode(tokenizer, [("What?", "4", solution)], size) for size in (100_000, limit))
    full_ids, ids = whole.ids_T.tolist(), cut.ids_T.tolist()
    total = len(cut.prefix_ids) + len(ids)
    if len(whole.prefix_ids) + len(full_ids) <= limit:
        assert ids == full_ids and cut.truncated_N[0] == 0
        return
    assert total == limit
    assert cut.truncated_N[0] > 0
    text = text_of(tokenizer, cut, 0)
    assert text.startswith(PROMPTS["explanation"].instruction) and "What?" in text
    assert text.endswith(PROMPTS["explanation"].cue) and "Proposed answer:\n4\n" in text
    # Everything after the mark is the uncut row's own end.
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
        ValueError, match=r"1 rows do not fit into max_length=200 .*source rows 1\)"
    ):
        encode(tokenizer, [("a", "1", "b"), ("long " * 300, "1", "b")], limit=200)


def test_answer_only_never_shows_the_solution(tokenizer) -> None:
    encoded = encode(tokenizer, [("Q?", "1", "the secret steps")], prompt="answer_only")
    assert "secret" not in text_of(tokenizer, encoded, 0)


def test_verdicts_must_be_single_distinct_tokens(tokenizer) -> None:
    false, true = verdict_token_ids(tokenizer)
    assert tokenizer.decode([false]) == " False" and tokenizer.decode([true]) == " True"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {
        character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    bytes_only = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="one token of its own"):
        verdict_token_ids(PreTrainedTokenizerFast(tokenizer_object=bytes_only))


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
    """Whatever the answer and the solution; another question is told apart, and its own part is never empty."""
    rows = [(question, other, other[::-1]) for question in questions for other in others]
    for prompt in PROMPTS:
        encoded = encode(tokenizer, rows, prompt=prompt)
        assert encoded.prefix_groups_N.tolist() == [
            q for q in range(len(questions)) for _ in others
        ]
        assert (encoded.question_prefix_N > 0).all() and (
            encoded.question_prefix_N < encoded.lengths_N
        ).all()
        for start in range(0, len(rows), len(others)):
            stems = {
                encoded.row(i)[: encoded.question_prefix_N[i]].tobytes()
                for i in range(start, start + len(others))
            }
            assert len(stems) == 1 and questions[start // len(others)] in text_of(
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
