"""Exports go to the Hub and come back from it; the token goes into no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mv_lightning import Verifier
from mv_lightning.atomic import read_json
from mv_lightning.cli import main
from mv_lightning.exporting.hub import check_login, push
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT
from tests.hub_server import Hub

REPO = "me/verifier"
ROWS = [{"question": "3 + 4?", "solution": f"3 + 4 = {n}", "answer": str(n)} for n in (7, 8)]


def test_an_export_is_pushed_loaded_and_trained_on(
    hub: Hub, trained_phase: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out, run = tmp_path / "out", tmp_path / "run"
    main(["export", str(trained_phase), "--out", str(out), "--push", REPO, "--private"])
    repository = hub.repositories[REPO]
    written = {path.name for path in out.iterdir()}
    assert repository.private and set(repository.files("main")) == written
    assert {"README.md", "calibration.json", "verifier.json", "export.json"} <= written
    (index,) = hub.readme["model-index"]
    assert index["name"] == REPO and index["results"][0]["metrics"]

    loaded = Verifier.load(REPO, device="cpu").log_odds(ROWS)
    assert np.array_equal(loaded, Verifier.load(trained_phase, device="cpu").log_odds(ROWS))

    commit = repository.commit("main")
    repository.commits["later"] = {}
    options = [*tiny_options(tiny_folder, run), "--trainer.max_steps", "1"]
    options += ["--model.init_from", f"{REPO}@{commit}"]
    main(["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options])
    assert read_json(run / "phase1/summary.json")["steps_all_phases"] == 5
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert hub.token.encode() not in file.read_bytes(), file


def test_a_second_push_replaces_the_first(hub: Hub, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(name)
        push(tmp_path / name, REPO, private=False)
    assert hub.repositories[REPO].files("main") == {"b.json": b"b"}
    assert not hub.repositories[REPO].private


def test_what_is_refused(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_login(REPO)
    with pytest.raises(ValueError, match="expected --push OWNER/NAME, got 'verifier'"):
        check_login("verifier")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ValueError, match="does not say who you are"):
        check_login(REPO)
    with pytest.raises(ValueError, match="was written but could not be pushed to me/verifier"):
        push(tmp_path, REPO, private=False)
