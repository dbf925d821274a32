"""Options are set once and never ignored; the command line overrides files in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from mv_lightning.cli import main
from mv_lightning.training.arguments import (
    REPLACED_TRAINER_OPTIONS,
    configs_first,
    refuse_callbacks,
    refuse_strategy,
)
from mv_lightning.training.settings import LINKS
from mv_lightning.training.sharded_base import ShardedBaseStrategy
from tests.conftest import ROOT

PHASE1 = str(ROOT / "configs/phase1.yaml")


@pytest.mark.parametrize("config", [["--config", "a.yaml"], ["-c", "a.yaml"], ["--config=a.yaml"]])
def test_configuration_files_come_first_in_their_order(config: list[str]) -> None:
    args = ["fit", "--data.phase", "2", *config, "--run.dir", "x", "--config", "b.yaml"]
    expected = ["fit", *config, "--config", "b.yaml", "--data.phase", "2", "--run.dir", "x"]
    assert configs_first(args) == expected


@pytest.mark.parametrize("target", sorted(LINKS.values()))
def test_the_target_of_a_link_is_refused(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group, name = target.split(".")
    config = tmp_path / "linked.yaml"
    config.write_text(f"{group}: {{{name}: x}}\n")
    for args in (["--config", str(config)], [f"--{target}", "x"]):
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", PHASE1, *args])
        assert end.value.code == 2 and target in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(REPLACED_TRAINER_OPTIONS))
def test_options_that_would_be_ignored_are_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", PHASE1, f"--trainer.{name}", "3"])
    message = capsys.readouterr().err
    assert end.value.code == 2 and f"trainer.{name}=3" in message.replace("3.0", "3")
    assert REPLACED_TRAINER_OPTIONS[name] in message


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (StochasticWeightAveraging(swa_lrs=0.1), "would average nothing"),
        (EMAWeightAveraging(), "second copy of the whole base"),
        (GradientAccumulationScheduler({0: 2}), "chosen before the training"),
    ],
)
def test_callbacks_that_cannot_work_are_refused_with_the_reason(
    callback: Callback, reason: str
) -> None:
    usable: list[Callback] = [EarlyStopping("val/loss"), ModelCheckpoint()]
    refuse_callbacks(usable)
    with pytest.raises(ValueError, match=reason) as error:
        refuse_callbacks([*usable, callback])
    assert type(callback).__name__ in str(error.value)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (FSDPStrategy(), "got FSDPStrategy: .*bitsandbytes"),
        (ModelParallelStrategy(), "got ModelParallelStrategy: .*bitsandbytes"),
        (DDPStrategy(start_method="spawn"), "got DDP with the start method spawn: the results"),
    ],
)
def test_strategies_that_cannot_work_are_refused(strategy: Strategy, reason: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected trainer\.strategy=ddp, sharded_base or one process, {reason}"
    ):
        refuse_strategy(strategy)
    for supported in (DDPStrategy(), ShardedBaseStrategy(), SingleDeviceStrategy("cpu")):
        refuse_strategy(supported)
