"""The proof: no run sees a held-out question, scores equal hand calculations, runs resume."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors.torch import load_file

from benchmarks import real_data
from benchmarks.proof import definitions, rows, scoring, tables, training, trl
from benchmarks.proof.baselines import score_baseline
from benchmarks.proof.definitions import HELD_OUT_SHARE, ROW_SETS, RUNS, RowSet, Run
from benchmarks.proof.training import ProofFolder
from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.phase_results import read_phase
from mv_lightning.artifacts.predictions import write_predictions
from mv_lightning.artifacts.solutions import Solutions
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan, plan_splits
from mv_lightning.metrics.consensus import Consensus, NoConsensusError
from mv_lightning.model.adapter_files import WEIGHTS
from mv_lightning.model.bundled import BUNDLED
from mv_lightning.training.cli import parse

SETS: Mapping[str, RowSet] = {
    "gsm8k": RowSet("one.jsonl", "One", None),
    "zeroeval": RowSet("two.jsonl", "Two", 40),
}


def write_set(path: Path, questions: range, solutions: int) -> None:
    lines = []
    for number in questions:
        for solution in range(solutions):
            row = {
                "question": f"What is {number} + {number}?",
                "answer": str(2 * number + solution % 3),
                "solution": f"{number} + {number} = {2 * number + solution % 3}.",
                "is_correct": solution % 3 == 0,
            }
            lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def use_small_sets(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Replace the real sets by two that share a hundred questions."""
    for module in (definitions, rows, tables, real_data):
        patch.setattr(module, "ROW_SETS", SETS)
    folder.mkdir(exist_ok=True)
    write_set(folder / "one.jsonl", range(200), 4)
    write_set(folder / "two.jsonl", range(100, 250), 3)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sets"
    use_small_sets(folder, monkeypatch)
    return folder


def questions_of(path: Path) -> set[str]:
    return {json.loads(line)["question"] for line in path.read_text("utf-8").splitlines()}


def test_no_run_trains_on_a_held_out_question_of_any_set(sets: Path, tmp_path: Path) -> None:
    trained, scored = tmp_path / "trained.jsonl", tmp_path / "scored.jsonl"
    rows.write_training_rows(trained, {"gsm8k": None, "zeroeval": None}, sets)
    held_out = set()
    for name in SETS:
        rows.write_scored_rows(scored, name, sets)
        held_out |= questions_of(scored)
    assert not questions_of(trained) & held_out
    divided = rows.divide("gsm8k", sets)
    assert len(divided.training) + len(divided.held_out) == 200
    assert len(divided.held_out) == pytest.approx(200 * HELD_OUT_SHARE, rel=0.35)


def test_the_position_ignores_form_only() -> None:
    position = rows.question_position("What is 2 + 3?")
    assert rows.question_position("  what is 2+3 ") == position
    assert rows.question_position("What is 2 + 4?") != position
    positions = np.array([rows.question_position(f"Question {n}") for n in range(2_000)])
    assert (positions < 1).all() and (positions < 0.3).mean() == pytest.approx(0.3, abs=0.04)


def test_a_smaller_training_set_is_a_part_of_a_larger_one(sets: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    rows.write_training_rows(small, {"gsm8k": 100}, sets)
    rows.write_training_rows(large, {"gsm8k": 203}, sets)
    small_lines, large_lines = (path.read_text("utf-8").splitlines() for path in (small, large))
    assert len(small_lines) == 100 and len(large_lines) == 200  # questions stay whole
    assert large_lines[:100] == small_lines


def test_questions_of_earlier_runs_are_left_out_of_all_sets(sets: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    rows.write_training_rows(first, {"gsm8k": 200, "zeroeval": 60}, sets)
    rows.write_training_rows(second, {"gsm8k": None, "zeroeval": 90}, sets, [first])
    assert not questions_of(first) & questions_of(second)
    everything = tmp_path / "everything.jsonl"
    rows.write_training_rows(everything, {"gsm8k": None}, sets)
    assert questions_of(everything) <= questions_of(first) | questions_of(second)


def test_rows_of_earlier_runs_are_left_out_without_their_questions(
    sets: Path, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "third"))
    rows.write_training_rows(first, {"gsm8k": 120}, sets)
    seen = first.read_text("utf-8").splitlines()[::3]
    second.write_text("\n".join(seen) + "\n", "utf-8")
    rows.write_training_rows(third, {"gsm8k": 100}, sets, without_rows=[second])
    left = [line for line in first.read_text("utf-8").splitlines() if line not in seen]
    taken = third.read_text("utf-8").splitlines()
    assert taken[:80] == left and len(taken) > 96  # then further questions, up to the limit
    assert questions_of(second) <= questions_of(third)


@pytest.mark.parametrize(
    "option",
    [{"without": ("a",)}, {"average": ("a",)}, {"new_rows": True}, {"keep_validation": True}],
)
def test_a_run_without_an_earlier_one_has_none_of_its_questions(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected `continues` beside"):
        Run(BUNDLED, {"gsm8k": 100}, **option)


def test_an_average_has_no_rows() -> None:
    with pytest.raises(ValueError, match="expected no rows"):
        Run(BUNDLED, {"gsm8k": 100}, continues="a", average=("a", "b"))


def test_runs_name_only_runs_that_they_continue() -> None:
    for name, run in RUNS.items():
        assert {*run.without, *run.average} <= set(definitions.chain(name)[:-1])
        assert run.continues is None or not RUNS[run.continues].average


def test_too_few_rows_are_refused(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 2,000 rows"):
        rows.write_training_rows(tmp_path / "rows.jsonl", {"gsm8k": 2_000}, sets)


def test_other_held_out_questions_than_stored_are_refused(sets: Path, tmp_path: Path) -> None:
    stored = tmp_path / "held_out.json"
    rows.check_held_out(stored, sets)
    before = stored.read_bytes()
    rows.check_held_out(stored, sets)
    assert stored.read_bytes() == before
    write_set(sets / "two.jsonl", range(100, 251), 3)
    with pytest.raises(ValueError, match="other held-out questions"):
        rows.check_held_out(stored, sets)


def four_solutions(log_odds_N: np.ndarray, answers: list[str]) -> Solutions:
    """Thirty questions whose first solution is the right one."""
    labels_N = np.arange(120) % 4 == 0
    questions = [f"q{question}" for question in range(30)]
    return Solutions(np.repeat(np.arange(30), 4), answers, labels_N, log_odds_N, questions)


RIGHT_AND_WRONG = ["right", "wrong", "wrong", "wrong"] * 30


def test_scores_of_a_perfect_and_of_a_constant_prediction() -> None:
    log_odds_N = np.where(np.arange(120) % 4 == 0, 1.0, -1.0)
    perfect = scoring.score_rows(four_solutions(log_odds_N, RIGHT_AND_WRONG))
    assert perfect["auroc_within_question"]["value"] == perfect["accuracy"]["value"] == 1
    rates = perfect["solve_rate"]
    assert (rates["best"]["value"], rates["majority"]["value"]) == (1, 0)
    assert rates["gain_over_majority"] == {"best": {"value": 1, "interval": [1, 1]}}
    constant = scoring.score_rows(four_solutions(np.full(120, -0.4), RIGHT_AND_WRONG))
    assert constant["majority"] == constant["accuracy"]["value"] == 0.75
    assert constant["auroc_within_question"]["value"] == 0.5
    assert constant["solve_rate"]["best"]["value"] == pytest.approx(0.25)
    two = Solutions(np.zeros(2, int), ["1", "2"], np.array([True, False]), np.zeros(2), ["q"])
    assert scoring.score_rows(two)["solve_rate"] is None


def test_a_verifier_of_questions_is_not_one_of_solutions() -> None:
    labels_N = np.tile([True, False, False, False] * 2 + [True, True, True, False] * 2, 5)
    question_ids_N = np.repeat(np.arange(20), 4)
    by_question_N = np.where(question_ids_N % 4 < 2, -1.0, 1.0)
    questions = [f"q{question}" for question in range(20)]
    solutions = Solutions(question_ids_N, ["1"] * 80, labels_N, by_question_N, questions)
    scores = scoring.score_rows(solutions)
    assert scores["auroc"]["value"] == 0.75
    assert scores["auroc_within_question"]["value"] == 0.5


def test_the_stack_is_reported_with_its_gain() -> None:
    log_odds_N = np.tile([0.5, 1.0, -1.0, -1.0], 30)
    answers = ["1", "2", "1", "3"] * 30
    consensus = Consensus(log_odds_weight=1.0, agreement_weight=3.0, offset=0.0)
    rates = scoring.score_rows(four_solutions(log_odds_N, answers), 0.0, consensus)["solve_rate"]
    assert rates["best"]["value"] == 0  # the most confident solution is a wrong one
    assert rates["stack"]["value"] == 1  # unless a sibling's agreement counts
    assert rates["gain_over_majority"]["stack"]["value"] == 1 - rates["majority"]["value"]


def test_baselines_are_scored_on_other_questions(sets: Path, tmp_path: Path) -> None:
    trained, scored = tmp_path / "trained.jsonl", tmp_path / "scored.jsonl"
    rows.write_training_rows(trained, {"gsm8k": None}, sets)
    rows.write_scored_rows(scored, "zeroeval", sets)
    majority = score_baseline("majority", trained, scored)
    assert majority["accuracy"]["value"] == pytest.approx(majority["majority"])
    assert score_baseline("bag-of-words", trained, scored)["rows"] == majority["rows"] == 39


@dataclass(frozen=True)
class TinyProof:
    """Runs of the tiny model on the small sets."""

    path: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was stored."""

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def sets(self) -> Path:
        return self.path / "sets"

    def use(self, base: Path, patch: pytest.MonkeyPatch) -> None:
        use_small_sets(self.sets, patch)
        tiny = Run("tiny", {"gsm8k": 200}, batch_size=20, micro_batches=2)
        patch.setattr(Run, "base_name", lambda _: base)
        runs = {
            "tiny": tiny,
            "tiny-untrained": Run("tiny"),
            "tiny-continued": Run(
                "tiny", {"zeroeval": 99}, continues="tiny", new_rows=True, lr=1e-3
            ),
            "tiny-average": Run(
                "tiny",
                continues="tiny-continued",
                average=("tiny", "tiny-continued"),
                keep_validation=True,
            ),
            "tiny-kept": Run("tiny", {"gsm8k": 120}, continues="tiny", keep_validation=True),
            "tiny-third": Run(
                "tiny",
                {"gsm8k": 300},
                continues="tiny-kept",
                without=("tiny-kept",),
                keep_validation=True,
            ),
        }
        for module in (definitions, real_data, tables):
            patch.setattr(module, "RUNS", runs)
        patch.setattr(real_data, "TRL_RUNS", {"tiny-trl": "tiny"})
        patch.setattr(training, "VALIDATION_ROWS", 40)
        patch.setattr(real_data, "record", self.record)
        patch.setattr(real_data, "PROOF_RESULTS", self.path / "results")

    def record(self, name: str, **content: Any) -> None:
        self.results[name] = content


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyProof:
    """The run `tiny` is finished."""
    proof = TinyProof(tmp_path_factory.mktemp("proof"))
    with pytest.MonkeyPatch.context() as patch:
        proof.use(tiny_folder, patch)
        real_data.run_and_store("tiny", ["gsm8k"], proof.runs, proof.sets)
    return proof


@pytest.fixture
def proof(finished: TinyProof, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> TinyProof:
    finished.use(tiny_folder, monkeypatch)
    return finished


@pytest.mark.slow
def test_a_run_is_trained_predicted_scored_and_then_skipped(
    proof: TinyProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = proof.results["proof/tiny"]
    figures = result["training"]
    assert (figures["rows"], figures["steps"], figures["validation_rows"]) == (160, 8, 40)
    assert figures["cpu_seconds"] > 0
    assert set(result["scores"]) == {"gsm8k"}
    assert result["scores"]["gsm8k"]["solve_rate"]["stack"]["value"] >= 0
    monkeypatch.setattr(training, "_command", lambda *_: pytest.fail("it was finished"))
    real_data.run_and_store("tiny", ["gsm8k"], proof.runs, proof.sets)
    assert proof.results["proof/tiny"] == result


def parsed_fit(run: Run, folder: ProofFolder, sets: Path) -> Any:
    """The settings of the command that trains a run."""
    folder.path.mkdir()
    rows.write_training_rows(folder.training_rows, run.rows, sets)
    args = ["fit"]
    for name, value in training._fit_options(run, folder).items():
        args += [f"--{name}", str(value)]
    return parse(args)


def test_a_pair_loss_reaches_the_command(sets: Path, tmp_path: Path) -> None:
    run = Run(BUNDLED, {"gsm8k": 200}, pair_weight=0.5)
    folder = ProofFolder(tmp_path, "pairs")
    assert parsed_fit(run, folder, sets)["model"]["pair_weight"] == 0.5
    with pytest.raises(ValueError, match=r"run\.pair_weight=0\.5"):
        trl.train_trl(run, folder, trl.TrlFolder(tmp_path, "trl"))


def test_a_balanced_run_takes_as_many_rows_of_each_class(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "VALIDATION_ROWS", 42)
    write_set(sets / "one.jsonl", range(200), 5)  # two of five are right
    folder = ProofFolder(tmp_path, "balanced")
    plan = parsed_fit(Run(BUNDLED, {"gsm8k": 300}, balance=True), folder, sets)["data"]["splits"]
    source = load_source(str(folder.training_rows))
    assert source.labels_N is not None
    drawn = plan_splits(source.labels_N, source.question_ids_N, SplitPlan(**plan)).named()
    assert {name: len(ids) for name, ids in drawn.items()} == {
        "test": 0,
        "val_1": 42,
        "train_1": 190,
    }
    for name in ("val_1", "train_1"):
        assert source.labels_N[drawn[name]].mean() == 0.5


@pytest.mark.slow
def test_the_stack_is_that_of_the_command(proof: TinyProof, tmp_path: Path) -> None:
    """`best-of-n` reads the source of the validation rows from the phase's settings."""
    folder = ProofFolder(proof.runs, "tiny")
    prediction = folder.prediction(Run("tiny", {"gsm8k": 200}), "gsm8k")
    source, validated = folder.scored_rows("gsm8k"), folder.phase.evaluated_rows("val")
    command = ["best-of-n", str(prediction.probabilities), "--source", str(source)]
    options = ["--max-n", "4", "--fit-stack", str(validated), "--out", str(tmp_path / "out.json")]
    main([*command, *options])
    stored = json.loads((tmp_path / "out.json").read_text("utf-8"))
    rates = proof.results["proof/tiny"]["scores"]["gsm8k"]["solve_rate"]
    assert stored["stack"]["weights"] == rates["stack_weights"]
    assert stored["gain_over_majority"] == rates["gain_over_majority"]
    for policy, rate in stored["solve_rate"]["4"].items():
        assert rate == rates[policy]


@pytest.mark.slow
def test_a_row_without_a_probability_is_not_scored(proof: TinyProof, tmp_path: Path) -> None:
    folder = ProofFolder(proof.runs, "tiny")
    prediction = RunFolder(tmp_path)
    write_predictions(prediction, ["0", "1"], np.array([1.0, math.nan]))
    with pytest.raises(ValueError, match="expected a probability for every row, got none for 1 "):
        scoring.Prediction(prediction, folder.scored_rows("gsm8k")).solutions()


@pytest.mark.slow
def test_the_untrained_base_is_a_run(proof: TinyProof) -> None:
    real_data.run_and_store("tiny-untrained", ["zeroeval"], proof.runs, proof.sets)
    result = proof.results["proof/tiny-untrained"]
    assert result["training"] is None
    assert result["scores"]["zeroeval"]["rows"] == 39
    assert result["cpu_seconds_by_stage"].keys() == {"predict zeroeval"}


@pytest.mark.slow
def test_a_run_continues_with_the_adapter_of_another(proof: TinyProof) -> None:
    real_data.run_and_store("tiny-continued", ["zeroeval"], proof.runs, proof.sets)
    first, result = proof.results["proof/tiny"], proof.results["proof/tiny-continued"]
    folder = ProofFolder(proof.runs, "tiny-continued")
    lines = folder.training_rows.read_text("utf-8").splitlines()
    trained_lines = ProofFolder(proof.runs, "tiny").training_rows.read_text("utf-8").splitlines()
    assert len(lines) == 99 and not set(lines) & set(trained_lines)
    settings = read_phase(folder.phase.path).settings
    before = ProofFolder(proof.runs, "tiny").phase.adapter
    assert settings["model"]["init_from"] == str(before)
    # The costs are those of both trainings, the validation is of the second.
    figures = result["training"]
    assert figures["rows"] == 160 + 57 and figures["steps"] == 8 + 8  # two rows are left over
    assert figures["cpu_seconds"] > first["training"]["cpu_seconds"]
    assert figures["validation_rows"] == 40
    assert tables._costs("tiny-continued", result)[0] == "One, Two"


@pytest.mark.slow
def test_the_average_of_two_runs_is_a_run(proof: TinyProof) -> None:
    real_data.run_and_store("tiny-average", ["gsm8k"], proof.runs, proof.sets)
    one, two, folder = (
        ProofFolder(proof.runs, name) for name in ("tiny", "tiny-continued", "tiny-average")
    )
    weights = [load_file(part.phase.adapter / WEIGHTS) for part in (one, two, folder)]
    for name, tensor in weights[2].items():
        np.testing.assert_allclose(tensor, (weights[0][name] + weights[1][name]) / 2, atol=1e-7)
    assert any(not np.allclose(weights[0][name], weights[1][name]) for name in weights[0])
    kept = questions_of(folder.validated_rows)
    assert kept and not kept & questions_of(folder.scored_rows("gsm8k"))
    result = proof.results["proof/tiny-average"]
    assert result["training"]["rows"] == 160 + 57
    stages = {"average", "predict validated", "predict gsm8k"}
    assert result["cpu_seconds_by_stage"].keys() == stages
    assert result["scores"]["gsm8k"]["auroc"]["value"] is not None
    assert tables._costs("tiny-average", result)[0] == "One, Two"
    before = (folder.phase.adapter / WEIGHTS).stat().st_mtime_ns
    real_data.run_and_store("tiny-average", ["gsm8k"], proof.runs, proof.sets)
    assert (folder.phase.adapter / WEIGHTS).stat().st_mtime_ns == before


def test_the_calibration_is_that_of_the_kept_rows(sets: Path, tmp_path: Path) -> None:
    """Both classes have positive log-odds; only the kept rows tell where they divide."""
    rng, predictions = np.random.default_rng(5), {}
    rows.write_training_rows(tmp_path / "kept.jsonl", {"gsm8k": 200}, sets)
    rows.write_scored_rows(tmp_path / "scored.jsonl", "gsm8k", sets)
    for name in ("kept", "scored"):
        labelled = tmp_path / f"{name}.jsonl"
        labels_N = load_source(str(labelled)).labels_N
        assert labels_N is not None
        log_odds_N = np.where(labels_N, 4.0, 1.0) + rng.uniform(-1.0, 1.0, len(labels_N))
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        write_predictions(folder, [str(row) for row in range(len(labels_N))], log_odds_N)
        predictions[name] = scoring.Prediction(folder, labelled)
    assert scoring.score_rows(predictions["scored"].solutions())["accuracy"]["value"] == 0.5
    scores = scoring.score_calibrated(predictions["scored"], predictions["kept"])
    assert scores["accuracy"]["value"] == 1
    assert scores["solve_rate"]["stack_weights"] is not None
    with pytest.raises(NoConsensusError, match="expected other questions"):
        scoring.score_calibrated(predictions["kept"], predictions["kept"])


@pytest.mark.slow
def test_a_run_keeps_the_validation_of_the_one_that_it_continues(proof: TinyProof) -> None:
    real_data.run_and_store("tiny-kept", ["gsm8k"], proof.runs, proof.sets)
    before, folder = ProofFolder(proof.runs, "tiny"), ProofFolder(proof.runs, "tiny-kept")
    source = load_source(str(before.training_rows))
    validated_N = read_evaluated(before.phase.evaluated_rows("val")).rows_N
    kept = load_source(str(folder.validated_rows)).table["solution"][:]
    assert kept == source.table.select(validated_N)["solution"][:] and len(kept) == 40
    assert not questions_of(folder.validated_rows) & questions_of(folder.training_rows)
    result = proof.results["proof/tiny-kept"]
    assert result["cpu_seconds_by_stage"].keys() == {"fit", "predict validated", "predict gsm8k"}
    assert result["scores"]["gsm8k"]["solve_rate"]["stack"]["value"] >= 0


@pytest.mark.slow
def test_kept_questions_were_trained_on_by_no_continued_run(proof: TinyProof) -> None:
    """`tiny-kept` is validated on questions that `tiny` was trained on; these are not kept."""
    real_data.run_and_store("tiny-third", ["gsm8k"], proof.runs, proof.sets)
    first, second, third = (
        ProofFolder(proof.runs, name) for name in ("tiny", "tiny-kept", "tiny-third")
    )
    trained = questions_of(third.training_rows)
    assert not trained & questions_of(second.training_rows)
    kept = third.validated_rows.read_text("utf-8")
    assert kept == second.validated_rows.read_text("utf-8")
    repeated = trained & questions_of(first.training_rows)
    assert repeated and not repeated & questions_of(third.validated_rows)
    assert proof.results["proof/tiny-third"]["training"]["rows"] > 160


@pytest.mark.slow
def test_cpu_seconds_are_summed_over_starts(tmp_path: Path) -> None:
    folder = ProofFolder(tmp_path, "run")
    for _ in range(2):
        with pytest.raises(ValueError, match="ended with status"):
            training._command("no-such-command", {}, folder)
    recorded = json.loads(folder.cpu_seconds.read_text("utf-8"))
    assert len(recorded["no-such-command"]) == 2 and min(recorded["no-such-command"]) > 0
    assert training.cpu_seconds(folder) == {"no-such-command": sum(recorded["no-such-command"])}


@pytest.mark.slow
def test_trl_gets_the_rows_of_the_run_and_its_adapter_is_scored(
    proof: TinyProof, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = ProofFolder(proof.runs, "tiny").phase.adapter

    class Trainer:
        """Takes the steps without training, and saves the adapter of the run as its own."""

        versions: ClassVar = {"trl": "0"}

        def __init__(self, name: str, **settings: Any) -> None:
            self.settings = settings
            self.steps = [{"cpu_s": 3.0, "loss": 0.5}] * 5

        def step(self) -> None:
            self.steps.append({"cpu_s": 2.0, "loss": 0.5})

        def finish(self) -> None:
            shutil.copytree(adapter, self.settings["save"])

        def stop(self) -> None:
            assert Path(self.settings["save"]).is_dir(), "the adapter is saved before"

    monkeypatch.setattr(trl, "BaselineTrainer", Trainer)
    real_data.train_and_store_trl("tiny-trl", ["gsm8k"], proof.runs, proof.sets)
    result = proof.results["proof/tiny-trl"]
    assert (result["training"]["steps"], result["training"]["cpu_seconds"]) == (8, 21.0)
    lines = (proof.runs / "tiny-trl" / "texts.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line) for line in lines]
    assert len(texts) == 160
    assert {text["completion"] for text in texts} == {" True", " False"}
    # The same adapter without calibration: other thresholds, the same ranks.
    own, other = proof.results["proof/tiny"]["scores"]["gsm8k"], result["scores"]["gsm8k"]
    assert other["auroc"]["value"] == pytest.approx(own["auroc"]["value"], abs=1e-3)


def test_the_tables_show_what_is_stored(tmp_path: Path) -> None:
    log_odds_N = np.where(np.arange(120) % 4 == 0, 1.0, -1.0)
    scores = scoring.score_rows(four_solutions(log_odds_N, RIGHT_AND_WRONG))
    stored = {"training": {"rows": 2_328, "steps": 291, "cpu_seconds": 5_400}, "scores": {}}
    (tmp_path / "0.5b-gsm8k.json").write_text(
        json.dumps({**stored, "scores": {"gsm8k": scores, "zeroeval": scores}}), encoding="utf-8"
    )
    text = tables.markdown(tmp_path)
    *_, by_set = text.split("\n\n")
    assert "ZeroEval" in by_set and "| GSM8K" not in by_set
    assert "| Qwen2.5-Coder-0.5B-Instruct | 0.5b-gsm8k |" in text
    assert "2,328 |" in text and "291 |" in text and "1.50 |" in text
    assert "1.000 (1.000 to 1.000)" in text
    accuracy, within = tables.best_verifier(tmp_path)
    assert "120 GSM8K solutions" in accuracy[0] and "majority 0.750" in accuracy[0]
    assert within[1] == "1.000 (1.000 to 1.000)"
    assert tables.best_verifier(tmp_path / "nothing") == []


def test_results_are_ordered_by_base_and_number_of_rows(tmp_path: Path) -> None:
    names = ["majority", "135m-untrained", "0.5b-untrained", "0.5b-500", "0.5b-1000"]
    names += ["0.5b-1000-trl", "1.5b-untrained", "1.5b-1200-pairs"]
    for name in reversed(names):
        shutil.copy(real_data.PROOF_RESULTS / f"{name}.json", tmp_path)
    assert list(tables.read_results(tmp_path)) == names


def test_the_definitions_name_known_sets_and_bases() -> None:
    for run in RUNS.values():
        assert run.rows.keys() <= ROW_SETS.keys()
        assert run.title
    on_curves = {name for names in definitions.CURVES.values() for name in names}
    assert on_curves <= RUNS.keys() >= set(definitions.TRL_RUNS.values())
    for title, names in definitions.CURVES.items():
        (base,) = {RUNS[name].base for name in names}
        assert title.startswith(f"{base.rpartition('-')[2].upper()}, ")


def test_learning_curves_are_drawn_from_two_stored_runs_on(tmp_path: Path) -> None:
    image = tmp_path / "curves.png"
    stored = real_data.PROOF_RESULTS
    for name in ("0.5b-untrained", "0.5b-4000-pairs"):
        assert not image.exists()
        shutil.copy(stored / f"{name}.json", tmp_path)
        tables.plot_learning_curves(tmp_path, image)
    assert image.read_bytes().startswith(b"\x89PNG")
