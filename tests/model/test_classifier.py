"""A sequence classifier gives the log-odds of the causal model that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from mv_lightning.model.classifier import as_classifier, check_classifier, score_weights
from mv_lightning.model.families import FAMILIES
from mv_lightning.model.verdict import OutputHead, output_head
from tests.model.test_families import CONFIGS, SIZES, randomize

UNCAPPED = {"final_logit_softcapping": None}
CASES = {name: values for name, values in CONFIGS.items() if "granite" not in name}
VERDICT_IDS = (17, 42)
TEMPERATURE = 1.7
ROWS = ([5, 9, 0, 31, 8, 77, 6], [12, 4, 9], [3, 3, 120, 11])


def test_every_family_is_handled_or_refused_here() -> None:
    handled = {values["model_type"] for values in CASES.values()}
    assert handled | {"granite"} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_logits_are_the_scaled_log_odds(name: str, tmp_path: Path) -> None:
    causal = random_causal({**CASES[name], **UNCAPPED})
    check_classifier(causal.config, name)
    score_1D = score_weights(output_head(causal), VERDICT_IDS, TEMPERATURE)
    weights = dict(causal.named_parameters(remove_duplicate=False))
    as_classifier(weights, score_1D, causal.config, pad_id=1, threshold=0.3).save_pretrained(
        tmp_path
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation="eager"
    )

    expected = []
    for row in ROWS:
        false, true = causal(torch.tensor([row])).logits[0, -1, list(VERDICT_IDS)]
        expected.append((true - false) / TEMPERATURE)
    padded = [torch.tensor(row) for row in ROWS]
    ids_BL = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=1)
    logits_B1 = model(ids_BL, attention_mask=(ids_BL != 1).long()).logits
    expected_B1 = torch.stack(expected)[:, None]
    assert expected_B1.std() > 0.01
    torch.testing.assert_close(logits_B1, expected_B1, atol=2e-5, rtol=2e-5)
    assert (model.config.decision_threshold, model.config.pad_token_id) == (0.3, 1)
    assert (model.config.id2label, model.config.num_labels) == ({0: "correct"}, 1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma2", r"final_logit_softcapping=1.5\), so that their difference is not linear"),
        ("gemma3", r"final_logit_softcapping=1.5\), so that their difference is not linear"),
        ("granite", "transformers has no sequence classifier of this architecture"),
    ],
)
def test_what_is_refused(name: str, reason: str) -> None:
    config = AutoConfig.for_model(**{**SIZES, **CONFIGS[name]})
    with pytest.raises(ValueError, match=rf"got 'some/base' \(.*{reason}"):
        check_classifier(config, "some/base")


def test_a_divisor_of_the_logits_is_folded_into_the_head() -> None:
    torch.manual_seed(0)
    head, hidden_PD = OutputHead(torch.nn.Linear(8, 60, bias=False), 2.5), torch.randn(3, 8)
    odds_P = head.log_odds(hidden_PD, VERDICT_IDS)
    score_1D = score_weights(head, VERDICT_IDS, TEMPERATURE)
    torch.testing.assert_close((hidden_PD @ score_1D.T)[:, 0], odds_P / TEMPERATURE)


def random_causal(values: dict[str, Any]) -> Any:
    config = AutoConfig.for_model(**{**SIZES, **values})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model.named_parameters())
    return model
