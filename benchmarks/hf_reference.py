"""The usual ways of asking for a verdict: transformers and PEFT as they come, rows padded on the left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mv_lightning.data.encoding import verdict_token_ids
from mv_lightning.schema import EncodedRows

BATCH, NEW_TOKENS = 16, 64
"""The report's rows of a batch, and the most tokens that it let the model write."""
VERDICT = re.compile(r"\b(True|False)\b")


def prompts(encoded: EncodedRows) -> list[list[int]]:
    """Return every row's ids with the shared instruction before them."""
    return [[*encoded.prefix_ids, *encoded.row(index).tolist()] for index in range(len(encoded))]


@dataclass(frozen=True)
class Plain:
    """An adapted model with transformers' own attention, asked in padded batches."""

    model: Any
    tokenizer: Any

    @classmethod
    def of(cls, adapted: Any, tokenizer: Any) -> Plain:
        """Prepare a model; its adapters are rounded to bf16 like the rest: fp32 takes longer, with autocast or without.

        Args:
            adapted: Of PEFT, its base in NF4 and bf16; changed in place.
            tokenizer: Its own.
        """
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(torch.bfloat16)
        return cls(adapted.eval(), tokenizer)

    def log_odds(self, rows: Sequence[list[int]], batch: int = BATCH) -> np.ndarray:
        """One forward pass per batch; logits at the last position alone.

        Args:
            rows: N prompts' ids.
            batch: Rows of a batch.

        Returns:
            log P(True) - log P(False) [N].
        """
        odds = []
        for inputs in self._padded(rows, batch):
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            with torch.inference_mode():
                output = self.model(
                    **inputs, position_ids=positions, use_cache=False, logits_to_keep=1
                )
            false_B, true_B = (
                output.logits[:, -1, list(verdict_token_ids(self.tokenizer))].float().unbind(1)
            )
            odds.append((true_B - false_B).cpu().numpy())
        return np.concatenate(odds)

    def generate(
        self, rows: Sequence[list[int]], new_tokens: int, batch: int = BATCH
    ) -> tuple[list[str | None], int]:
        """Continue each prompt greedily and search what was written.

        Args:
            rows: N prompts' ids.
            new_tokens: Most tokens to write; a batch ends with its last row's end of text.
            batch: Rows of a batch.

        Returns:
            The first True or False of each, None where there is neither; and the tokens that the batches wrote.
        """
        found: list[str | None] = []
        written = 0
        for inputs in self._padded(rows, batch):
            with torch.inference_mode():
                out = self.model.generate(
                    **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=self._pad_id
                )
            new = out[:, inputs["input_ids"].shape[1] :]
            written += new.shape[1]
            matches = [
                VERDICT.search(text)
                for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)
            ]
            found += [match[1] if match else None for match in matches]
        return found, written

    @property
    def _pad_id(self) -> int:
        pad: int | None = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _padded(self, rows: Sequence[list[int]], batch: int) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            longest = max(map(len, part))
            ids = [[self._pad_id] * (longest - len(row)) + row for row in part]
            mask = [[0] * (longest - len(row)) + [1] * len(row) for row in part]
            tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
            yield {name: tensor.to(self.model.device) for name, tensor in tensors.items()}
