"""The tiny model of `mv_lightning.testing` and runs of it as fixtures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import huggingface_hub.constants

from mv_lightning.data.encoding import encode_rows, verdict_token_ids
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.model import adapters, base
from mv_lightning.schema import LABEL_COLUMN, EncodedRows
from mv_lightning.testing import save_tiny_base, save_tiny_summarizer, tiny_options
from tests.hub_server import Hub, serve_hub

# The first example of a test pays for its imports, and tests share the cores: no deadline.
settings.register_profile("search", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
# Of a mutant it matters that an example fails, not which is the smallest.
settings.register_profile(
    "mutation", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real labelled solutions (../shared/data) are not here"
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model in a folder."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    save_tiny_base(folder)
    return folder


@pytest.fixture(scope="session")
def question_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 30 questions with four solutions each, two of them right."""
    path = tmp_path_factory.mktemp("questions") / "rows.jsonl"
    lines = []
    for place in range(120):
        number, answer = place // 4, place // 4 * 2 + place % 2
        row = {
            "question": f"What is {number} + {number}?",
            "answer": str(answer),
            "solution": f"{number} + {number} {'is' if place % 4 < 2 else '='} {answer}.",
            LABEL_COLUMN: place % 2 == 0,
        }
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def tiny_summarizer(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence-to-sequence model in a folder."""
    folder = tmp_path_factory.mktemp("tiny") / "summarizer"
    save_tiny_summarizer(tiny_folder, folder)
    return folder


@pytest.fixture(scope="session")
def trained_phase(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished phase of four steps; tests that change it take a copy."""
    from mv_lightning.cli import main

    run = tmp_path_factory.mktemp("trained")
    options = [*tiny_options(tiny_folder, run), "--trainer.max_steps", "4"]
    main(["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options])
    return run / "phase1"


@pytest.fixture(scope="session", params=["adapter", "merged", "reward-model"])
def exported(
    request: pytest.FixtureRequest, trained_phase: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An export of the finished phase; the folder's name is its format."""
    from mv_lightning.cli import main

    out = tmp_path_factory.mktemp("export") / request.param
    main(["export", str(trained_phase), "--out", str(out), "--format", request.param])
    return out


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in of the Hub, which this process is logged in to."""
    with serve_hub(token="hf_secretSECRETsecret") as hub:
        constants = huggingface_hub.constants  # of the environment at the time of the import
        files = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


@pytest.fixture
def tiny_settings(tiny_folder: Path) -> base.BaseSettings:
    return base.BaseSettings(name=str(tiny_folder), gradient_checkpointing=False)


@pytest.fixture
def tiny(tiny_settings: base.BaseSettings) -> torch.nn.Module:
    """The tiny base in NF4 and fp32, with fresh adapters whose second matrices are not zero."""
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    torch.manual_seed(1)
    adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32))
    for name, parameter in adapters.trained_parameters(adapted).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


@pytest.fixture
def encoded(tiny_settings: base.BaseSettings) -> EncodedRows:
    """Sixteen synthetic rows under the tiny tokenizer."""
    source = load_source("synthetic:16")
    columns = {name: source.table[name][:] for name in ("question", "answer", "solution")}
    tokenizer = base.load_tokenizer(tiny_settings)
    return encode_rows(
        columns, source.labels_N, np.arange(16), load_prompt("explanation"), tokenizer, 2048
    )


@pytest.fixture
def siblings(tiny_settings: base.BaseSettings) -> EncodedRows:
    """Eight rows of three questions: 0 to 3, 4, and 5 to 7; the rows 6 and 7 are equal."""
    questions = (
        ["What is 6 x 7?"] * 4
        + ["What is 3 + 4?"]
        + ["Tom has 5 pens and buys 8. How many has he?"] * 3
    )
    solutions = [
        "6 x 7 = 42.",
        "6 x 7 = 48.",
        "",
        "7 x 6: 42, so 42.",
        "3 + 4 = 7.",
        "5 + 8 = 13.",
        "5 x 8.",
        "5 x 8.",
    ]
    columns = {
        "question": questions,
        "answer": ["42", "48", "41", "42", "7", "13", "40", "40"],
        "solution": solutions,
    }
    labels = np.array([True, False, False, True, True, True, False, False])
    tokenizer = base.load_tokenizer(tiny_settings)
    return encode_rows(columns, labels, np.arange(8), load_prompt("explanation"), tokenizer, 2048)


@pytest.fixture
def verdict_ids(tiny_settings: base.BaseSettings) -> tuple[int, int]:
    return verdict_token_ids(base.load_tokenizer(tiny_settings), load_prompt("explanation"))
