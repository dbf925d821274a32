"""Reference predictions: transformers and PEFT without changes, rows padded on the left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mv_lightning.data.encoding import verdict_token_ids
from mv_lightning.data.prompts import Prompt
from mv_lightning.schema import EncodedRows

BATCH_SIZE, MAX_NEW_TOKENS = 16, 64
"""The report's batch size, and the maximum number of tokens that it generated."""
VERDICT = re.compile(r"\b(True|False)\b")


def prompts(encoded: EncodedRows) -> list[list[int]]:
    """Return the token ids of every row, preceded by the shared instruction."""
    return [encoded.prompt_ids(index).tolist() for index in range(len(encoded))]


@dataclass(frozen=True)
class ReferenceModel:
    """An adapted model with the attention of transformers, evaluated in padded batches."""

    model: Any
    tokenizer: Any
    prompt: Prompt

    @classmethod
    def of(cls, adapted: Any, tokenizer: Any, prompt: Prompt) -> ReferenceModel:
        """Prepare a model for evaluation.

        The adapters are rounded to the base's dtype: beside a base in bf16, fp32 is slower, with or
        without autocast.

        Args:
            adapted: PEFT model with a base in NF4; changed in place.
            tokenizer: Tokenizer of the base.
            prompt: The prompt of the rows.
        """
        dtype = adapted.get_input_embeddings().weight.dtype
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype)
        return cls(adapted.eval(), tokenizer, prompt)

    def log_odds(self, rows: Sequence[list[int]], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Run one forward pass per batch; logits are computed at the last position only.

        Args:
            rows: Token ids of N prompts.
            batch_size: Rows per batch.

        Returns:
            log P(True) - log P(False) [N].
        """
        verdict_ids = list(verdict_token_ids(self.tokenizer, self.prompt))
        log_odds = []
        for inputs in self._padded(rows, batch_size):
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            with torch.inference_mode():
                output = self.model(
                    **inputs, position_ids=positions, use_cache=False, logits_to_keep=1
                )
            false_B, true_B = output.logits[:, -1, verdict_ids].float().unbind(1)
            log_odds.append((true_B - false_B).cpu().numpy())
        return np.concatenate(log_odds)

    def generate(
        self, rows: Sequence[list[int]], max_new_tokens: int, batch_size: int = BATCH_SIZE
    ) -> tuple[list[str | None], int]:
        """Continue each prompt greedily and search the text for a verdict.

        Args:
            rows: Token ids of N prompts.
            max_new_tokens: Limit; a batch ends when its last row ends.
            batch_size: Rows per batch.

        Returns:
            The first True or False of each text, None where there is neither; and the number of
            tokens generated, summed over batches.
        """
        verdicts: list[str | None] = []
        generated = 0
        for inputs in self._padded(rows, batch_size):
            with torch.inference_mode():
                ids_BT = self.model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=self._pad_id,
                )
            new_BT = ids_BT[:, inputs["input_ids"].shape[1] :]
            generated += new_BT.shape[1]
            for text in self.tokenizer.batch_decode(new_BT, skip_special_tokens=True):
                match = VERDICT.search(text)
                verdicts.append(match[1] if match else None)
        return verdicts, generated

    @property
    def _pad_id(self) -> int:
        pad: int | None = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _padded(
        self, rows: Sequence[list[int]], batch_size: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            longest = max(map(len, batch))
            ids = [[self._pad_id] * (longest - len(row)) + row for row in batch]
            mask = [[0] * (longest - len(row)) + [1] * len(row) for row in batch]
            tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
            yield {name: tensor.to(self.model.device) for name, tensor in tensors.items()}
