"""An export says what the verifier says, to a user who has plain transformers and peft only; or it is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file

from mv_lightning import Verifier
from mv_lightning.artifacts.phase_results import load_rows, read_phase
from mv_lightning.cli import main
from mv_lightning.commands import export
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def phase(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    options = tiny_options(tiny_folder, run)
    main(
        ["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options, "--trainer.max_steps", "4"]
    )
    return run / "phase1"


@pytest.fixture(scope="module", params=["adapter", "merged"])
def exported(
    request: pytest.FixtureRequest, phase: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("export") / request.param
    main(
        [
            "export",
            str(phase),
            "--out",
            str(out),
            *(["--merged"] if request.param == "merged" else []),
        ]
    )
    return out


def test_the_folder_and_its_comparison(exported: Path) -> None:
    found = json.loads((exported / "export.json").read_text())
    assert (found["form"], found["rows"], found["rows_from"]) == (exported.name, 16, "sub-test")
    assert (
        found["flips"] == 0
        and 0 < found["log_odds_change"]["mean"] <= found["log_odds_change"]["max"] < 0.1
    )
    assert found["auroc"]["change"] == found["auroc"]["after"] - found["auroc"]["before"]
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nbase_model:") and "Llama Community License" in card
    assert "| accuracy" in card and "| val_1" in card and "| model.lora.r" in card
    assert all((exported / name).is_file() for name in re.findall(r"\]\(([^)]+\.png)\)", card))


def test_the_example_of_the_card(
    exported: Path, phase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert "mv_lightning" not in example
    rows = (
        load_rows(read_phase(phase))
        .table.select(range(5))
        .select_columns(["question", "answer", "solution"])
    )
    verifier = Verifier.load(phase, device="cpu")
    monkeypatch.chdir(exported)
    said: dict[str, object] = {}
    exec(example, said)
    odds = [said["log_odds"](**row) for row in rows]  # type: ignore[operator]
    assert np.allclose(odds, verifier.raw_log_odds(verifier.encode(rows)), atol=0.1)  # bf16


@pytest.mark.parametrize("exported", ["merged"], indirect=True)
def test_merged_weights_are_rounded_once(exported: Path, phase: Path) -> None:
    merged, adapter = (
        load_file(next(folder.glob("*.safetensors"))) for folder in (exported, phase / "adapter")
    )
    model = Verifier.load(phase, device="cpu", precision="32-true").model.get_base_model()
    name = "model.layers.1.mlp.down_proj"
    packed = model.get_submodule(name).base_layer.weight
    down, up = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    exact = dequantize_4bit(packed.data, packed.quant_state) + 128 / 32 * (up @ down)
    assert merged[f"{name}.weight"].dtype == torch.bfloat16
    assert (merged[f"{name}.weight"].float() - exact).abs().max() <= exact.abs().max() * 2**-8
    assert (
        merged[f"{name}.weight"] == exact.bfloat16()
    ).float().mean() > 0.999  # sums in another order
    assert torch.equal(merged["lm_head.weight"], model.lm_head.weight.bfloat16())


def test_other_rows_without_labels(
    phase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "rows.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": str(n), "solution": "so"} for n in range(6)]
    source.write_text("\n".join(map(json.dumps, rows)))
    main(
        [
            "export",
            str(phase),
            "--out",
            str(tmp_path / "out"),
            "--source",
            str(source),
            "--rows",
            "4",
        ]
    )
    assert "on 4 rows" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/export.json").read_text())
    assert found["auroc"] is None and found["rows"] == 4


def test_flips_are_counted_at_the_threshold() -> None:
    before, after = np.array([-1.0, 0.5, 3.0, 1.5]), np.array([0.5, 1.5, 3.0, 1.6])
    found = export.compare(
        Calibration(threshold=1.0), before, after, np.array([False, True, True, False])
    )
    assert found["flips"] == 1 and found["log_odds_change"] == {
        "mean": pytest.approx(0.65),
        "max": 1.5,
    }
    assert found["auroc"] == {"before": 0.75, "after": 0.75, "change": 0.0}


def test_too_many_flips_leave_nothing(
    phase: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        export, "plain_log_odds", lambda folder, encoded: np.tile([-9.0, 9.0], len(encoded) // 2)
    )
    with pytest.raises(SystemExit):
        main(["export", str(phase), "--out", str(tmp_path / "out")])
    assert (
        "verdicts differ once exported, more than --max-flips 0.02 allows"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "at least one row"),
        (["--max-flips", "2"], "a share of 0 to 1"),
        (["--out", "."], "is not an export"),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, phase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(phase), "--out", "nowhere", *words])
    assert message in capsys.readouterr().err


def test_no_such_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "is not the folder of a finished phase" in capsys.readouterr().err
