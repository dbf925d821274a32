"""The model side of a run: a quantised base, its adapters, and the verdict."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch

from mv_lightning.data.encoding import verdict_token_ids
from mv_lightning.metrics.scores import check_collapse, metric_values
from mv_lightning.model import adapter_files, adapters, base, generate, optim, verdict
from mv_lightning.model.activation_checkpointing import choose_checkpointing
from mv_lightning.model.fingerprints import base_fingerprint, tokenizer_fingerprint
from mv_lightning.model.precision import compute_dtype
from mv_lightning.schema import UNLABELLED, Batch, EvalOutputs

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class VerdictModule(pl.LightningModule):
    """Fine-tunes adapters on a 4-bit base model so that the token after the prompt is the verdict."""

    def __init__(
        self,
        base: base.BaseSettings = base.BaseSettings(),  # noqa: B008  frozen
        lora: adapters.LoraSettings = adapters.LoraSettings(),  # noqa: B008
        optim: optim.OptimSettings = optim.OptimSettings(),  # noqa: B008
        prompt_loss_weight: float = 0.0,
        init_from: str | None = None,
        predict_mode: Literal["verdict", "generate"] = "verdict",
    ) -> None:
        """Keep the settings; weights are loaded in `configure_model`.

        Args:
            base: The base model.
            lora: The adapters.
            optim: Optimizer and schedule.
            prompt_loss_weight: Weight of each prompt token's loss against the verdict's; 0 trains on the verdict
                alone, 1 is plain supervised fine-tuning on every token.
            init_from: Folder of the adapter to start from, `previous` for that of the phase before. Fitting starts
                from fresh adapters without it; the other commands use the adapter of their own phase.
            predict_mode: `verdict` reads the log-odds of True from one forward pass. `generate` is the report's way:
                up to 64 tokens are written and searched for True or False; a text without either counts as False.
        """
        super().__init__()
        if prompt_loss_weight < 0:
            raise ValueError(f"model.prompt_loss_weight={prompt_loss_weight} must not be negative")
        self.base_settings = base
        self.lora_settings = lora
        self.optim_settings = optim
        self.prompt_loss_weight = prompt_loss_weight
        self.init_from = init_from
        self.predict_mode = predict_mode
        self.adapted: PeftModel | None = None
        self.resumes = False
        """Whether a checkpoint's weights follow: `fit_phase` tells before they are loaded."""
        self.steps_before = 0
        """Optimizer steps of the phases before this one."""
        # The checkpoint holds adapters only; on_load_checkpoint compares their names itself.
        self.strict_loading = False
        self.evaluation: EvalOutputs | None = None
        """The last evaluation, of all processes' rows."""
        self.evaluated_step = -1
        """Optimizer step of the last evaluation."""
        self._evaluated: list[np.ndarray] = []
        self._step_sums: torch.Tensor | None = None

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; the data module asks for it here, so the base is named once."""
        return base.load_tokenizer(self.base_settings)

    @functools.cached_property
    def tokenizer_fingerprint(self) -> str:
        """Tells another vocabulary; counted over all of its words, so not more often than once."""
        return tokenizer_fingerprint(self.tokenizer)

    @functools.cached_property
    def verdict_ids(self) -> tuple[int, int]:
        """Token ids of (False, True)."""
        return verdict_token_ids(self.tokenizer, self.trainer.datamodule.prompt)

    @property
    def causal_model(self) -> PreTrainedModel:
        """The base model with its adapters in place."""
        assert self.adapted is not None
        model: PreTrainedModel = self.adapted.get_base_model()
        return model

    def configure_model(self) -> None:
        """Load the base, attach the adapters, and start from `init_from` if it is given.

        Raises:
            ValueError: The base cannot be loaded, or the adapter does not fit it or was asked otherwise.
        """
        if self.adapted is not None:
            return
        _ = self.verdict_ids  # an unusable vocabulary must show before gigabytes are read
        card = adapter_files.read_metadata(Path(self.init_from)) if self.init_from else None
        model = base.load_base(
            self.base_settings,
            compute_dtype(self.trainer.precision),
            self.trainer.strategy.root_device,
        )
        self._base_fingerprint = base_fingerprint(model)
        # Adapters are drawn from a generator state of their own, so that they do not depend on how the base was made.
        with torch.random.fork_rng(devices=_cuda_devices(self.trainer.strategy.root_device)):
            torch.manual_seed(_initial_seed())
            # Weights that are loaded below need no initialisation.
            loftq = self.lora_settings.loftq and card is None and not self.resumes
            self.adapted = adapters.attach(
                model, dataclasses.replace(self.lora_settings, loftq=loftq)
            )
        if card is not None:
            assert self.init_from is not None
            adapter_files.check_compatible(card, self.card(), f"the adapter in {self.init_from}")
            adapter_files.load(self.adapted, Path(self.init_from))
            self.steps_before = card["steps"]

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer over the adapters, and a schedule over the steps of this phase."""
        assert self.adapted is not None
        optimizer = optim.build_optimizer(
            adapters.trained_parameters(self.adapted).values(), self.optim_settings
        )
        steps = self.trainer.max_steps
        if steps < 0:
            # trainer.estimated_stepping_batches would build the loaders now, before a resumed position is known.
            steps = self.trainer.datamodule.optimizer_steps * (self.trainer.max_epochs or 1)
        schedule = optim.build_schedule(optimizer, self.optim_settings, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the micro-batch's share of its optimizer step's mean loss.

        Lightning divides by the number of micro-batches and averages over processes; both are undone here, so that
        the gradient of a step is the mean over its rows however they were dealt.
        """
        hidden_TD, loss_B = self.losses(batch)
        if not torch.isfinite(loss_B).all():
            rows = batch.rows_B[~torch.isfinite(loss_B)].tolist()
            raise ValueError(
                f"the loss is not finite at step {self.trainer.global_step}, source rows {rows}; lower model.optim.lr, "
                "or look at these rows. The last checkpoint is from before this step."
            )
        with torch.no_grad():
            right_B = (
                verdict.log_odds(
                    hidden_TD, verdict.output_head(self.causal_model), batch, self.verdict_ids
                )
                > 0
            ) == (batch.labels_B == 1)
            sums = (
                torch.stack([loss_B.sum(), (right_B & (batch.labels_B != UNLABELLED)).sum()])
                / batch.step_rows
            )
            self._step_sums = sums if self._step_sums is None else self._step_sums + sums
        return (
            loss_B.sum()
            / batch.step_rows
            * self.trainer.accumulate_grad_batches
            * self.trainer.world_size
        )

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden states [T, D] and the loss of each row [B] of a micro-batch to be trained on."""
        choose_checkpointing(
            self.causal_model, self.base_settings.gradient_checkpointing, len(batch.ids_T)
        )
        hidden_TD = verdict.hidden_states(self.causal_model, batch)
        head = verdict.output_head(self.causal_model)
        return hidden_TD, verdict.verdict_loss(
            hidden_TD, head, batch, self.verdict_ids, self.prompt_loss_weight
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the whole step: the mean over its rows, not over the last micro-batch."""
        assert self.adapted is not None and self._step_sums is not None
        loss, accuracy = self.trainer.strategy.reduce(self._step_sums, reduce_op="sum")
        self._step_sums = None
        gradients = [
            p.grad for p in adapters.trained_parameters(self.adapted).values() if p.grad is not None
        ]
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", accuracy, prog_bar=True)
        self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
        self.log("train/lr", optimizer.param_groups[0]["lr"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all rows and processes."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all rows and processes."""
        self._log_evaluation("test")

    def predict_step(
        self, batch: Batch, batch_idx: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Return the rows' numbers [B], log-odds [B], and in the mode `generate` the texts that these stand for."""
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
        """Keep the adapters and say what they belong to; the base is never saved."""
        trained = {f"adapted.{name}" for name in adapters.trained_parameters(self._adapted())}
        checkpoint["state_dict"] = {
            name: w for name, w in checkpoint["state_dict"].items() if name in trained
        }
        checkpoint["card"] = self.card()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits.

        Raises:
            ValueError: Another base, rank, prompt, or other weights than the model's adapters.
        """
        adapter_files.check_compatible(checkpoint["card"], self.card(), "the checkpoint")
        wanted = {f"adapted.{name}" for name in adapters.trained_parameters(self._adapted())}
        adapter_files.check_keys(set(checkpoint["state_dict"]), wanted, "the checkpoint")
        self.steps_before = checkpoint["card"]["steps"] - checkpoint["global_step"]

    def card(self) -> dict[str, Any]:
        """Return what the adapter was trained on and how it must be asked, as plain values."""
        data = self.trainer.datamodule
        return {
            "base": {
                "name": self.base_settings.name,
                "quantization": self.base_settings.quantization,
                "fingerprint": self._base_fingerprint,
            },
            "tokenizer": {
                "name": self.base_settings.name,
                "fingerprint": self.tokenizer_fingerprint,
            },
            "lora": dataclasses.asdict(self.lora_settings),
            "prompt": {**dataclasses.asdict(data.prompt), "fingerprint": data.prompt.fingerprint},
            "max_length": data.max_length,
            "phase": data.phase,
            "steps": self.steps_before + self.trainer.global_step,
        }

    def save_adapter(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the adapters as a PEFT folder, with what `card` returned about them."""
        adapter_files.save(self._adapted(), self.tokenizer, card, folder)

    def _adapted(self) -> PeftModel:
        assert self.adapted is not None
        return self.adapted

    def _evaluate(self, batch: Batch) -> None:
        hidden_TD = verdict.hidden_states(self.causal_model, batch)
        head = verdict.output_head(self.causal_model)
        labelled_B = batch.labels_B != UNLABELLED
        loss_B = verdict.verdict_loss(hidden_TD, head, batch, self.verdict_ids)
        odds_B = verdict.log_odds(hidden_TD, head, batch, self.verdict_ids)
        columns = (batch.rows_B, batch.labels_B, odds_B, loss_B)
        self._evaluated.append(torch.stack([c[labelled_B].double() for c in columns]).cpu().numpy())

    def _log_evaluation(self, stage: str) -> None:
        """Bring all processes' rows together: every metric is exact, whatever rows a process had."""
        parts, self._evaluated = [np.concatenate(self._evaluated, axis=1)], []
        if self.trainer.world_size > 1:
            parts *= self.trainer.world_size
            torch.distributed.all_gather_object(parts, parts[0])
        columns_4N = np.concatenate(parts, axis=1)
        rows_N, labels_N, odds_N, losses_N = columns_4N[:, columns_4N[0].argsort()]
        rows_N = rows_N.astype(np.int64)
        question_ids_N = self.trainer.datamodule.question_ids_N[rows_N]
        self.evaluation = EvalOutputs(rows_N, labels_N == 1, odds_N, losses_N, question_ids_N)
        self.evaluated_step = self.trainer.global_step
        scores = metric_values(self.evaluation.labels_N, odds_N)
        values = {"loss": losses_N.mean(), "acc": scores.pop("accuracy"), **scores}
        alarm = check_collapse(odds_N > 0)
        if alarm and not self.trainer.sanity_checking and self.trainer.is_global_zero:
            print(f"\nwarning: {alarm}")
        for name, value in values.items():
            shown = name in ("loss", "acc", "auroc")
            # A logger has the curve of the training; the commands that evaluate leave files.
            self.log(
                f"{stage}/{name}",
                float(value),
                prog_bar=shown,
                logger=self.trainer.state.fn == "fit",
            )


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _initial_seed() -> int:
    return torch.initial_seed() % 2**63
