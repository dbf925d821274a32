"""The verdict as the head of a sequence classifier with one label.

The log-odds of the verdict are the hidden state at the last token times the difference of two rows
of `lm_head`, which is what transformers' `...ForSequenceClassification` classes compute with their
layer `score`. That layer has no bias: a temperature can be folded into its weights, a threshold
cannot.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from mv_lightning.model.families import family_of
from mv_lightning.model.verdict import OutputHead

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LABEL = "correct"
"""The name of the one label."""
THRESHOLD_FIELD = "decision_threshold"
"""In the config of a classifier: a logit above it is a verdict of True."""


def check_classifier(config: PretrainedConfig, name: str) -> None:
    """Check that the verdict of a base model is the output of a sequence classifier.

    Args:
        config: Of the base model, of a supported family.
        name: Of the base model, for the message.

    Raises:
        ValueError: It is not; the reason is given.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    family = family_of(config)
    limit = getattr(config, family.logit_softcap, None) if family.logit_softcap else None
    if limit is not None:
        reason = (
            f"its logits are capped ({family.logit_softcap}={limit}), so that their difference is "
            "not linear in the hidden state"
        )
    elif type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        reason = "transformers has no sequence classifier of this architecture"
    else:
        return
    raise ValueError(
        f"expected a base model whose verdict is the output of a sequence classifier, got {name!r} "
        f"({family.models}): {reason}. Use --format merged or adapter"
    )


def score_weights(
    head: OutputHead, verdict_ids: tuple[int, int], temperature: float
) -> torch.Tensor:
    """Return the weights of the classifier's `score` layer: [1, D], fp32.

    Args:
        head: Of the base model, without a soft cap.
        verdict_ids: Token ids of (False, True).
        temperature: Divisor of the log-odds.
    """
    false_D, true_D = (head.linear.weight[verdict].detach().float() for verdict in verdict_ids)
    return (true_D - false_D)[None] / (head.divisor * temperature)


def as_classifier(
    weights: dict[str, torch.Tensor],
    score_1D: torch.Tensor,
    config: PretrainedConfig,
    pad_id: int,
    threshold: float,
) -> PreTrainedModel:
    """Return a sequence classifier with the weights of a causal model, which it shares.

    Args:
        weights: Of the causal model, by their names there.
        score_1D: See `score_weights`.
        config: Of the causal model, see `check_classifier`.
        pad_id: Token id of the padding, which transformers looks for to find the last token.
        threshold: Logits above it are a verdict of True; stated in the config.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)
    # With this type and one label, transformers and vLLM give the sigmoid of the logit.
    config.problem_type = "multi_label_classification"
    config.id2label, config.label2id = {0: LABEL}, {LABEL: 0}
    config.pad_token_id = pad_id
    config.use_cache = False
    setattr(config, THRESHOLD_FIELD, threshold)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    prefix = f"{model.base_model_prefix}."
    kept = {name: weight for name, weight in weights.items() if name.startswith(prefix)}
    dtype = next(iter(kept.values())).dtype
    model.load_state_dict({**kept, "score.weight": score_1D.to("cpu", dtype)}, assign=True)
    return model
