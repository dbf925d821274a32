"""The table of speed shows what was measured, says what was not, and is in docs/results.md as it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import table
from mv_lightning.atomic import write_json


def line(results: Path, start: str) -> list[str]:
    (found,) = (
        line for line in table.table(results).splitlines() if line.startswith(f"| {start} |")
    )
    return [cell.strip() for cell in found.split("|")[2:5]]


def test_a_ratio_stands_with_its_spread_and_its_target(tmp_path: Path) -> None:
    write_json(tmp_path / "train_trl.json", {"ratio": {"min": 2.04, "median": 3.0, "max": 4.25}})
    assert line(tmp_path, "training, CPU, against TRL as in the report") == [
        "3.0x (2.0x to 4.2x)",
        "3.0x",
        "yes",
    ]
    write_json(tmp_path / "train_matmul.json", {"ratio": {"min": 0.4, "median": 0.49, "max": 0.6}})
    assert line(tmp_path, "products' share of a training step, CPU") == [
        "49% (40% to 60%)",
        "50%",
        "no",
    ]


def test_less_is_better_where_the_target_is_a_limit(tmp_path: Path) -> None:
    for peak, reached in ((13.96, "yes"), (14.2, "no")):
        write_json(tmp_path / "memory.json", {"figures": {"peak_gb": peak}})
        found = line(tmp_path, "memory of phase 1, estimated")
        assert found == [f"{peak:.1f} GB", "at most 14.0 GB", reached]


def test_what_was_not_run_or_failed_says_so(tmp_path: Path) -> None:
    write_json(
        tmp_path / "gpu.json",
        {"stages": {"phase1": {"failed": "no time"}}, "times": {"generate": 21.2}},
    )
    assert line(tmp_path, "memory of phase 1, GPU") == ["failed", "at most 14.0 GB", ""]
    assert line(tmp_path, "prediction, GPU, against generation") == ["21.2x", "20.0x", "yes"]
    assert line(tmp_path, "prediction, CPU, against generation") == ["not run", "10.0x", ""]


def test_the_document_is_checked_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "results.md"

    def call(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["table", *words])
        table.main(document, tmp_path)

    document.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="put them where the table shall stand"):
        call("--write")
    document.write_text(f"# Title\n{table.START}old\n{table.END}\nthe end\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="does not hold the table"):
        call("--check")
    call("--write")
    call("--check")
    assert document.read_text(encoding="utf-8") == (
        f"# Title\n{table.START}{table.table(tmp_path)}{table.END}\nthe end\n"
    )
    write_json(tmp_path / "predict_padded.json", {"ratio": {"min": 1, "median": 2, "max": 3}})
    with pytest.raises(SystemExit, match="does not hold the table"):
        call("--check")
