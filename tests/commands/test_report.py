"""The page of a run holds everything, escapes everything, and says what is missing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.calibrations import load_calibration
from mv_lightning.artifacts.evaluations import read_evaluated
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.testing import tiny_options
from mv_lightning.training.cli import parse
from tests.conftest import ROOT

pytest.importorskip("matplotlib")
EVIL = "<script>alert('&')</script> </pre></details>"


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phases on a source whose every question tries to be HTML."""
    folder = tmp_path_factory.mktemp("run")
    source = load_source("synthetic:120")
    assert source.labels_N is not None
    rows = zip(source.table, source.labels_N.tolist(), strict=True)
    lines = [
        json.dumps({**row, "question": f"{row['question']} {EVIL}", "is_correct": label})
        for row, label in rows
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    options = [*tiny_options(tiny_folder, folder), "--data.source", str(folder / "rows.jsonl")]
    options += ["--trainer.max_steps", "4"]
    for phase in (1, 2):
        main(["fit", "--config", str(ROOT / f"configs/phase{phase}.yaml"), *options])
    main(
        [
            "test",
            "--config",
            str(ROOT / "configs/phase2.yaml"),
            *options,
            "--model.init_from",
            "null",
        ]
    )
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def page(run: Path) -> str:
    main(["report", str(run)])
    return (run / "report.html").read_text()


class Tags(HTMLParser):
    """Checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_everything_is_on_the_page(run: Path) -> None:
    text = page(run)
    for part in (
        "<h2>Results</h2>",
        "<td>phase 2</td>",
        "Phase 1: metrics",
        "held-out test, 16 rows",
        "<td>balanced accuracy</td>",
        "<td>AUROC</td>",
        "kind of error: ",
        "<td>model.lora.r</td><td>32</td></tr>",
        "<td>data.phase</td><td>1</td><td>2</td></tr>",
        "<td>train_2</td>",
        "<td>transformers</td>",
        "--config",
    ):
        assert part in text, part
    assert text.count("data:image/png") >= 16
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    tags = Tags(text)
    assert not tags.open[1:] and "details" in tags.seen


def test_texts_of_the_data_are_escaped(run: Path) -> None:
    text = page(run)
    assert "<script" not in text and "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in text


def test_the_worst_mistakes_come_first(run: Path) -> None:
    shown = [int(row) for row in re.findall(r"<summary>Row (\d+): labelled", page(run))]
    calibration = load_calibration(run / "phase2/adapter")
    evaluated = read_evaluated(run / "phase2/val.csv")
    margins_N = calibration.apply(evaluated.log_odds_N) - calibration.threshold
    wrong_N = np.flatnonzero((margins_N > 0) != evaluated.labels_N)
    worst_N = wrong_N[np.argsort(-np.abs(margins_N[wrong_N]))][:10]
    assert shown == evaluated.rows_N[worst_N].tolist()


def test_the_commands_can_be_given(run: Path) -> None:
    (block,) = re.findall(r"<pre>(python -m mv_lightning fit.*?)</pre>", page(run), re.DOTALL)
    first, second = (
        parse(shlex.split(line)[3:]) for line in block.replace("\\\n", "").splitlines()
    )
    assert first["run"]["dir"] == second["run"]["dir"] == f"{run}-again"
    assert first["model"]["init_from"] is None and Path(second["model"]["init_from"]) == Path(
        f"{run}-again/phase1/adapter"
    )
    assert second["trainer"]["max_steps"] == 4


def test_what_is_missing_is_named(copy: Path) -> None:
    for file in [
        *copy.glob("phase*/metrics.json"),
        *copy.glob("phase*/val.csv"),
        *copy.glob("tensorboard/*/events*"),
    ]:
        file.unlink()
    for file in copy.glob("phase*/summary.json"):
        summary = json.loads(file.read_text())
        del summary["environment"]
        file.write_text(json.dumps(summary))
    text = page(copy)
    assert "Phase 1 has no metrics.json: run validate or test on it." in text
    assert "val.csv is missing" in text and "there are no TensorBoard files in" in text
    assert "the summaries of this run do not record it" in text


def test_other_texts_are_not_shown(copy: Path) -> None:
    config = copy / "phase2/config.yaml"
    source = re.search(r"source: (\S+rows.jsonl)", config.read_text())
    assert source is not None
    moved = copy / "other.jsonl"
    moved.write_text("\n".join(Path(source[1]).read_text().splitlines()[:-1]))
    config.write_text(config.read_text().replace(source[1], str(moved)))
    text = page(copy)
    assert (
        "Their texts are not shown" in text
        and "does not hold the rows that phase 2 was trained from" in text
    )
    moved.unlink()
    text = page(copy)
    assert "no such file or folder" in text and "<p>Row " in text


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    assert "no finished phase in" in capsys.readouterr().err


def test_a_phase_that_is_not_whole(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "phase1/config.yaml").unlink()
    with pytest.raises(SystemExit):
        main(["report", str(copy)])
    assert "is incomplete" in capsys.readouterr().err
