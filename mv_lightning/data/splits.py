"""Which rows train, validate and test each phase: disjoint, balanced, and written down.

A split depends on the labels, the question groups and the plan, and on nothing else. The sub-test is drawn
first and the phases follow in order, so a further phase changes none of the rows drawn before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.atomic import atomic_file
from mv_lightning.schema import DEFAULT_SEED


@dataclass(frozen=True)
class SplitPlan:
    """How many rows each split takes, and how they are drawn."""

    phases: int = 3
    """Phases of training; each has rows of its own."""
    rows: int = 20_000
    """Rows of one phase, its validation rows included."""
    val_fraction: float = 0.01
    """Share of a phase's rows (of each class, when balanced) held out for its validation; 0 for none."""
    test_rows: int = 1_000
    """Rows of the sub-test that no phase trains on; 0 for none."""
    balance: bool = True
    """Half True, half False in training and validation; off keeps the mix of the source."""
    balance_test: bool = True
    """The same for the sub-test."""
    group_by_question: bool = False
    """Keep all rows of a question in one split. Rows that fit no split then stay unused."""
    seed: int = DEFAULT_SEED
    """Seed of the draw."""

    def __post_init__(self) -> None:
        """Refuse a plan that no source could fulfil.

        Raises:
            ValueError: A count, fraction or odd size that cannot be.
        """
        if self.phases < 1 or self.rows < 1 or self.test_rows < 0 or self.seed < 0:
            raise ValueError(
                f"phases={self.phases}, rows={self.rows}, test_rows={self.test_rows}, seed={self.seed}: needed are at "
                f"least 1 phase, 1 row, 0 test_rows and seed 0."
            )
        for size, balance in (("rows", "balance"), ("test_rows", "balance_test")):
            if getattr(self, balance) and getattr(self, size) % 2:
                raise ValueError(
                    f"{size}={getattr(self, size)} cannot be half True, half False: make it even, or set "
                    f"{balance}=False."
                )
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"val_fraction={self.val_fraction}: needed is a share from 0 to below 1, such as 0.01."
            )
        _, val, train = _sizes(self, self.rows)
        if train == 0 or (val == 0 < self.val_fraction):
            part = (
                f"the {self.rows // 2:,} rows of a class" if self.balance else f"{self.rows:,} rows"
            )
            raise ValueError(
                f"val_fraction={self.val_fraction} of {part} leaves {val} for validation and {train} for training: "
                f"change val_fraction (0 for no validation) or raise rows."
            )


@dataclass(frozen=True)
class Splits:
    """Row numbers of the source, no number in two places; in shuffled order."""

    train: tuple[np.ndarray, ...]
    """int64 [rows] per phase."""
    val: tuple[np.ndarray, ...]
    """int64 [rows] per phase."""
    test: np.ndarray
    """int64 [test_rows]."""

    def named(self) -> dict[str, np.ndarray]:
        """Every split under the name it has in reports: `test`, `val_1`, `train_1`, `val_2`, ..."""
        names = {"test": self.test}
        for phase, (val, train) in enumerate(zip(self.val, self.train, strict=True), 1):
            names |= {f"val_{phase}": val, f"train_{phase}": train}
        return names


def plan_splits(labels_N: np.ndarray, question_ids_N: np.ndarray | None, plan: SplitPlan) -> Splits:
    """Draw the splits of `plan`.

    The groups (a question's rows, or each row by itself) are put in a random order. Each split in turn takes
    the first rows it needs of each class; the groups it took from are then gone for the splits after it.
    For single rows that is a draw per class, which wastes none.

    Args:
        labels_N: bool [N].
        question_ids_N: int64 [N], see `fingerprint.question_ids`; not looked at unless `plan.group_by_question`.
        plan: What to draw.

    Returns:
        The splits, each of exactly the planned size.

    Raises:
        ValueError: The source lacks a class, or has too few rows; the message says what would fit.
    """
    if plan.group_by_question:
        if question_ids_N is None:
            raise ValueError(
                "group_by_question needs the question groups of the rows: pass `question_ids_N`."
            )
        _, question_ids_N = np.unique(question_ids_N, return_inverse=True)
    else:
        question_ids_N = np.arange(len(labels_N))
    for name, many in (
        ("True", np.count_nonzero(labels_N)),
        ("False", np.count_nonzero(~labels_N)),
    ):
        if many == 0 and (plan.balance or (plan.balance_test and plan.test_rows)):
            raise ValueError(
                f"The source has no {name} row among its {len(labels_N):,}: balanced splits need both classes. Check "
                f"its labels, or set balance=False and balance_test=False."
            )
    rng = np.random.default_rng(plan.seed)
    shuffled_N = rng.permutation(len(labels_N))
    rank_G = rng.permutation(int(question_ids_N.max(initial=-1)) + 1)
    order_N = shuffled_N[np.argsort(rank_G[question_ids_N[shuffled_N]], kind="stable")]
    drawn = _draw(order_N, labels_N, question_ids_N, plan, plan.rows)
    if drawn is None:
        raise ValueError(_too_few(order_N, labels_N, question_ids_N, plan))
    test, *phases = (rng.permutation(rows_N) for rows_N in drawn)
    return Splits(train=tuple(phases[1::2]), val=tuple(phases[0::2]), test=test)


def overlap(question_ids_N: np.ndarray, splits: Splits) -> dict[str, float]:
    """How far questions leak from training into evaluation.

    Args:
        question_ids_N: int64 [N], see `fingerprint.question_ids`.
        splits: The drawn rows.

    Returns:
        For `test` and each `val_*`: the share of its rows (0 to 1) whose question also stands in the training
        rows of any phase.
    """
    trained_G = np.zeros(int(question_ids_N.max(initial=-1)) + 1, dtype=bool)
    for rows_N in splits.train:
        trained_G[question_ids_N[rows_N]] = True
    return {
        name: float(trained_G[question_ids_N[rows_N]].mean()) if len(rows_N) else 0.0
        for name, rows_N in splits.named().items()
        if not name.startswith("train")
    }


def manifest(
    source_fingerprint: str,
    plan: SplitPlan,
    splits: Splits,
    labels_N: np.ndarray,
    question_ids_N: np.ndarray,
) -> dict[str, Any]:
    """What identifies a draw, in values that JSON can hold.

    Args:
        source_fingerprint: `Source.fingerprint` of the rows.
        plan: What was asked for.
        splits: What was drawn.
        labels_N: bool [N].
        question_ids_N: int64 [N], see `fingerprint.question_ids`.

    Returns:
        `fingerprint`, `plan`, and `splits`: for each name its `rows`, how many are `true`, the `sha256` of its
        row numbers and (not for training rows) its `overlap`.
    """
    leaked = overlap(question_ids_N, splits)
    return {
        "fingerprint": source_fingerprint,
        "plan": asdict(plan),
        "splits": {
            name: {
                "rows": len(rows_N),
                "true": int(np.count_nonzero(labels_N[rows_N])),
                "sha256": _sha256(rows_N),
            }
            | ({"overlap": leaked[name]} if name in leaked else {})
            for name, rows_N in splits.named().items()
        },
    }


def write_manifest(path: Path | str, manifest_dict: Mapping[str, Any], splits: Splits) -> None:
    """Write the manifest and all row numbers as one JSON file, whole or not at all.

    Args:
        path: The file; folders above it are made.
        manifest_dict: See `manifest`.
        splits: The rows, kept under `row_ids`.
    """
    row_ids = {name: rows_N.tolist() for name, rows_N in splits.named().items()}
    fields = {**manifest_dict, "row_ids": row_ids}
    # One line per field: the head stays readable above 60,000 numbers.
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    with atomic_file(Path(path)) as tmp_path:
        tmp_path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read_manifest(path: Path | str) -> tuple[dict[str, Any], Splits]:
    """Read what `write_manifest` wrote, and check the row numbers against their hashes.

    Args:
        path: The file.

    Returns:
        The manifest without the row numbers, and the splits.

    Raises:
        ValueError: No such file, or one that was damaged or edited.
    """
    mend = "Delete it to have the splits drawn again, or restore it from a copy"
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        row_ids = {
            name: np.array(rows, dtype=np.int64) for name, rows in fields.pop("row_ids").items()
        }
        wrong = [
            name
            for name, split in fields["splits"].items()
            if _sha256(row_ids[name]) != split["sha256"]
        ]
        phases = range(1, fields["plan"]["phases"] + 1)
        splits = Splits(
            train=tuple(row_ids[f"train_{phase}"] for phase in phases),
            val=tuple(row_ids[f"val_{phase}"] for phase in phases),
            test=row_ids["test"],
        )
    except FileNotFoundError as reason:
        raise ValueError(f"{path}: no split manifest there. Correct the path.") from reason
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as reason:
        raise ValueError(
            f"{path}: not a split manifest, or a damaged one ({reason!r}). {mend}."
        ) from reason
    if wrong:
        raise ValueError(
            f"{path}: the row numbers of {', '.join(wrong)} do not match their hashes. {mend}."
        )
    return fields, splits


def _sizes(plan: SplitPlan, rows: int) -> tuple[int, int, int]:
    """Rows of the sub-test, of one validation and of one training split: per class where these are balanced."""
    phase = rows // 2 if plan.balance else rows
    val = round(phase * plan.val_fraction)
    return plan.test_rows // 2 if plan.balance_test else plan.test_rows, val, phase - val


def _draw(
    order_N: np.ndarray,
    labels_N: np.ndarray,
    question_ids_N: np.ndarray,
    plan: SplitPlan,
    rows: int,
) -> list[np.ndarray] | None:
    """Rows of test, val 1, train 1, val 2, ... for phases of `rows` rows; None where the source runs out."""
    test, val, train = _sizes(plan, rows)
    drawn = []
    for size, balance in [
        (test, plan.balance_test),
        *[(val, plan.balance), (train, plan.balance)] * plan.phases,
    ]:
        if balance:
            true_N = labels_N[order_N]
            pools = [order_N[true_N], order_N[~true_N]]
        else:
            pools = [order_N]
        if min(map(len, pools)) < size:
            return None
        taken = np.concatenate([pool[:size] for pool in pools])
        spent_G = np.zeros(len(labels_N), dtype=bool)
        spent_G[question_ids_N[taken]] = True
        order_N = order_N[~spent_G[question_ids_N[order_N]]]
        drawn.append(taken)
    return drawn


def _too_few(
    order_N: np.ndarray, labels_N: np.ndarray, question_ids_N: np.ndarray, plan: SplitPlan
) -> str:
    """What the plan needs, what there is, and the largest phases that the same draw does fill."""
    test, val, train = _sizes(plan, plan.rows)
    phase = plan.phases * (val + train)
    if plan.balance and plan.balance_test:
        need = f"{test + phase:,} True and {test + phase:,} False rows"
    else:
        need = f"{plan.test_rows + plan.phases * plan.rows:,} rows"
        halves = (phase if plan.balance else 0) + (test if plan.balance_test else 0)
        need += f" (at least {halves:,} of each class)" if halves else ""
    unit = 2 if plan.balance else 1
    fits, fails = 0, plan.rows // unit
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _draw(order_N, labels_N, question_ids_N, plan, middle * unit) is None:
            fails = middle
        else:
            fits = middle
    advice = (
        f"rows to at most {fits * unit:,}, phases or test_rows"
        if fits
        else "phases, test_rows, or both, and rows"
    )
    true = int(np.count_nonzero(labels_N))
    questions = (
        f" on {len(np.unique(question_ids_N)):,} questions (group_by_question leaves some unused)"
        if plan.group_by_question
        else ""
    )
    return (
        f"test_rows={plan.test_rows} and {plan.phases} phases of rows={plan.rows} need {need}; the source has "
        f"{true:,} True and {len(labels_N) - true:,} False{questions}. Lower {advice}, or take a larger source."
    )


def _sha256(rows_N: np.ndarray) -> str:
    return hashlib.sha256(rows_N.astype("<i8").tobytes()).hexdigest()
