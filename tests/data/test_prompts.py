from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mv_lightning.data.prompts import PROMPTS, Prompt, load_prompt, prompt_from_metadata

FINGERPRINTS = ["aa8eefa9bca8c663", "64adff8c4662647f", "6ccece791eb45435"]


def test_the_variants_are_distinct() -> None:
    assert list(PROMPTS) == ["answer_only", "explanation", "detailed", "chat"]
    plain = [prompt for prompt in PROMPTS.values() if not prompt.chat]
    # A change of these makes every adapter that was trained with them unusable.
    assert [prompt.fingerprint for prompt in plain] == FINGERPRINTS
    shown = {}
    for name, prompt in PROMPTS.items():
        shown[name] = {field for _, field in prompt.pieces if field}
    assert shown["answer_only"] == {"question", "answer"}
    assert (
        shown["explanation"]
        == shown["detailed"]
        == shown["chat"]
        == {"question", "answer", "solution"}
    )


def test_a_prompt_of_the_user(tmp_path: Path) -> None:
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
        (
            "instruction: a\nbody: '{question}'\ncue: c\n",
            "expected the fields {question} and {answer}",
        ),
        ("instruction: a\nbody: '{question}{answer}{name}'\ncue: c\n", "name"),
        ("instruction: a\nbody: '{question}{answer}'\ncue: 'c '\n", "white space"),
        ("instruction: a\nbody: '{question}{answer'\ncue: c\n", "brace"),
        ("instruction: a\nbody: b\n", "expected the keys.*got .'body', 'instruction'."),
        ("instruction: a\nbody: b\ncue: 1\n", "another type for .'cue'."),
        ("instruction: a\nbody: b\ncue: c\nchat: 'yes'\n", "another type for .'chat'."),
        ("instruction: a\nbody: b\ncue: c\nseparator: ''\n", "got .*'separator'"),
        ("[1, 2]", "list"),
        ("a: [", "expected YAML in UTF-8"),
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
        ValueError,
        match=r"'detialed': expected one of answer_only, explanation, detailed, chat, or a file",
    ):
        load_prompt("detialed")


def test_the_fingerprint_is_the_wording_not_the_name() -> None:
    a = Prompt("a", "i", "{question}{answer}", "c")
    assert a.fingerprint == Prompt("b", "i", "{question}{answer}", "c").fingerprint
    assert a.fingerprint != Prompt("a", "i!", "{question}{answer}", "c").fingerprint
    assert a.fingerprint != Prompt("a", "i", "{question}{answer}", "c", separator="").fingerprint
    with pytest.raises(ValueError, match="render_chat"):
        _ = Prompt("a", "i", "{question}{answer}", "c", chat=True).fingerprint


def test_a_home_folder_and_a_symlink_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real.yaml").write_text("instruction: i\nbody: '{question}{answer}'\ncue: c\n")
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_prompt("~/link.yaml").name == "link"
    monkeypatch.chdir(tmp_path)
    assert load_prompt("link.yaml").fingerprint == load_prompt("./real.yaml").fingerprint


def test_adapter_metadata_give_the_prompt_back() -> None:
    prompt = PROMPTS["detailed"]
    values = {**dataclasses.asdict(prompt), "fingerprint": prompt.fingerprint}
    assert prompt_from_metadata(values) == prompt
