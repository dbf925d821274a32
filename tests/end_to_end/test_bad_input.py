"""Whatever is wrong with what a user gives: one message that says how to mend it, status 2, and
nothing overwritten."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mv_lightning.cli import main
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT

OLD_FILES = (
    "phase1/manifest.json",
    "phase1/adapter/verifier.json",
    "phase1/config.yaml",
    "submission.csv",
)
CSV_HEAD = "question,answer,solution,is_correct\n"


def rows(count: int = 120, **change: Any) -> list[dict[str, Any]]:
    """Good rows, the fourth of them changed."""
    made = [
        {
            "question": f"{i} + 1?",
            "answer": str(i + 1),
            "solution": f"{i} + 1 = {i + 1}",
            "is_correct": i % 2 == 0,
        }
        for i in range(count)
    ]
    made[3] |= change
    return made


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def refused(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `fit` over an older run's files; return the message."""
    run = tmp_path / "run"
    for name in OLD_FILES:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("old")

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(
                [
                    "fit",
                    "--config",
                    str(ROOT / "configs/phase1.yaml"),
                    *tiny_options(tiny_folder, run),
                    *options,
                ]
            )
        printed = capfd.readouterr().err
        # What Lightning logs may come before; pytest closes the stream of its handler.
        error = printed[printed.index("error: ") :]
        assert end.value.code == 2 and "Traceback" not in error
        assert {(run / name).read_text() for name in OLD_FILES} == {"old"}
        assert not list(run.rglob("*.ckpt")) and not list(run.rglob("*tmp"))
        return error

    return refused


BAD_ROWS = [
    ("cut.parquet", parquet(rows())[:-200], "cut short"),
    (
        "open.csv",
        (CSV_HEAD + 'a,1,"s,true\nb,2,s,false\n').encode(),
        "line 2 begins a field that is never closed",
    ),
    (
        "swallowed.csv",
        (CSV_HEAD + 'a,1,"s,true\nb,2,"s,false\n').encode(),
        "begins in line 2 is never closed",
    ),
    ("latin.csv", (CSV_HEAD + "é,1,s,true\n").encode("latin-1"), "text must be UTF-8"),
    ("wide.csv", (CSV_HEAD + "a,1,s,true\n").encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    ("bad.jsonl", jsonl(rows(9)) + b'{"question": \n', "line 10 is not a JSON object"),
    ("half.jsonl", jsonl(rows(solution="\ud83d")), "line 4: `solution` holds half a character"),
    (
        "third.jsonl",
        jsonl([dict(row, is_correct=i % 3) for i, row in enumerate(rows())]),
        "is not a label (2",
    ),
    (
        "one.jsonl",
        jsonl([dict(row, is_correct=True) for row in rows()]),
        "The source has no False row",
    ),
    (
        "few.jsonl",
        jsonl(rows(100)),
        "need 56 True and 56 False rows; the source has 50 True and 50 False",
    ),
    (
        "empty.jsonl",
        jsonl(rows(question=" \n")),
        "`question` is empty or only whitespace in 1 rows: 3",
    ),
    (
        "long.jsonl",
        jsonl([dict(row, question="x" * 100_000) for row in rows()]),
        "even without their solution",
    ),
    ("column.jsonl", jsonl([{"query": "x"}]), "no column question, answer, solution, is_correct"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), BAD_ROWS, ids=[name for name, _, _ in BAD_ROWS]
)
def test_bad_rows(
    name: str, content: bytes, message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused("--data.source", str(tmp_path / name))
    assert message in error and (name in error or name in ("one.jsonl", "few.jsonl", "long.jsonl"))


def test_a_vocabulary_without_the_verdicts(
    refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    shutil.copytree(tiny_folder, tmp_path / "base")
    alphabet = {
        character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    letters = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(tmp_path / "base")
    assert "one token of its own" in refused("--model.base.name", str(tmp_path / "base"))


class Bomb:
    """A pickle that leaves a mark when it is loaded carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch", "pickle", "text", "tensors"])
def test_a_checkpoint_from_elsewhere_runs_nothing(
    form: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    path, mark = tmp_path / "elsewhere.pt", tmp_path / "mark"
    content = {"state_dict": {}, "card": Bomb(mark)}
    if form == "torch":
        torch.save(content, path)
    elif form == "tensors":
        torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    else:
        path.write_bytes(pickle.dumps(content) if form == "pickle" else b"nothing of the kind")
    for more in ([], ["--weights_only", "false"]):
        error = refused("--ckpt_path", str(path), *more)
        assert (
            "elsewhere.pt is not a checkpoint of mv_lightning" in error
            and "no code in the file was run" in error
        )
    assert not mark.exists()


@pytest.mark.parametrize("form", ["pickle", "damaged"])
def test_an_adapter_from_elsewhere_runs_nothing(
    form: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    good = [
        "fit",
        "--config",
        str(ROOT / "configs/phase1.yaml"),
        *tiny_options(tiny_folder, tmp_path / "good"),
    ]
    main([*good, "--trainer.max_steps", "1"])
    folder, mark = tmp_path / "good" / "phase1" / "adapter", tmp_path / "mark"
    weights = folder / "adapter_model.safetensors"
    if form == "pickle":
        weights.unlink()
        torch.save({"w": Bomb(mark)}, folder / "adapter_model.bin")
    else:
        weights.write_bytes(weights.read_bytes()[:1_000])
    error = refused("--model.init_from", str(folder))
    assert f"adapter_model.safetensors) in {folder}, but it cannot be read" in error
    assert not mark.exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged: expected a JSON object, got list"),
        ("{}", "expected format version 1, got none"),
        ('{"format_version": 1}', "belongs to: expected base.name"),
        ('{"format_version": 1, "base": 1}', "belongs to: expected base.name"),
    ],
)
def test_an_adapter_that_does_not_say_what_it_is(
    metadata: str, message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "verifier.json").write_text(metadata)
    assert message in refused("--model.init_from", str(tmp_path))


@pytest.mark.parametrize(
    ("option", "instead"), [((), "quantization=none"), (("none",), "name=adamw_torch")]
)
def test_no_bitsandbytes(
    option: tuple[str, ...],
    instead: str,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None in the table of modules makes the import fail, as on a machine where it is not
    installed."""
    import peft  # noqa: F401  it looks for bitsandbytes on its own when it is first imported

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    error = refused(*(word for value in option for word in ("--model.base.quantization", value)))
    assert (
        "needs bitsandbytes, which cannot be imported here" in error
        and f"or set model.{instead}"
        in (error.replace("model.base.", "model.").replace("model.optim.", "model."))
    )
