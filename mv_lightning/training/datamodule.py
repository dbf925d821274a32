"""The data side of a run: one source, one phase's shard, one prompt."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from mv_lightning.data.batching import (
    EVAL_TOKENS,
    MicroBatch,
    PackedRows,
    TrainingOrder,
    epoch_order,
    evaluation_micro_batches,
    training_micro_batches,
)
from mv_lightning.data.cache import cached
from mv_lightning.data.chat import render_chat
from mv_lightning.data.columns import KIND_COLUMN
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import Source, load_source
from mv_lightning.data.splits import SplitPlan, Splits, manifest, plan_splits, write_manifest
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS, Batch, EncodedRows

if TYPE_CHECKING:
    from collections.abc import Collection


class VerdictDataModule(pl.LightningDataModule):
    """Balanced phase shards of labelled answers, tokenised under one prompt and packed."""

    def __init__(
        self,
        source: str = "ad6398/nyu-dl-teach-maths-comp",
        phase: int = 1,
        splits: SplitPlan = SplitPlan(),  # noqa: B008  frozen
        prompt: str = "detailed",
        max_length: int = 2048,
        batch_size: int = 2,
        eval_tokens: int = EVAL_TOKENS,
        num_workers: int = 0,
        predict_source: str | None = None,
    ) -> None:
        """Keep the settings; nothing is read before `setup`.

        Args:
            source: Labelled rows: a Hub id, a file or folder (parquet, JSONL, CSV, Arrow), or `synthetic` for
                generated practice data (`synthetic:20000` for more rows).
            phase: Which shard this run trains on, from 1.
            splits: How the source is divided.
            prompt: `answer_only`, `explanation`, `detailed`, `chat` (instruction-tuned bases), or a YAML file with
                instruction, body and cue.
            max_length: Most tokens of a row; a longer solution loses its middle.
            batch_size: Rows of a micro-batch; an optimizer step takes this times trainer.accumulate_grad_batches.
            eval_tokens: Most tokens of a batch in validation, test and prediction.
            num_workers: Processes that pack batches ahead.
            predict_source: Rows to predict; default: the `test` split of `source`. Labels, where all rows have one,
                are only used to tell the accuracy.
        """
        super().__init__()
        if not 1 <= phase <= splits.phases:
            raise ValueError(f"data.phase={phase}: the splits have the phases 1 to {splits.phases}")
        if min(batch_size, eval_tokens, max_length) < 1:
            raise ValueError(
                f"batch_size={batch_size}, eval_tokens={eval_tokens} and max_length={max_length} must be positive"
            )
        self.source = source
        self.phase = phase
        self.plan = splits
        self.prompt = load_prompt(prompt)
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_tokens = eval_tokens
        self.num_workers = num_workers
        self.predict_source = predict_source or source
        self.encoded: dict[str, EncodedRows] = {}
        self.kinds: dict[str, np.ndarray | None] = {}
        """str [N], the kind of error of each row of `encoded`, where the source tells."""
        self.question_ids_N: np.ndarray | None = None
        """int64 [rows of the source], the question of each."""
        self.predict_labels_N: np.ndarray | None = None
        """bool [N], labels of the rows to predict where the source has them; None for a contest's test rows."""
        self.predict_fingerprint = ""
        """Fingerprint of the rows to predict."""
        self.predicted_rows: Collection[int] = ()
        """Source rows that need no prediction any more; to be set before the loader is made."""
        self._identity: dict[str, Any] = {}
        self._manifest: tuple[dict[str, Any], Splits] | None = None

    def setup(self, stage: str) -> None:
        """Read the source and tokenise the rows that `stage` needs, once.

        Raises:
            ValueError: The source, its rows or the split plan are not usable; the message says how to mend it.
        """
        assert self.trainer is not None
        self.prompt = render_chat(self.prompt, self.trainer.lightning_module.tokenizer)
        if stage == "predict":
            if "predict" not in self.encoded:
                rows = load_source(self.predict_source, split="test", labelled=None)
                self.encoded["predict"] = self._encode("predict", rows, np.arange(len(rows.table)))
                self.predict_fingerprint = rows.fingerprint
                # A contest's test rows carry one label throughout, which says nothing.
                if rows.labels_N is not None and len(np.unique(rows.labels_N)) == 2:
                    self.predict_labels_N = rows.labels_N
                elif self.trainer.is_global_zero:
                    why = "no labels" if rows.labels_N is None else "the same label in every row"
                    print(
                        f"{rows.name}: {why} in `{LABEL_COLUMN}`, so predict will not tell an accuracy"
                    )
            return
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]
        if all(name in self.encoded for name in needed):
            return
        source = load_source(self.source)
        assert source.labels_N is not None
        self.question_ids_N = source.question_ids_N
        splits = plan_splits(
            source.labels_N,
            source.question_ids_N if self.plan.group_by_question else None,
            self.plan,
        )
        shards = {
            "train": splits.train[self.phase - 1],
            "val": splits.val[self.phase - 1],
            "test": splits.test,
        }
        for name in needed:
            self.encoded[name] = self._encode(name, source, shards[name])
        if stage == "fit":
            self._report(source, splits)
        self._identity = {
            "the rows of data.source": source.fingerprint,
            "data.splits and data.phase": [dataclasses.asdict(self.plan), self.phase],
            # Lightning counts the position in micro-batches, so their size must not change under it.
            "micro-batches": f"{self.batch_size} rows x {self.trainer.accumulate_grad_batches}",
            "processes": self.trainer.world_size,
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Packed micro-batches of the phase's shard, from the trainer's position on."""
        assert self.trainer is not None
        if self._manifest is not None and self.trainer.is_global_zero:
            # Not before: until here a run may be refused, and must leave the manifest of the one before alone.
            write_manifest(Path(self.trainer.default_root_dir) / "manifest.json", *self._manifest)
        return self._loader(
            "train",
            TrainingOrder(
                lambda epoch: self._training_micro_batches(epoch), position=self._position
            ),
        )

    def longest_training_batch(self) -> Batch:
        """The largest micro-batch that this process will train on, known before as the order of rows is."""
        assert self.trainer is not None
        rows = self.encoded["train"]
        micro_batches = [
            micro_batch
            for epoch in range(max(1, self.trainer.max_epochs or 1))
            for micro_batch in self._training_micro_batches(epoch)
        ]
        if self.trainer.max_steps >= 0:
            micro_batches = micro_batches[
                : self.trainer.max_steps * self.trainer.accumulate_grad_batches
            ]
        return PackedRows(rows)[
            max(
                micro_batches,
                key=lambda micro_batch: rows.lengths_N[list(micro_batch.indices)].sum(),
            )
        ]

    def val_dataloader(self) -> DataLoader[Batch]:
        """The phase's validation rows, longest first."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The sub-test: rows that no phase trains on."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The rows to predict, longest first, without those that are predicted already."""
        rows = self.encoded["predict"]
        return self._evaluation_loader("predict", np.isin(rows.rows_N, list(self.predicted_rows)))

    @property
    def train_share(self) -> float:
        """Share of True (0 to 1) among the training rows."""
        return float(self.encoded["train"].labels_N.mean())

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of one epoch, the trainer's limit on batches respected."""
        assert self.trainer is not None
        batches, limit = len(self._training_micro_batches(0)), self.trainer.limit_train_batches
        if limit is not None:
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return -(-batches // self.trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of rows depends on; the position itself is the trainer's."""
        return self._identity

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other data.

        Raises:
            ValueError: A setting that decides which rows come when differs from the checkpoint's.
        """
        changed = [
            f"{name} was {state_dict.get(name)!r}, is {value!r}"
            for name, value in self._identity.items()
            if state_dict.get(name) != value
        ]
        if changed:
            raise ValueError(
                "this checkpoint cannot be resumed on other data: "
                + "; ".join(changed)
                + ". Put it back, or start the "
                "phase over with --fresh"
            )

    def _encode(self, name: str, source: Source, rows_N: np.ndarray) -> EncodedRows:
        assert self.trainer is not None
        chosen = source.table.select(rows_N)
        self.kinds[name] = (
            np.array(chosen[KIND_COLUMN][:]) if KIND_COLUMN in chosen.column_names else None
        )
        labels_N = None if source.labels_N is None else source.labels_N[rows_N]
        title = f"Tokenising {name}" if self.trainer.is_global_zero else None
        module = self.trainer.lightning_module
        encoded = cached(
            Path(self.trainer.default_root_dir) / "tokens" / name,
            {
                "rows": [source.fingerprint, hashlib.sha256(rows_N.tobytes()).hexdigest()],
                "prompt": self.prompt.fingerprint,
                "tokenizer": module.tokenizer_fingerprint,
                "max_length": self.max_length,
            },
            lambda: encode_rows(
                chosen.select_columns(list(TEXT_COLUMNS))[:],
                labels_N,
                rows_N,
                self.prompt,
                module.tokenizer,
                self.max_length,
                title,
            ),
            write=self.trainer.is_global_zero,
        )
        cut = int((encoded.truncated_N > 0).sum())
        if cut and self.trainer.is_global_zero:
            print(
                f"{name}: {cut} of {len(encoded)} rows ({cut / len(encoded):.1%}) were longer than "
                f"{self.max_length} tokens and lost the middle of their solution"
            )
        return encoded

    def _report(self, source: Source, splits: Splits) -> None:
        """Make the manifest and tell what the shard is."""
        assert self.trainer is not None and source.labels_N is not None
        if not self.trainer.is_global_zero:
            return
        self._manifest = (
            manifest(source.fingerprint, self.plan, splits, source.labels_N, source.question_ids_N),
            splits,
        )
        print(source.description)
        train = self.encoded["train"]
        mean = train.lengths_N.mean() + len(train.prefix_ids)
        print(
            f"phase {self.phase}: {len(train):,} training rows ({int(train.labels_N.sum()):,} correct, mean "
            f"{mean:.0f} tokens with the {len(train.prefix_ids)} of the shared instruction), "
            f"{len(self.encoded['val']):,} validation rows"
        )

    def _training_micro_batches(self, epoch: int) -> list[MicroBatch]:
        trainer = self.trainer
        assert trainer is not None
        rows = len(self.encoded["train"])
        order = epoch_order(rows, self.plan.seed, self.phase, epoch)
        return training_micro_batches(
            rows,
            self.batch_size,
            trainer.accumulate_grad_batches,
            order,
            trainer.global_rank,
            trainer.world_size,
        )

    def _position(self) -> tuple[int, int]:
        """Where training stands: (epoch, micro-batches of it that were processed).

        Lightning counts both and puts both into its checkpoints; a resumed run finds them restored when its loader is
        first iterated.
        """
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        return (
            loop.epoch_progress.current.processed,
            loop.epoch_loop.batch_progress.current.processed,
        )

    def _evaluation_loader(self, name: str, done_N: np.ndarray | None = None) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        micro_batches = evaluation_micro_batches(
            self.encoded[name], self.eval_tokens, trainer.global_rank, trainer.world_size, done_N
        )
        return self._loader(name, micro_batches)

    def _loader(
        self, name: str, micro_batches: TrainingOrder | list[MicroBatch]
    ) -> DataLoader[Batch]:
        return DataLoader(
            PackedRows(self.encoded[name]),
            sampler=micro_batches,
            batch_size=None,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            # Its own generator: making an iterator must not draw from the stream that dropout uses.
            generator=torch.Generator().manual_seed(self.plan.seed),
            persistent_workers=self.num_workers > 0,
        )


def _as_is(batch: Any) -> Any:
    return batch
