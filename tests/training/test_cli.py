"""Options are set once and never ignored; the command line overrides files in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.strategies import DDPStrategy

from mv_lightning.cli import main
from mv_lightning.testing import tiny_options
from mv_lightning.training.cli import average_gradients_in_place, parse
from mv_lightning.training.settings import LINKS
from tests.conftest import ROOT

PHASE1 = str(ROOT / "configs/phase1.yaml")


def test_the_command_line_overrides_a_file_that_follows_it() -> None:
    settings = parse(["fit", "--trainer.max_steps", "7", "--config", PHASE1])
    assert settings["trainer"]["max_steps"] == 7


def test_a_source_is_the_name_of_a_file_and_not_its_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer,solution,is_correct\n1+1?,2,1+1=2,true\n")
    for args in (["--data.source", str(path)], ["--predict.source", str(path)]):
        settings = parse(["fit", *args])
        group, name = args[0].removeprefix("--").split(".")
        assert settings[group][name] == str(path)


def test_parsed_settings_have_every_option_once() -> None:
    settings = parse(["predict", "--run.dir", "~/runs"])
    assert Path(settings["run"]["dir"]) == Path.home() / "runs"
    for target in LINKS.values():
        group, name = target.split(".")
        assert name not in settings[group]
    # Left open: they are those of the adapter, which may not be trained yet.
    assert settings["data"]["prompt"] is None and settings["data"]["max_length"] is None


def test_another_progress_bar_takes_the_place_of_ours(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "bar.yaml"
    bar = "lightning.pytorch.callbacks.TQDMProgressBar"
    config.write_text(
        f"trainer: {{enable_progress_bar: true, callbacks: [{{class_path: {bar}}}]}}\n"
    )
    options = [arg for arg in tiny_options(tiny_folder, tmp_path / "run")]
    place = options.index("--trainer.enable_progress_bar")
    del options[place : place + 2]
    limits = ["--trainer.max_steps", "1"]
    main(["fit", "--config", PHASE1, "--config", str(config), *options, *limits])
    assert (tmp_path / "run/phase1/summary.json").is_file()


def test_outside_fit_the_prompt_and_length_are_those_of_the_adapter(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_options(tiny_folder, tmp_path)
    asked = ["--data.prompt", "answer_only", "--data.max_length", "260"]
    main(["fit", "--config", PHASE1, *options, *asked, "--trainer.max_steps", "2"])
    fitted = capsys.readouterr().out
    main(["validate", "--config", PHASE1, *options])
    validated = capsys.readouterr().out
    truncation = [line for line in validated.splitlines() if line.startswith("val:")]
    assert len(truncation) <= 1 and all(line in fitted for line in truncation)
    other = ["--data.prompt", "detailed", "--data.max_length", "900"]
    with pytest.raises(SystemExit):
        main(["validate", "--config", PHASE1, *options, *other])
    assert "belongs to another prompt" in capsys.readouterr().err


def test_the_base_without_an_adapter_is_evaluated_beside_the_run(
    tiny_folder: Path, tmp_path: Path
) -> None:
    options = tiny_options(tiny_folder, tmp_path)
    main(["test", "--config", PHASE1, *options, "--model.init_from", "none"])
    main(["predict", "--config", PHASE1, *options, "--model.init_from", "none"])
    assert (tmp_path / "untrained/phase1/metrics.json").is_file()
    assert (tmp_path / "untrained/submission.csv").is_file()
    assert not (tmp_path / "submission.csv").exists() and not (tmp_path / "phase1").exists()


@pytest.mark.parametrize("given", [None, True, False])
def test_gradients_are_views_of_the_buckets_unless_it_is_set(given: bool | None) -> None:
    options = {} if given is None else {"gradient_as_bucket_view": given}
    strategy = DDPStrategy(**options)
    average_gradients_in_place(strategy)
    assert strategy._ddp_kwargs == {"gradient_as_bucket_view": given is not False}
