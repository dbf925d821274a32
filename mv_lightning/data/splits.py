"""Which rows train, validate and test each phase: disjoint, balanced, and stored in a manifest.

A split depends only on the labels, the question ids and the plan. The held-out test set is drawn
first and the phases follow in order, so a further phase changes none of the rows drawn before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.atomic import atomic_file
from mv_lightning.hashing import sha256_bytes
from mv_lightning.schema import DEFAULT_SEED
from mv_lightning.versioning import FORMAT_VERSION, VERSION_KEY, check_format_version

_MAX_SEED = 1 << 32


@dataclass(frozen=True)
class SplitPlan:
    """How many rows each split takes, and how they are drawn."""

    phases: int = 3
    """Phases of training; each has rows of its own."""
    rows: int = 20_000
    """Rows of one phase, validation rows included."""
    val_fraction: float = 0.01
    """Share of a phase's rows (of each class, if balanced) held out for validation; 0 for none."""
    test_rows: int = 1_000
    """Rows of the held-out test set, which no phase trains on; 0 for none."""
    balance: bool = True
    """Half True, half False in training and validation; off keeps the shares of the source."""
    balance_test: bool = True
    """The same for the held-out test set."""
    group_by_question: bool = False
    """Keep all rows of a question in one split. Rows that fit no split then stay unused."""
    seed: int = DEFAULT_SEED
    """Seed of the draw."""

    def __post_init__(self) -> None:
        """Refuse a plan that no source could fulfil.

        Raises:
            ValueError: A count or fraction out of its range, or an odd size that is to be balanced.
        """
        if self.phases < 1 or self.rows < 1 or self.test_rows < 0 or self.seed < 0:
            raise ValueError(
                "Expected at least phases=1, rows=1, test_rows=0 and seed=0, got "
                f"phases={self.phases}, rows={self.rows}, test_rows={self.test_rows}, "
                f"seed={self.seed}. Raise what is too small."
            )
        if self.seed >= _MAX_SEED:
            raise ValueError(
                f"seed={self.seed}: expected a seed below 2**32. Choose a smaller one."
            )
        for size, balance in (("rows", "balance"), ("test_rows", "balance_test")):
            if getattr(self, balance) and getattr(self, size) % 2:
                raise ValueError(
                    f"{size}={getattr(self, size)}: expected an even number, half True and half "
                    f"False. Make it even, or set {balance}=False."
                )
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"val_fraction={self.val_fraction}: expected a share from 0 to below 1. Set for "
                "example 0.01."
            )
        _, val, train = _sizes(self, self.rows)
        if train == 0 or (val == 0 < self.val_fraction):
            rows = f"{self.rows:,} rows"
            if self.balance:
                rows = f"the {self.rows // 2:,} rows of a class"
            raise ValueError(
                f"val_fraction={self.val_fraction} of {rows} leaves {val} for validation and "
                f"{train} for training. Change val_fraction (0 for no validation) or raise rows."
            )

    @property
    def train_rows(self) -> int:
        """Training rows of a phase."""
        _, _, train = _sizes(self, self.rows)
        return train * (1 + self.balance)


@dataclass(frozen=True)
class Splits:
    """Row numbers of the source in shuffled order, each in one split at most."""

    train: tuple[np.ndarray, ...]
    """int64 [rows] per phase."""
    val: tuple[np.ndarray, ...]
    """int64 [rows] per phase."""
    test: np.ndarray
    """int64 [test_rows]."""

    def named(self) -> dict[str, np.ndarray]:
        """Every split by its name in reports: `test`, `val_1`, `train_1`, `val_2`, ..."""
        names = {"test": self.test}
        for phase, (val, train) in enumerate(zip(self.val, self.train, strict=True), 1):
            names |= {f"val_{phase}": val, f"train_{phase}": train}
        return names


def plan_splits(
    labels_N: np.ndarray,
    question_ids_N: np.ndarray | None,
    plan: SplitPlan,
    source_N: np.ndarray | None = None,
    shares: Sequence[float] | None = None,
) -> Splits:
    """Draw the splits of `plan`.

    The groups (the rows of a question, or single rows) are put in a random order. Each split in
    turn takes the first rows it needs of each class; the splits after it cannot use the groups that
    it took from. For single rows that is a draw per class, which leaves none unused.

    Args:
        labels_N: bool [N].
        question_ids_N: int64 [N], see `fingerprint.question_ids`; only used by
            `plan.group_by_question`.
        plan: What to draw.
        source_N: int64 [N], which of several sources each row is from; only used with `shares`.
        shares: The share of each source in every split (of each class, where balanced), 1 in all.
            None: all rows are drawn with the same probability.

    Returns:
        The splits, each of exactly the planned size.

    Raises:
        ValueError: The source has no row of a class, or too few rows; the message says what fits.
    """
    if plan.group_by_question:
        if question_ids_N is None:
            raise ValueError(
                "group_by_question needs the question ids of the rows. Pass `question_ids_N`."
            )
        _, question_ids_N = np.unique(question_ids_N, return_inverse=True)
    else:
        question_ids_N = np.arange(len(labels_N))
    if plan.balance or (plan.balance_test and plan.test_rows):
        _check_both_classes(labels_N)
    rng = np.random.default_rng(plan.seed)
    shuffled_N = rng.permutation(len(labels_N))
    rank_Q = rng.permutation(int(question_ids_N.max(initial=-1)) + 1)
    order_N = shuffled_N[np.argsort(rank_Q[question_ids_N[shuffled_N]], kind="stable")]
    if source_N is None or shares is None:
        source_N, shares = np.zeros(len(labels_N), dtype=np.int64), [1.0]
    rows = _Rows(order_N, labels_N, question_ids_N, source_N, shares)
    drawn = _draw(rows, plan, plan.rows)
    if drawn is None:
        raise ValueError(_too_few(rows, plan))
    test, *phases = (rng.permutation(rows_N) for rows_N in drawn)
    return Splits(train=tuple(phases[1::2]), val=tuple(phases[0::2]), test=test)


def _check_both_classes(labels_N: np.ndarray) -> None:
    for name, count in (
        ("True", np.count_nonzero(labels_N)),
        ("False", np.count_nonzero(~labels_N)),
    ):
        if count == 0:
            raise ValueError(
                f"The source has no {name} row among its {len(labels_N):,}: balanced splits need "
                "both classes. Check its labels, or set balance=False and balance_test=False."
            )


def check_held_out(split: str, rows_N: np.ndarray, plan: SplitPlan) -> None:
    """Check that there are rows to evaluate on.

    Args:
        split: `val` or `test`.
        rows_N: int [N], its rows.
        plan: What was drawn.

    Raises:
        ValueError: There are none.
    """
    if len(rows_N):
        return
    name, setting = {"val": ("validation", "val_fraction"), "test": ("test", "test_rows")}[split]
    raise ValueError(
        f"expected {name} rows to evaluate on, got none: data.splits.{setting} is "
        f"{getattr(plan, setting)}. Set it above 0 before training, or evaluate on rows of your "
        "own with predict."
    )


def overlap(question_ids_N: np.ndarray, splits: Splits) -> dict[str, float]:
    """Measure how many questions leak from training into evaluation.

    Args:
        question_ids_N: int64 [N], see `fingerprint.question_ids`.
        splits: The drawn rows.

    Returns:
        For `test` and each `val_*`: the share of its rows (0 to 1) whose question is also in the
        training rows of any phase.
    """
    trained_Q = np.zeros(int(question_ids_N.max(initial=-1)) + 1, dtype=bool)
    for rows_N in splits.train:
        trained_Q[question_ids_N[rows_N]] = True
    shares = {}
    for name, rows_N in splits.named().items():
        if not name.startswith("train"):
            is_trained_N = trained_Q[question_ids_N[rows_N]]
            shares[name] = float(is_trained_N.sum() / max(1, len(rows_N)))
    return shares


def manifest(
    source_fingerprint: str,
    plan: SplitPlan,
    splits: Splits,
    labels_N: np.ndarray,
    question_ids_N: np.ndarray,
    source_N: np.ndarray | None = None,
    source_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what identifies a draw, in values that JSON can hold.

    Args:
        source_fingerprint: `Source.fingerprint` of the rows.
        plan: What was to be drawn.
        splits: What was drawn.
        labels_N: bool [N].
        question_ids_N: int64 [N], see `fingerprint.question_ids`.
        source_N: int64 [N], which of several sources each row is from.
        source_names: The names of these sources.

    Returns:
        `fingerprint`, `plan`, and `splits`: for each name its `rows`, how many are `true`, the
        `sha256` of its row numbers, (not for training rows) its `overlap` and (for several sources)
        the rows of each, by name, as `sources`.
    """
    overlaps = overlap(question_ids_N, splits)
    described: dict[str, dict[str, Any]] = {}
    for name, rows_N in splits.named().items():
        described[name] = {
            "rows": len(rows_N),
            "true": int(np.count_nonzero(labels_N[rows_N])),
            "sha256": _sha256(rows_N),
        }
        if name in overlaps:
            described[name]["overlap"] = overlaps[name]
        if source_N is not None:
            n_rows = np.bincount(source_N[rows_N], minlength=len(source_names)).tolist()
            described[name]["sources"] = dict(zip(source_names, n_rows, strict=True))
    return {"fingerprint": source_fingerprint, "plan": asdict(plan), "splits": described}


def write_manifest(path: Path | str, manifest_dict: Mapping[str, Any], splits: Splits) -> None:
    """Write the manifest and all row numbers as one JSON file, whole or not at all.

    Args:
        path: The file; missing folders above it are made.
        manifest_dict: See `manifest`.
        splits: The rows, stored under `row_ids`.
    """
    row_ids = {name: rows_N.tolist() for name, rows_N in splits.named().items()}
    fields = {VERSION_KEY: FORMAT_VERSION, **manifest_dict, "row_ids": row_ids}
    # One line per field: the first lines stay readable above 60,000 numbers.
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
    hint = "Delete it to have the splits drawn again, or restore it from a copy"
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        check_format_version(fields, Path(path), "a split manifest")
        del fields[VERSION_KEY]
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
        raise ValueError(f"{path}: no split manifest. Correct the path.") from reason
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as reason:
        raise ValueError(
            f"{path}: expected a split manifest, got a damaged or another file: {reason!r}. {hint}."
        ) from reason
    if wrong:
        raise ValueError(
            f"{path}: the row numbers of {', '.join(wrong)} do not match their hashes. {hint}."
        )
    return fields, splits


def _sizes(plan: SplitPlan, rows: int) -> tuple[int, int, int]:
    """Rows of the test, of one validation and of one training split; per class where balanced."""
    phase = rows // (1 + plan.balance)
    val = round(phase * plan.val_fraction)
    return plan.test_rows // (1 + plan.balance_test), val, phase - val


@dataclass(frozen=True)
class _Rows:
    """What a draw depends on."""

    order_N: np.ndarray
    """int64 [N], row numbers in the order in which they are taken."""
    labels_N: np.ndarray
    question_ids_N: np.ndarray
    source_N: np.ndarray
    shares: Sequence[float]


def _draw(rows: _Rows, plan: SplitPlan, phase_rows: int) -> list[np.ndarray] | None:
    """Rows of test, val 1, train 1, val 2, ... for phases of a size; None if there are too few."""
    test, val, train = _sizes(plan, phase_rows)
    phase = [(val, plan.balance), (train, plan.balance)]
    order_N = rows.order_N
    drawn = []
    for size, balance in [(test, plan.balance_test), *phase * plan.phases]:
        taken = [np.empty(0, dtype=np.int64)]
        for pool_N in _classes(order_N, rows.labels_N, balance):
            source_N = rows.source_N[pool_N]
            for source, quota in enumerate(quotas(size, rows.shares)):
                from_source_N = pool_N[source_N == source]
                if len(from_source_N) < quota:
                    return None
                taken.append(from_source_N[:quota])
        drawn.append(np.concatenate(taken))
        used_Q = np.zeros(len(rows.labels_N), dtype=bool)
        used_Q[rows.question_ids_N[drawn[-1]]] = True
        order_N = order_N[~used_Q[rows.question_ids_N[order_N]]]
    return drawn


def _classes(order_N: np.ndarray, labels_N: np.ndarray, balance: bool) -> list[np.ndarray]:
    """The rows of each class that a split takes equally many of; all rows where it does not."""
    if not balance:
        return [order_N]
    true_N = labels_N[order_N]
    return [order_N[true_N], order_N[~true_N]]


def quotas(size: int, shares: Sequence[float]) -> list[int]:
    """Divide a number of rows by shares: whole numbers, `size` in all, less than one off each.

    The largest remainders are rounded up; of equal ones the first.

    Args:
        size: Rows to divide.
        shares: Shares, 1 in all.
    """
    exact = np.array(shares) * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: size - int(counts.sum())]
    counts[largest] += 1
    return [int(count) for count in counts]


def _too_few(rows: _Rows, plan: SplitPlan) -> str:
    """What the plan needs, what there is, and the largest phases that the same draw does fill."""
    fits = _largest_phase(rows, plan)
    advice = "phases, test_rows, or both, and rows"
    if fits:
        advice = f"rows to at most {fits:,}, phases or test_rows"
    questions = ""
    if plan.group_by_question:
        n_questions = len(np.unique(rows.question_ids_N))
        questions = f" on {n_questions:,} questions (group_by_question leaves some unused)"
    available = _class_counts(rows.labels_N)
    if len(rows.shares) > 1:
        parts = []
        for source, share in enumerate(rows.shares):
            counts = _class_counts(rows.labels_N[rows.source_N == source])
            parts.append(f"{counts} for a share of {share:g}")
        available = f"{'; '.join(parts)}, in the order of the sources"
    return (
        f"test_rows={plan.test_rows} and {plan.phases} phases of rows={plan.rows} need "
        f"{_needed_rows(plan)}; the source has {available}{questions}. Lower {advice}, or take a "
        "larger source."
    )


def _class_counts(labels_N: np.ndarray) -> str:
    true = int(np.count_nonzero(labels_N))
    return f"{true:,} True and {len(labels_N) - true:,} False"


def _needed_rows(plan: SplitPlan) -> str:
    test, val, train = _sizes(plan, plan.rows)
    phases = plan.phases * (val + train)
    if plan.balance and plan.balance_test:
        return f"{test + phases:,} True and {test + phases:,} False rows"
    needed = f"{plan.test_rows + plan.phases * plan.rows:,} rows"
    per_class = phases * plan.balance + test * plan.balance_test
    if per_class:
        needed += f" (at least {per_class:,} of each class)"
    return needed


def _largest_phase(rows: _Rows, plan: SplitPlan) -> int:
    """The most rows of a phase that can be drawn, found by bisection; 0 where none can."""
    unit = 1 + plan.balance
    fits, fails = 0, plan.rows // unit
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _draw(rows, plan, middle * unit) is None:
            fails = middle
        else:
            fits = middle
    return fits * unit


def _sha256(rows_N: np.ndarray) -> str:
    return sha256_bytes(rows_N.astype("<i8").tobytes())
