from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.data.prompts import PROMPTS, Prompt, load_prompt


def test_the_three_variants_are_distinct_ways_of_asking() -> None:
    assert list(PROMPTS) == ["answer_only", "explanation", "detailed"]
    assert len({p.fingerprint for p in PROMPTS.values()}) == 3
    shown = {name: {field for _, field in p.pieces if field} for name, p in PROMPTS.items()}
    assert shown["answer_only"] == {"question", "answer"}
    assert shown["explanation"] == shown["detailed"] == {"question", "answer", "solution"}


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        'instruction: "Judge.\\n"\nbody: "{question} = {answer}? {{}}\\n"\ncue: "So:"\n'
    )
    prompt = load_prompt(str(file))
    assert prompt.name == "mine"
    assert prompt.pieces[:2] == [("", "question"), (" = ", "answer")]
    assert "".join(literal for literal, _ in prompt.pieces[2:]) == "? {}\n"
    assert all(field is None for _, field in prompt.pieces[2:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("instruction: a\nbody: '{question}'\ncue: c\n", "needs {question} and {answer}"),
        ("instruction: a\nbody: '{question}{answer}{name}'\ncue: c\n", "name"),
        ("instruction: a\nbody: '{question}{answer}'\ncue: 'c '\n", "white space"),
        ("instruction: a\nbody: '{question}{answer'\ncue: c\n", "brace"),
        ("instruction: a\nbody: b\n", "text keys"),
        ("[1, 2]", "list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_prompt_file_is_said(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_prompt(str(tmp_path / "p.yaml"))


def test_no_such_prompt() -> None:
    with pytest.raises(
        ValueError, match="neither one of answer_only, explanation, detailed nor a file"
    ):
        load_prompt("detialed")


def test_the_fingerprint_is_the_wording_not_the_name() -> None:
    a = Prompt("a", "i", "{question}{answer}", "c")
    assert a.fingerprint == Prompt("b", "i", "{question}{answer}", "c").fingerprint
    assert a.fingerprint != Prompt("a", "i!", "{question}{answer}", "c").fingerprint
