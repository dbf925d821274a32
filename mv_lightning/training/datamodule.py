"""The data side of a run: one source, one phase's shard, one prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from mv_lightning.artifacts.layout import PhaseFolder
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
from mv_lightning.data.mixture import SourceSettings, load_sources
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import Source, load_source
from mv_lightning.data.splits import (
    SplitPlan,
    Splits,
    check_held_out,
    manifest,
    plan_splits,
    write_manifest,
)
from mv_lightning.formatting import setting_differences
from mv_lightning.hashing import sha256_bytes
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.model.fingerprints import tokenizer_fingerprint
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS, Batch, EncodedRows, Split

SPLITS_OF_STAGE = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class VerdictDataModule(pl.LightningDataModule):
    """Balanced phase shards of labelled answers, tokenised under one prompt and packed."""

    def __init__(
        self,
        source: str | list[SourceSettings] = "ad6398/nyu-dl-teach-maths-comp",
        phase: int = 1,
        splits: SplitPlan = SplitPlan(),  # noqa: B008  frozen
        prompt: str | None = "detailed",
        max_length: int | None = 2048,
        batch_size: int = 2,
        eval_tokens: int = EVAL_TOKENS,
        num_workers: int = 0,
        *,
        base: str,
        run_dir: str,
        predict_source: str | None = None,
        id_column: str | None = None,
    ) -> None:
        """Keep the settings; nothing is read before `setup`.

        Args:
            source: Labelled rows: a Hub id, a file or folder (parquet, JSONL, CSV, Arrow), or
                `synthetic` for generated rows (`synthetic:20000` for another number of them). Or a
                list of sources, each with a path and if needed name, rows or share, and columns.
            phase: Which shard this run trains on, from 1.
            splits: How the source is divided.
            prompt: `answer_only`, `explanation`, `detailed`, `chat` (for instruction-tuned bases),
                or a YAML file with instruction, body and cue. null is the prompt that the adapter
                was trained with, the default outside `fit`.
            max_length: Maximum tokens of a row; a longer solution loses its middle. null is that of
                the adapter, the default outside `fit`.
            batch_size: Rows of a micro-batch. An optimizer step takes this times
                trainer.accumulate_grad_batches.
            eval_tokens: Maximum tokens of a batch in validation, test and prediction.
            num_workers: Processes that pack batches ahead.
            base: The base model, whose tokenizer is used; see `BaseSettings.name`.
            run_dir: Folder of the run; tokenised rows and the manifest of the splits are stored
                there.
            predict_source: See `PredictSettings.source`.
            id_column: See `PredictSettings.id_column`.
        """
        super().__init__()
        if not 1 <= phase <= splits.phases:
            raise ValueError(
                f"expected data.phase to be from 1 to {splits.phases}, the number of phases in "
                f"data.splits, got {phase}"
            )
        if prompt is None or max_length is None:
            raise ValueError(
                "expected data.prompt and data.max_length, got null without an adapter to take "
                "them from. Set both, or model.init_from"
            )
        if min(batch_size, eval_tokens, max_length) < 1:
            raise ValueError(
                "expected data.batch_size, data.eval_tokens and data.max_length to be positive, "
                f"got {batch_size}, {eval_tokens} and {max_length}"
            )
        self.source = source
        self.phase = phase
        self.plan = splits
        self.prompt = load_prompt(prompt)
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_tokens = eval_tokens
        self.num_workers = num_workers
        self.base = BaseSettings(name=base)
        self.folder = PhaseFolder(Path(run_dir), phase)
        self.predict_source = predict_source or source
        self.id_column = id_column
        self.splits: dict[str, Split] = {}
        """The rows by split: train, val, test, predict. Those that the stage needs."""
        self.predict_rows: Source | None = None
        """The rows to predict, with their labels if the source has useful ones."""
        self._source: Source | None = None
        self._drawn: Splits | None = None
        self._predicted: Collection[int] = ()

    def setup(self, stage: str) -> None:
        """Read the source and tokenise the rows that `stage` needs, once.

        Raises:
            ValueError: The source, its rows or the split plan cannot be used.
        """
        needed = SPLITS_OF_STAGE[stage]
        if all(name in self.splits for name in needed):
            return
        tokenizer = load_tokenizer(self.base)
        self.prompt = render_chat(self.prompt, tokenizer)
        if stage == "predict":
            self._set_up_prediction(tokenizer)
            return
        source = load_sources(self.source)
        assert source.labels_N is not None
        groups_N = source.question_ids_N if self.plan.group_by_question else None
        drawn = plan_splits(source.labels_N, groups_N, self.plan, source.source_N, source.shares)
        rows = {
            "train": drawn.train[self.phase - 1],
            "val": drawn.val[self.phase - 1],
            "test": drawn.test,
        }
        if stage != "fit":
            check_held_out(needed[0], rows[needed[0]], self.plan)
        for name in needed:
            self.splits[name] = self._encode(name, source, rows[name], tokenizer)
            if name != "train" and not self.plan.group_by_question:
                self._mark_seen_questions(name, source, drawn)
        self._source, self._drawn = source, drawn
        if stage == "fit":
            self._print_summary(source)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return packed micro-batches of the phase's shard, from the trainer's position on."""
        order = TrainingOrder(self._training_micro_batches, position=self._position)
        return self._loader("train", order)

    def longest_training_batch(self) -> Batch:
        """Return the largest micro-batch that this process will train on."""
        assert self.trainer is not None
        rows = self.splits["train"].encoded
        micro_batches = []
        for epoch in range(max(1, self.trainer.max_epochs or 1)):
            micro_batches += self._training_micro_batches(epoch)
        if self.trainer.max_steps >= 0:
            last = self.trainer.max_steps * self.trainer.accumulate_grad_batches
            micro_batches = micro_batches[:last]

        def tokens(micro_batch: MicroBatch) -> int:
            return int(rows.lengths_N[list(micro_batch.indices)].sum())

        return PackedRows(rows)[max(micro_batches, key=tokens)]

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the phase's validation rows, longest first."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the held-out test rows, longest first."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the rows to predict, longest first, without those that are predicted already."""
        rows_N = self.splits["predict"].encoded.rows_N
        return self._evaluation_loader("predict", np.isin(rows_N, list(self._predicted)))

    def exclude_from_prediction(self, rows: Collection[int]) -> None:
        """Leave rows out of `predict_dataloader`.

        Args:
            rows: Row numbers of the source that an interrupted prediction has stored.
        """
        self._predicted = rows

    def write_manifest(self) -> None:
        """Write which rows were drawn for which split into the phase's folder."""
        assert self._source is not None and self._drawn is not None
        assert self._source.labels_N is not None
        values = manifest(
            self._source.fingerprint,
            self.plan,
            self._drawn,
            self._source.labels_N,
            self._source.question_ids_N,
            self._source.source_N,
            self._source.source_names,
        )
        write_manifest(self.folder.manifest, values, self._drawn)

    @property
    def train_share(self) -> float:
        """Share of True (0 to 1) among the training rows."""
        return float(self.splits["train"].encoded.labels_N.mean())

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of one epoch, `trainer.limit_train_batches` respected."""
        assert self.trainer is not None
        batches = len(self._training_micro_batches(0))
        limit = self.trainer.limit_train_batches
        if isinstance(limit, int):
            batches = min(batches, limit)
        elif limit is not None:
            batches = int(batches * limit)
        return -(-batches // self.trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of rows depends on. The position itself is the trainer's."""
        assert self.trainer is not None and self._source is not None
        accumulate = self.trainer.accumulate_grad_batches
        return {
            "the rows of data.source": self._source.fingerprint,
            "data.splits and data.phase": [dataclasses.asdict(self.plan), self.phase],
            # Lightning counts the position in micro-batches, so their size must not change.
            "the micro-batches": f"{self.batch_size} rows x {accumulate}",
            "the number of processes": self.trainer.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other data.

        Raises:
            ValueError: A setting that decides the order of rows differs from the checkpoint's.
        """
        differences = setting_differences(state_dict, self.state_dict())
        if differences:
            raise ValueError(
                f"this checkpoint cannot be resumed on other data: {differences}. Restore the "
                "setting, or start the phase again with --fresh"
            )

    def _set_up_prediction(self, tokenizer: Any) -> None:
        assert self.trainer is not None
        if not isinstance(self.predict_source, str):
            raise ValueError(
                "expected the rows to predict, got several sources in data.source. Set "
                "predict.source to a file, a folder or a Hub dataset"
            )
        rows = load_source(
            self.predict_source, split="test", labelled=None, id_column=self.id_column
        )
        every_row_N = np.arange(len(rows.ids))  # unusable IDs are refused before the work begins
        self.splits["predict"] = self._encode("predict", rows, every_row_N, tokenizer)
        labels_N, reason = rows.labels_N, ""
        if labels_N is None:
            reason = "no labels"
        elif len(np.unique(labels_N)) < 2:  # a contest's test rows carry one label throughout
            reason = "the same label in every row"
        if self.trainer.is_global_zero:
            column = rows.id_column
            identity = column.name if column else "their number"
            print(f"{rows.description}; rows identified by {identity}")
        if reason and self.trainer.is_global_zero:
            print(f"{rows.name}: {reason} in `{LABEL_COLUMN}`, so no accuracy will be reported")
        self.predict_rows = dataclasses.replace(rows, labels_N=None if reason else labels_N)

    def _encode(self, name: str, source: Source, rows_N: np.ndarray, tokenizer: Any) -> Split:
        assert self.trainer is not None
        chosen = source.table.select(rows_N)
        labels_N = None if source.labels_N is None else source.labels_N[rows_N]
        title = f"Tokenising {name}" if self.trainer.is_global_zero else None

        def encode() -> EncodedRows:
            texts = chosen.select_columns(list(TEXT_COLUMNS))[:]
            return encode_rows(
                texts, labels_N, rows_N, self.prompt, tokenizer, self.max_length, title
            )

        key = {
            "rows": [source.fingerprint, sha256_bytes(rows_N.tobytes())],
            "prompt": self.prompt.fingerprint,
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "max_length": self.max_length,
        }
        write = self.trainer.is_global_zero and not self.trainer.fast_dev_run
        encoded = cached(self.folder.tokens / name, key, encode, write=write)
        self._print_truncation(name, encoded)
        has_kinds = KIND_COLUMN in chosen.column_names
        kinds_N = np.array(chosen[KIND_COLUMN][:]) if has_kinds else None
        sources_N = None
        if source.source_N is not None:
            sources_N = np.array(source.source_names)[source.source_N[rows_N]]
        return Split(
            encoded,
            source.question_ids_N[rows_N],
            kinds_N=kinds_N,
            sources_N=sources_N,
            ids=_row_ids(source, rows_N),
        )

    def _mark_seen_questions(self, name: str, source: Source, drawn: Splits) -> None:
        """Find the rows whose question this phase or one before it trains on."""
        train_N = np.concatenate(drawn.train[: self.phase])
        split = self.splits[name]
        seen_N = np.isin(split.question_ids_N, source.question_ids_N[train_N])
        self.splits[name] = dataclasses.replace(split, seen_N=seen_N)

    def _print_truncation(self, name: str, encoded: EncodedRows) -> None:
        assert self.trainer is not None
        truncated = int((encoded.truncated_N > 0).sum())
        if truncated and self.trainer.is_global_zero:
            print(
                f"{name}: {truncated} of {len(encoded)} rows ({truncated / len(encoded):.1%}) were "
                f"longer than {self.max_length} tokens and lost the middle of their solution"
            )

    def _print_summary(self, source: Source) -> None:
        assert self.trainer is not None
        if not self.trainer.is_global_zero:
            return
        print(source.description)
        train, val = self.splits["train"].encoded, self.splits["val"].encoded
        mean = train.lengths_N.mean() + len(train.prefix_ids)
        print(
            f"phase {self.phase}: {len(train):,} training rows ({int(train.labels_N.sum()):,} "
            f"correct, mean {mean:.0f} tokens with the {len(train.prefix_ids)} of the shared "
            f"instruction), {len(val):,} validation rows"
        )

    def _training_micro_batches(self, epoch: int) -> list[MicroBatch]:
        trainer = self.trainer
        assert trainer is not None
        rows = len(self.splits["train"].encoded)
        return training_micro_batches(
            rows,
            self.batch_size,
            trainer.accumulate_grad_batches,
            epoch_order(rows, self.plan.seed, self.phase, epoch),
            trainer.global_rank,
            trainer.world_size,
        )

    def _position(self) -> tuple[int, int]:
        """Return the position of the training: (epoch, micro-batches of it that were processed).

        Lightning counts both and saves both in its checkpoints. They are restored before the loader
        of a resumed run is first iterated.
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
            self.splits[name].encoded,
            self.eval_tokens,
            trainer.global_rank,
            trainer.world_size,
            done_N,
        )
        return self._loader(name, micro_batches)

    def _loader(self, name: str, order: TrainingOrder | list[MicroBatch]) -> DataLoader[Batch]:
        return DataLoader(
            PackedRows(self.splits[name].encoded),
            sampler=order,
            batch_size=None,
            collate_fn=_identity,
            num_workers=self.num_workers,
            # Its own generator: making an iterator must not draw from the stream that dropout uses.
            generator=torch.Generator().manual_seed(self.plan.seed),
            persistent_workers=self.num_workers > 0,
        )


def _identity(batch: Any) -> Any:
    return batch


def _row_ids(source: Source, rows_N: np.ndarray) -> list[str] | None:
    """Return the IDs of rows; None where they are numbered, or have IDs that are not unique.

    Such IDs prevent a prediction, but not a training.
    """
    if source.id_column is None:
        return None
    try:
        ids = source.ids
    except ValueError:
        return None
    return [ids[row] for row in rows_N.tolist()]
