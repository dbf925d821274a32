"""The model side of a run: a quantised base, its adapters, and the verdict."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch

from mv_lightning.data.chat import render_chat
from mv_lightning.data.encoding import verdict_token_ids
from mv_lightning.data.prompts import Prompt, load_prompt
from mv_lightning.model import adapter_files, adapters, base, generate, optim, verdict
from mv_lightning.model.activation_checkpointing import choose_checkpointing
from mv_lightning.model.fingerprints import base_fingerprint, tokenizer_fingerprint
from mv_lightning.model.linear_head import HeadKind
from mv_lightning.model.precision import compute_dtype
from mv_lightning.schema import UNLABELLED, Batch
from mv_lightning.training.sharded_base import ShardedBaseStrategy
from mv_lightning.training.stopping import planned_steps

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class RowLosses:
    """The losses and the log-odds of the rows of a training micro-batch."""

    total_B: torch.Tensor
    """fp32 [B], what is minimised."""
    odds_B: torch.Tensor
    """fp32 [B], log-odds of True."""
    pair_B: torch.Tensor | None = None
    """fp32 [B], the pair loss within the total, before its weight; None without one."""


class VerdictModule(pl.LightningModule):
    """Fine-tunes adapters on a 4-bit base model so that the token after the prompt is the
    verdict.

    Args:
        base: The base model.
        lora: The adapters.
        optim: Optimizer and schedule.
        head: What computes the log-odds: `verdict`, the rows of the two verdict tokens in the
            base's own head; `linear`, a new linear layer, trained from zero with the binary
            cross-entropy and saved beside the adapter.
        prompt_loss_weight: Weight of each prompt token's loss relative to the verdict's. 0
            trains on the verdict only, 1 is plain supervised fine-tuning on every token.
        pair_weight: Weight of a second loss of each row, which compares its log-odds with those
            of the rows of the same question with the other label (Bradley-Terry), relative to
            the verdict's. Above 0, the rows of a question are kept in one micro-batch.
        label_smoothing: Share of a label (0 to below 1) that is spread evenly over True and
            False: with 0.1, the target of the right verdict is 0.95.
        init_from: Folder of the adapter to start from, its Hub id (`owner/name` or
            `owner/name@revision`), or `previous` for that of the phase before. Without it `fit`
            starts with new adapters, and the other commands use the adapter of their own phase.
            With `none` they use the base as it is, and write into the folder `untrained` of the
            run.
        prompt: As for the data module; saved with the adapter.
        max_length: As for the data module; saved with the adapter.
        predict_mode: See `PredictSettings.mode`.
    """

    load_base: Callable[..., PreTrainedModel] = staticmethod(base.load_base)
    """How the base is loaded; a process that runs several phases may keep it, see `sharing.py`."""

    def __init__(
        self,
        base: base.BaseSettings = base.BaseSettings(),  # noqa: B008  frozen
        lora: adapters.LoraSettings = adapters.LoraSettings(),  # noqa: B008
        optim: optim.OptimSettings = optim.OptimSettings(),  # noqa: B008
        head: HeadKind = "verdict",
        prompt_loss_weight: float = 0.0,
        pair_weight: float = 0.0,
        label_smoothing: float = 0.0,
        init_from: str | None = None,
        *,
        prompt: str | None,
        max_length: int | None,
        predict_mode: Literal["verdict", "generate"] = "verdict",
    ) -> None:
        """Keep the settings; weights are loaded in `configure_model`."""
        super().__init__()
        assert prompt is not None and max_length is not None, "the data module refuses this"
        _check_losses(prompt_loss_weight, pair_weight, label_smoothing)
        _check_head(head, predict_mode)
        self.base_settings = base
        self.lora_settings = lora
        self.optim_settings = optim
        self.head: HeadKind = head
        self.prompt_loss_weight = prompt_loss_weight
        self.pair_weight = pair_weight
        self.label_smoothing = label_smoothing
        self.init_from = init_from
        self._prompt = load_prompt(prompt)
        self.max_length = max_length
        self.predict_mode = predict_mode
        self.adapted: PeftModel | None = None
        # The checkpoint holds adapters only; on_load_checkpoint compares their names itself.
        self.strict_loading = False
        self._base_fingerprint = ""
        self._step_sums: torch.Tensor | None = None
        self._step_losses: list[tuple[torch.Tensor, torch.Tensor]] = []

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return base.load_tokenizer(self.base_settings)

    @functools.cached_property
    def tokenizer_fingerprint(self) -> str:
        """Hash of the vocabulary; computed once, as it goes over all of its tokens."""
        return tokenizer_fingerprint(self.tokenizer)

    @functools.cached_property
    def prompt(self) -> Prompt:
        """The prompt, with the chat template of the base around it if it asks for one."""
        return render_chat(self._prompt, self.tokenizer)

    @functools.cached_property
    def verdict_ids(self) -> tuple[int, int]:
        """Token ids of (False, True)."""
        return verdict_token_ids(self.tokenizer, self.prompt)

    @property
    def causal_model(self) -> PreTrainedModel:
        """The base model with its adapters."""
        model: PreTrainedModel = self._adapted().get_base_model()
        return model

    def configure_model(self) -> None:
        """Load the base, attach the adapters, and start from `init_from` if it is given.

        Raises:
            ValueError: The base cannot be loaded, or the adapter was trained on another base or
                with another prompt.
        """
        if self.adapted is not None:
            return
        _ = self.verdict_ids  # an unusable vocabulary must be refused before gigabytes are read
        device = self.trainer.strategy.root_device
        dtype = compute_dtype(self.trainer.precision, device)
        if isinstance(self.trainer.strategy, ShardedBaseStrategy):
            device = torch.device("cpu")  # a GPU holds a part of it only
        init_from = Path(self.init_from) if self.init_from else None
        metadata = adapter_files.read_metadata(init_from) if init_from else None
        # Weights that are loaded below, or from a checkpoint, need no LoftQ initialisation.
        fresh = init_from is None and self.trainer.ckpt_path is None
        lora = dataclasses.replace(self.lora_settings, loftq=self.lora_settings.loftq and fresh)
        # The adapters are drawn from a generator state of their own, so that they do not depend on
        # how the base was made; nor does what is drawn later.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model = self.load_base(self.base_settings, dtype, device)
            self._base_fingerprint = base_fingerprint(model)
            torch.manual_seed(torch.initial_seed() % 2**63)
            self.adapted = adapters.attach(model, lora, self.head)
        if init_from is not None and metadata is not None:
            adapter_files.check_compatible(metadata, self.metadata(), f"the adapter in {init_from}")
            adapter_files.load(self.adapted, init_from)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer of the adapters, and a schedule over the steps of this phase."""
        parameters = adapters.trained_parameters(self._adapted()).values()
        optimizer = optim.build_optimizer(parameters, self.optim_settings)
        schedule = optim.build_schedule(optimizer, self.optim_settings, planned_steps(self.trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the micro-batch's share of its optimizer step's mean loss.

        Lightning divides by the number of micro-batches and averages over processes. Both are
        undone here, so that the gradient of a step is the mean over its rows however they were
        sharded.
        """
        losses = self.losses(batch)
        loss_B = losses.total_B
        self._step_losses.append((batch.rows_B, loss_B.detach()))
        with torch.no_grad():
            right_B = (losses.odds_B > 0) == (batch.labels_B == 1)
            right = (right_B & (batch.labels_B != UNLABELLED)).sum()
            parts = [loss_B.sum(), right]
            if losses.pair_B is not None:
                parts.append(losses.pair_B.sum())
            sums = torch.stack(parts) / batch.step_rows
            self._step_sums = sums if self._step_sums is None else self._step_sums + sums
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return loss_B.sum() / batch.step_rows * scale

    def losses(self, batch: Batch) -> RowLosses:
        """Return the losses of the rows of a training micro-batch."""
        choose_checkpointing(
            self.causal_model, self.base_settings.gradient_checkpointing, len(batch.ids_T)
        )
        head = verdict.output_head(self.causal_model)
        hidden_TD = verdict.hidden_states(self.causal_model, batch)
        loss_B = verdict.verdict_loss(
            hidden_TD,
            head,
            batch,
            self.verdict_ids,
            self.prompt_loss_weight,
            self.label_smoothing,
        )
        odds_B = verdict.log_odds(hidden_TD, head, batch, self.verdict_ids)
        if not self.pair_weight:
            return RowLosses(loss_B, odds_B)
        assert batch.questions_B is not None, "the data module gives them where pairs are compared"
        pair_B = verdict.pair_loss(odds_B, batch.labels_B, batch.questions_B)
        return RowLosses(loss_B + self.pair_weight * pair_B, odds_B, pair_B)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the whole step: the mean over its rows, not over the last micro-batch.

        Raises:
            ValueError: The loss is not finite; the rows are named.
        """
        assert self._step_sums is not None
        loss, accuracy, *pair_loss = self.trainer.strategy.reduce(self._step_sums, reduce_op="sum")
        self._step_sums = None
        self._check_finite(loss)
        parameters = adapters.trained_parameters(self._adapted()).values()
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", accuracy, prog_bar=True)
        if pair_loss:
            self.log("train/pair_loss", pair_loss[0])
        self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
        self.log("train/lr", optimizer.param_groups[0]["lr"])

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Forget the gradients. Under several processes they are views of the buckets in which they
        are averaged, and are set to zero there: new ones would take as much memory again."""
        optimizer.zero_grad(set_to_none=self.trainer.world_size == 1)

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return row numbers, labels, log-odds and losses of the labelled rows: float64 [4, N]."""
        return self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> torch.Tensor:
        """Return the same as `validation_step`, for test rows and for adversarial ones."""
        return self._evaluate(batch)

    def predict_step(
        self, batch: Batch, batch_idx: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Return the row numbers [B], the log-odds [B], and in the mode `generate` the texts."""
        if self.predict_mode == "generate":
            new_BW = generate.generate(self.causal_model, batch, self.tokenizer.eos_token_id)
            texts = self.tokenizer.batch_decode(new_BW, skip_special_tokens=True)
            return batch.rows_B, generate.verdict_odds(texts).to(self.device), texts
        hidden_TD = verdict.hidden_states(self.causal_model, batch)
        odds_B = verdict.log_odds(
            hidden_TD, verdict.output_head(self.causal_model), batch, self.verdict_ids
        )
        return batch.rows_B, odds_B, []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapters and their metadata; the base is never saved."""
        names = self._adapter_names()
        checkpoint["state_dict"] = {
            name: weight for name, weight in checkpoint["state_dict"].items() if name in names
        }
        checkpoint["metadata"] = self.metadata()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits the model.

        Raises:
            ValueError: It has another base or prompt, or other weights than the model's adapters.
        """
        adapter_files.check_compatible(checkpoint["metadata"], self.metadata(), "the checkpoint")
        stored = set(checkpoint["state_dict"])
        adapter_files.check_keys(stored, self._adapter_names(), "the checkpoint")

    def metadata(self) -> dict[str, Any]:
        """Return what the adapter is trained on, and how it must be prompted, as plain values."""
        name, summarizer = self.base_settings.name, self.trainer.datamodule.summarizer
        return {
            "base": {
                "name": name,
                "quantization": self.base_settings.quantization,
                "fingerprint": self._base_fingerprint,
            },
            "tokenizer": {"name": name, "fingerprint": self.tokenizer_fingerprint},
            "lora": dataclasses.asdict(self.lora_settings),
            "head": self.head,
            "prompt": {
                **dataclasses.asdict(self.prompt),
                "fingerprint": self.prompt.fingerprint,
            },
            "max_length": self.max_length,
            "summarizer": adapter_files.NO_SUMMARIZER
            if summarizer is None
            else summarizer.metadata,
        }

    def save_adapter(self, folder: Path, steps: int) -> None:
        """Write the adapters as a PEFT folder, with their metadata.

        Args:
            folder: The folder to write.
            steps: Optimizer steps of all phases up to here.
        """
        adapter_files.save(
            self._adapted(), self.tokenizer, {**self.metadata(), "steps": steps}, folder
        )

    def _check_finite(self, loss: torch.Tensor) -> None:
        """Once a step, before its update: the host waits for the device's answer."""
        losses, self._step_losses = self._step_losses, []
        if torch.isfinite(loss):
            return
        rows = torch.cat([rows_B[~torch.isfinite(loss_B)] for rows_B, loss_B in losses])
        raise ValueError(
            f"the loss is not finite at step {self.trainer.global_step}, source rows "
            f"{rows.tolist()}. Lower model.optim.lr, or check these rows. The last checkpoint was "
            "saved before this step."
        )

    def _adapted(self) -> PeftModel:
        assert self.adapted is not None
        return self.adapted

    def _adapter_names(self) -> set[str]:
        return {f"adapted.{name}" for name in adapters.trained_parameters(self._adapted())}

    def _evaluate(self, batch: Batch) -> torch.Tensor:
        head = verdict.output_head(self.causal_model)
        hidden_TD = verdict.hidden_states(self.causal_model, batch)
        loss_B = verdict.verdict_loss(hidden_TD, head, batch, self.verdict_ids)
        odds_B = verdict.log_odds(hidden_TD, head, batch, self.verdict_ids)
        columns_4B = torch.stack(
            [column.double() for column in (batch.rows_B, batch.labels_B, odds_B, loss_B)]
        )
        return columns_4B[:, batch.labels_B != UNLABELLED]


def _check_losses(prompt_loss_weight: float, pair_weight: float, label_smoothing: float) -> None:
    if prompt_loss_weight < 0:
        raise ValueError(
            f"expected model.prompt_loss_weight to be at least 0, got {prompt_loss_weight}"
        )
    if not 0 <= pair_weight < math.inf:
        raise ValueError(f"expected model.pair_weight to be at least 0, got {pair_weight}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"expected model.label_smoothing to be at least 0 and below 1, got {label_smoothing}"
        )


def _check_head(head: HeadKind, predict_mode: str) -> None:
    if head == "linear" and predict_mode == "generate":
        raise ValueError(
            "predict.mode=generate needs the verdict as a token, but model.head=linear was not "
            "trained to write one. Set predict.mode=verdict"
        )
