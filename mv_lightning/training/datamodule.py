"""The data side of a run: one source, one phase's shard, one prompt."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.data.adversarial import adversarial_source
from mv_lightning.data.batching import (
    EVAL_TOKENS,
    MicroBatch,
    MicroBatches,
    PackedRows,
    PackingMode,
    PackRows,
    TrainingOrder,
    evaluation_micro_batches,
    pack,
    pack_contaminated,
    packed_tokens,
    pad,
    row_order,
    training_micro_batches,
)
from mv_lightning.data.chat import render_chat
from mv_lightning.data.encoding import RowsTooLong, verdict_token_ids
from mv_lightning.data.mixture import SourceSettings, load_sources
from mv_lightning.data.prompts import Prompt, load_prompt
from mv_lightning.data.question_order import question_order
from mv_lightning.data.sources import Source, load_source
from mv_lightning.data.splits import (
    SplitPlan,
    Splits,
    check_held_out,
    manifest,
    plan_splits,
    write_manifest,
)
from mv_lightning.data.summaries import Summarizer, SummarySettings
from mv_lightning.formatting import setting_differences
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.schema import LABEL_COLUMN, Batch, Split
from mv_lightning.training.split_encoding import SplitEncoder

SPLITS_OF_STAGE = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
_NO_ADAPTER = (
    "expected data.prompt and data.max_length, got null without an adapter to take them from. Set "
    "both, or model.init_from"
)


class VerdictDataModule(pl.LightningDataModule):
    """Balanced phase shards of labelled answers, tokenised under one prompt and packed.

    Args:
        source: Labelled rows: a Hub id, a file or folder (parquet, JSONL, CSV, Arrow), or
            `synthetic` for generated rows (`synthetic:20000` for another number of them,
            `synthetic:20000:1` for one level of difficulty). Or a list of sources, each with a
            path and if needed name, rows or share, and columns.
        phase: Which shard this run trains on, from 1.
        splits: How the source is divided.
        prompt: `answer_only`, `explanation`, `detailed`, `chat` (for instruction-tuned bases),
            or a YAML file with instruction, body and cue. null: that of the adapter, the
            default outside `fit`.
        max_length: Maximum tokens; a longer solution loses its middle. null: as for prompt.
        batch_size: Rows of a micro-batch; trainer.accumulate_grad_batches of these are a step.
        stratify: Give every optimizer step the class proportions of the whole shard, to within one
            row; with model.pair_weight, as nearly as whole questions allow.
        packing: How the rows of a micro-batch are laid out. `clean`: end to end, none sees
            another. `contaminated`: each sees the rows before it and their labels, as in the
            plain packing of the contest report; for an ablation, in training only. `none`:
            padded to the longest; the results of `clean` at a higher cost.
        summarize: Long solutions replaced by summaries.
        eval_tokens: Maximum tokens of a batch in validation, test and prediction.
        adversarial_rows: Rows of each check of `test` whether the verifier can be fooled: wrong
            rows with a meaningless solution, with an instruction to say True, and so on. 0:
            no checks.
        num_workers: Processes that pack batches ahead.
        base: The base model, whose tokenizer is used; see `BaseSettings.name`.
        run_dir: Folder of the run, for tokenised rows and the manifest of the splits.
        predict_source, id_column, rows_too_long: See `PredictSettings`.
        pair_weight: See `VerdictModule`. Above 0, the rows of a question are kept together.
    """

    def __init__(
        self,
        source: str | list[SourceSettings] = "ad6398/nyu-dl-teach-maths-comp",
        phase: int = 1,
        splits: SplitPlan = SplitPlan(),  # noqa: B008  frozen
        prompt: str | None = "detailed",
        max_length: int | None = 2048,
        batch_size: int = 2,
        stratify: bool = False,
        packing: PackingMode = "clean",
        summarize: SummarySettings = SummarySettings(),  # noqa: B008
        eval_tokens: int = EVAL_TOKENS,
        adversarial_rows: int = 100,
        num_workers: int = 0,
        *,
        base: str,
        run_dir: str,
        predict_source: str | None = None,
        id_column: str | None = None,
        pair_weight: float = 0.0,
        rows_too_long: RowsTooLong = "error",
    ) -> None:
        """Keep the settings; nothing is read before `setup`."""
        super().__init__()
        self.prepare_data_per_node = False
        if prompt is None or max_length is None:
            raise ValueError(_NO_ADAPTER)
        _check_numbers(phase, splits.phases, batch_size, eval_tokens, max_length)
        _check_batches(batch_size, pair_weight, packing, adversarial_rows)
        self.source = source
        self.phase = phase
        self.plan = splits
        self.prompt = load_prompt(prompt)
        self.max_length = max_length
        self.batch_size, self.stratify = batch_size, stratify
        self.packing = packing
        self.eval_tokens = eval_tokens
        self.adversarial_rows = adversarial_rows
        self.num_workers = num_workers
        self.base = BaseSettings(name=base)
        self.folder = PhaseFolder(Path(run_dir), phase)
        self.tokens = self.folder.tokens
        """Folder of the tokenised rows; runs on the same rows may share one."""
        summaries = RunFolder(self.folder.run).summaries
        self.summarizer = Summarizer(summarize, summaries) if summarize.model is not None else None
        """Replaces long solutions by summaries; None where none are."""
        self.predict_source = predict_source or source
        self.id_column = id_column
        self.pair_weight = pair_weight
        self.rows_too_long = rows_too_long
        self.splits: dict[str, Split] = {}
        """The rows by split: train, val, test, predict, and `adversarial` beside test. Those that
        the stage needs."""
        self.predict_rows: Source | None = None
        """The rows to predict, with their labels if the source has useful ones."""
        self._source: Source | None = None
        self._drawn: Splits | None = None
        self._predicted_N: np.ndarray | None = None
        self._error: Exception | None = None
        self._row_ends: tuple[tuple[int, ...], ...] = ()

    def prepare_data(self) -> None:
        """Set up the first process; the others wait, for any time, and read the tokens that it
        stored. An error is kept for `setup`, where the others learn of it.
        """
        assert self.trainer is not None and self.trainer.state.fn is not None
        try:
            self._set_up(self.trainer.state.fn)
        except Exception as error:
            self._error = error

    def setup(self, stage: str) -> None:
        """Read the source and tokenise the rows that `stage` needs, once.

        Raises:
            ValueError: The source, its rows or the split plan cannot be used.
        """
        assert self.trainer is not None
        message = None if self._error is None else str(self._error)
        message = self.trainer.strategy.broadcast(message)
        if message is not None:
            raise self._error or ValueError(message)
        self._set_up(stage)

    def _set_up(self, stage: str) -> None:
        needed = SPLITS_OF_STAGE[stage]
        if all(name in self.splits for name in needed):
            return
        tokenizer = load_tokenizer(self.base)
        self.prompt = render_chat(self.prompt, tokenizer)
        if stage == "predict":
            self._set_up_prediction(tokenizer)
            return
        if self.packing == "contaminated":
            self._row_ends = _row_ends(tokenizer, self.prompt)
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
        encoder = self._encoder(tokenizer)
        trained_N = np.concatenate(drawn.train[: self.phase])
        for name in needed:
            compared = name != "train" and not self.plan.group_by_question
            self.splits[name] = encoder.encode(
                name, source, rows[name], trained_N if compared else None
            )
        if stage == "test" and self.adversarial_rows:
            self._encode_adversarial(encoder, source, rows["test"])
        self._source, self._drawn = source, drawn
        if stage == "fit":
            self._check_processes()
            self._print_summary(source)
            if self.pair_weight:
                self._check_pairs()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return packed micro-batches of the phase's shard, from the trainer's position on."""
        order = TrainingOrder(self._training_micro_batches, position=self._position)
        return self._loader(self._training_rows(), order)

    def training_order(self, epoch: int) -> np.ndarray:
        """Return the order of the shard's rows in an epoch: int64 [N], a permutation.

        Args:
            epoch: The epoch, from 0.
        """
        train = self.splits["train"]
        place = (self.plan.seed, self.phase, epoch)
        is_right_N = train.encoded.labels_N == 1
        if self.pair_weight:
            sizes = (self.batch_size, self.stratify)
            return question_order(train.question_ids_N, is_right_N, *sizes, *place)
        return row_order(is_right_N, self.stratify, *place)

    def longest_training_batch(self) -> Batch:
        """Return the largest micro-batch that this process will train on."""
        assert self.trainer is not None
        rows = self._training_rows()
        epochs = range(max(1, self.trainer.max_epochs or 1))
        last = None
        if self.trainer.max_steps >= 0:
            last = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        every = itertools.chain.from_iterable(map(self._training_micro_batches, epochs))

        def tokens(micro_batch: MicroBatch) -> int:
            indices_B = np.array(micro_batch.indices)
            if self.packing == "clean":
                return packed_tokens(rows.encoded, indices_B)
            whole_B = len(rows.encoded.prefix_ids) + rows.encoded.lengths_N[indices_B]
            padded = len(whole_B) * whole_B.max()
            return int(padded if self.packing == "none" else whole_B.sum())

        return rows[max(itertools.islice(every, last), key=tokens)]

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the phase's validation rows, longest first."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the held-out test rows, and the adversarial ones if there are any, longest
        first."""
        names = ["test", "adversarial"] if "adversarial" in self.splits else ["test"]
        return [self._evaluation_loader(name) for name in names]

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the rows to predict, longest first, without those that are predicted already."""
        done_N = self._predicted_N
        if done_N is not None:
            done_N = done_N[self.splits["predict"].encoded.rows_N]
        return self._evaluation_loader("predict", done_N)

    def exclude_from_prediction(self, predicted_N: np.ndarray) -> None:
        """Leave rows out of `predict_dataloader`.

        Args:
            predicted_N: bool [N], whether an interrupted prediction has stored the source's row.
        """
        self._predicted_N = predicted_N

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
    def micro_batches(self) -> int:
        """Micro-batches of an epoch for one process."""
        return len(self._training_micro_batches(0))

    @property
    def compares_rows(self) -> bool:
        """Whether the loss depends on which rows share a micro-batch."""
        return bool(self.pair_weight) or self.packing == "contaminated"

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of one epoch, `trainer.limit_train_batches` respected."""
        assert self.trainer is not None
        batches = self.micro_batches
        limit = self.trainer.limit_train_batches
        if isinstance(limit, int):
            batches = min(batches, limit)
        elif limit is not None:
            batches = int(batches * limit)
        return -(-batches // self.trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of rows depends on. The position itself is the trainer's."""
        if self._source is None:  # a prediction, which may take its weights from a checkpoint
            return {}
        return {
            "the rows of data.source": self._source.fingerprint,
            "data.splits and data.phase": [dataclasses.asdict(self.plan), self.phase],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other data. `StepRows` compares the rows of a step.

        Raises:
            ValueError: A setting that decides the order of rows differs from the checkpoint's.
        """
        differences = setting_differences(state_dict, self.state_dict())
        if differences:
            raise ValueError(
                f"this checkpoint cannot be resumed on other data: {differences}. Restore the "
                "setting, or start the phase again with --fresh"
            )

    def _encode_adversarial(
        self, encoder: SplitEncoder, source: Source, rows_N: np.ndarray
    ) -> None:
        adversarial = adversarial_source(source, rows_N, self.adversarial_rows, self.plan.seed)
        if adversarial is not None:
            every_row_M = np.arange(len(adversarial.table))
            self.splits["adversarial"] = encoder.encode("adversarial", adversarial, every_row_M)

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
        encode = partial(self._encoder(tokenizer).encode, "predict", rows)
        every_row_N = np.arange(len(rows.ids))  # unusable IDs are refused before the work begins
        split = encode(every_row_N, rows_too_long=self.rows_too_long)
        if not len(split.encoded):
            encode(every_row_N)  # fails, and names them
        self.splits["predict"] = split
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

    def _encoder(self, tokenizer: Any) -> SplitEncoder:
        assert self.trainer is not None
        first = self.trainer.is_global_zero
        write = first and not self.trainer.fast_dev_run
        return SplitEncoder(
            self.prompt,
            tokenizer,
            self.max_length,
            self.tokens,
            write,
            verbose=first,
            summarizer=self.summarizer,
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

    def _check_processes(self) -> None:
        assert self.trainer is not None
        rows, world = len(self.splits["train"].encoded), self.trainer.world_size
        if world > rows:
            raise ValueError(
                f"expected at least one training row for each process, got {rows:,} rows and "
                f"{world} processes. Lower trainer.devices or trainer.num_nodes, or raise "
                "data.splits.rows"
            )

    def _check_pairs(self) -> None:
        assert self.trainer is not None
        train = self.splits["train"]
        labels_N = train.encoded.labels_N
        both = np.intersect1d(
            train.question_ids_N[labels_N == 1], train.question_ids_N[labels_N == 0]
        )
        if not len(both):
            raise ValueError(
                f"model.pair_weight={self.pair_weight} compares right and wrong solutions of one "
                f"question, but none of the questions of the {len(labels_N):,} training rows has "
                "both. Set data.splits.group_by_question=true, train on a source with several "
                "solutions of a question, or set model.pair_weight=0"
            )
        if self.trainer.is_global_zero:
            rows = int(np.isin(train.question_ids_N, both).sum())
            print(f"pair loss: {rows:,} of these training rows are of questions with both classes")

    def _training_micro_batches(self, epoch: int) -> MicroBatches:
        trainer = self.trainer
        assert trainer is not None
        return training_micro_batches(
            self.splits["train"].encoded.lengths_N,
            self.batch_size,
            trainer.accumulate_grad_batches,
            self.training_order(epoch),
            trainer.global_rank,
            trainer.world_size,
            self.compares_rows,
        )

    def _training_rows(self) -> PackedRows:
        train = self.splits["train"]
        question_ids_N = train.question_ids_N if self.pair_weight else None
        return PackedRows(train.encoded, question_ids_N, self._pack_rows("train"))

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
            padded=self.packing == "none",
        )
        rows = PackedRows(self.splits[name].encoded, pack_rows=self._pack_rows(name))
        return self._loader(rows, micro_batches)

    def _loader(self, rows: PackedRows, order: TrainingOrder | MicroBatches) -> DataLoader[Batch]:
        return DataLoader(
            rows,
            sampler=order,
            batch_size=None,
            collate_fn=_identity,
            num_workers=self.num_workers,
            # Its own generator: making an iterator must not draw from the stream that dropout uses.
            generator=torch.Generator().manual_seed(self.plan.seed),
            persistent_workers=self.num_workers > 0,
        )

    def _pack_rows(self, name: str) -> PackRows:
        """How the rows of a split are laid out: the verdict of a row is always predicted alone."""
        if self.packing == "none":
            return pad
        if self.packing == "contaminated" and name == "train":
            return partial(pack_contaminated, ends=self._row_ends)
        return pack


def _identity(batch: Any) -> Any:
    return batch


def _row_ends(tokenizer: Any, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """For the labels 0 and 1, what follows a row in a text: its verdict, and end-of-text."""
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return tuple((verdict, *end) for verdict in verdict_token_ids(tokenizer, prompt))


def _check_numbers(
    phase: int, phases: int, batch_size: int, eval_tokens: int, max_length: int
) -> None:
    if not 1 <= phase <= phases:
        raise ValueError(
            f"expected data.phase to be from 1 to {phases}, the number of phases in data.splits, "
            f"got {phase}"
        )
    if min(batch_size, eval_tokens, max_length) < 1:
        raise ValueError(
            "expected data.batch_size, data.eval_tokens and data.max_length to be positive, got "
            f"{batch_size}, {eval_tokens} and {max_length}"
        )


def _check_batches(
    batch_size: int, pair_weight: float, packing: PackingMode, adversarial_rows: int
) -> None:
    if pair_weight and batch_size == 1:
        raise ValueError(
            f"model.pair_weight={pair_weight} compares rows of a micro-batch, but "
            "data.batch_size=1 leaves each by itself. Raise data.batch_size (and lower "
            "trainer.accumulate_grad_batches by the same factor), or set model.pair_weight=0"
        )
    if adversarial_rows < 0:
        raise ValueError(f"expected data.adversarial_rows to be at least 0, got {adversarial_rows}")
    if packing == "contaminated" and batch_size == 1:
        raise ValueError(
            "expected data.batch_size of at least 2 with data.packing=contaminated, got 1: a "
            "row alone sees no other. Raise it, or set data.packing=clean"
        )
