"""The verifier of a program says what `predict` says, and takes rows as programs hold them."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from mv_lightning import Verifier
from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.testing import save_tiny_base, tiny_options
from tests.conftest import ROOT

SOURCE = "synthetic:40"
EVAL_TOKENS = 1024  # several batches


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one short phase and its prediction, calibrated."""
    folder = tmp_path_factory.mktemp("run")
    options = [*tiny_options(tiny_folder, folder), "--predict.source", SOURCE]
    options += ["--data.eval_tokens", str(EVAL_TOKENS)]
    main(
        ["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options, "--trainer.max_steps", "4"]
    )
    kept = json.loads((folder / "phase1/adapter" / CALIBRATION_FILE).read_text())
    kept["calibration"] |= {"temperature": 1.7, "threshold": 0.1}
    (folder / "phase1/adapter" / CALIBRATION_FILE).write_text(json.dumps(kept))
    adapter = str(folder / "phase1/adapter")
    main(
        [
            "predict",
            "--config",
            str(ROOT / "configs/predict.yaml"),
            *options,
            "--model.init_from",
            adapter,
        ]
    )
    return folder


@pytest.fixture(scope="module")
def verifier(run: Path) -> Verifier:
    return Verifier.load(run / "phase1", device="cpu", eval_tokens=EVAL_TOKENS)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return load_source(SOURCE, split="test").table.to_list()


def test_the_same_numbers_as_predict(
    run: Path, verifier: Verifier, rows: list[dict[str, str]]
) -> None:
    with (run / "probabilities.csv").open() as file:
        predicted = list(csv.DictReader(file))
    assert len({row["log_odds"] for row in predicted}) > 30
    assert verifier.calibration == Calibration(1.7, 0.1)
    assert verifier.predict_proba(rows).tolist() == [float(row["probability"]) for row in predicted]
    assert verifier.log_odds(rows).tolist() == [float(row["log_odds"]) for row in predicted]


def test_rows_in_any_form(verifier: Verifier, rows: list[dict[str, str]]) -> None:
    expected = verifier.predict_proba(rows)
    by_column = {name: [row[name] for row in rows] for name in ("question", "answer", "solution")}
    for form in (iter(rows), by_column, datasets.Dataset.from_list(rows)):
        assert np.array_equal(verifier.predict_proba(form), expected)
    assert verifier.predict_proba([]).shape == (0,)


def test_any_adapter_folder_and_any_place_of_the_base(
    run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    row = {"question": "1 + 3?", "answer": "4", "solution": ""}
    one = Verifier.load(run / "phase1" / "adapter", device="cpu").log_odds([row])
    other = Verifier.load(str(run / "phase1"), base=str(moved), device="cpu").log_odds([row])
    assert one == other


def test_another_calibration(verifier: Verifier, rows: list[dict[str, str]]) -> None:
    raw = dataclasses.replace(verifier, calibration=Calibration())
    assert np.array_equal(raw.log_odds(rows) / 1.7, verifier.log_odds(rows))


LONG = {"question": "long " * 600, "answer": "4", "solution": "2 + 2 = 4."}


def test_rows_that_do_not_fit_are_named_or_missing(
    verifier: Verifier, rows: list[dict[str, str]]
) -> None:
    mixed = [rows[0], LONG, *rows[1:], LONG]
    with pytest.raises(ValueError, match=r"2 rows do not fit .*: row 1 \(.*\), row 41 \(.*\)\. R"):
        verifier.log_odds(mixed)
    for score in (verifier.log_odds, verifier.predict_proba):
        scored_N = score(mixed, rows_too_long="missing")
        assert np.flatnonzero(np.isnan(scored_N)).tolist() == [1, 41]
        assert np.array_equal(np.delete(scored_N, [1, 41]), score(rows))
    assert verifier.encode(iter(mixed[:4]), rows_too_long="missing").rows_N.tolist() == [0, 2, 3]
    assert np.isnan(verifier.predict_proba([LONG], rows_too_long="missing")).all()
    with pytest.raises(ValueError, match=r"expected rows_too_long to be one of .*, got 'skip'"):
        verifier.log_odds(rows, rows_too_long="skip")  # type: ignore[arg-type]


def test_a_larger_maximum_length_than_in_training(
    run: Path, verifier: Verifier, rows: list[dict[str, str]]
) -> None:
    longer = Verifier.load(run / "phase1", device="cpu", eval_tokens=EVAL_TOKENS, max_length=4_000)
    assert longer.max_length == 4_000 > verifier.max_length
    assert np.isfinite(longer.log_odds([LONG])).all()
    assert np.array_equal(longer.log_odds(rows), verifier.log_odds(rows))
    with pytest.raises(ValueError, match="expected max_length to be positive, got 0"):
        Verifier.load(run / "phase1", max_length=0)


def test_rewards_are_log_odds_above_the_threshold(verifier: Verifier) -> None:
    questions = ["What is 3 + 4?", "What is 3 + 4?", "What is 5 x 6?"]
    solutions = ["So 7.", "So 8, no: #### 7", "\\boxed{30}"]
    answers = ["7", "7", "30"]
    columns = {"question": questions, "solution": solutions, "answer": answers}
    expected = (verifier.log_odds(columns) - 0.1).tolist()
    reward = verifier.as_reward_func()
    prompts = [[{"role": "user", "content": question}] for question in questions]
    completions = [[{"role": "assistant", "content": solution}] for solution in solutions]
    assert reward(prompts=prompts, completions=completions, level=[1, 2, 3]) == expected
    assert reward(prompts=["Solve it."] * 3, completions=solutions, question=questions) == expected
    by_rule = verifier.as_reward_func(extract_answer=lambda text: "9")(questions, solutions)
    columns["answer"] = ["9"] * 3
    assert by_rule == (verifier.log_odds(columns) - 0.1).tolist() != expected
    assert np.isnan(reward([LONG["question"]], ["4"])).all()  # does not fit


def test_what_cannot_be_loaded(run: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter in"):
        Verifier.load(tmp_path)
    save_tiny_base(tmp_path / "other")
    words = tmp_path / "other" / "tokenizer.json"
    content = json.loads(words.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["+"], vocabulary["-"] = vocabulary["-"], vocabulary["+"]
    words.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"belongs to another tokenizer.*Set model.base.name \(in Python: base\)"
    ):
        Verifier.load(run / "phase1", base=str(tmp_path / "other"), device="cpu")
    with pytest.raises(ValueError, match=r"expected trainer.precision to be one of .*, got .bf16"):
        Verifier.load(run / "phase1", precision="bf16")


def test_the_package_itself_is_imported_quickly() -> None:
    script = (
        "import sys, mv_lightning; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    with pytest.raises(ImportError, match="cannot import name 'Verifyer'"):
        from mv_lightning import Verifyer  # noqa: F401


def test_the_example_of_the_readme(
    run: Path, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert 'Verifier.load("checkpoints/local/phase3")' in example
    (run / "checkpoints/local").mkdir(parents=True)
    (run / "checkpoints/local/phase3").symlink_to(run / "phase1")
    monkeypatch.chdir(run)
    said: dict[str, object] = {}
    exec(example, said)
    assert np.array_equal(said["probabilities"], verifier.predict_proba(said["rows"]))  # type: ignore[arg-type]
