"""A GGUF file is a base model like a folder, unpacked once for each content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mv_lightning.model import base
from mv_lightning.model.location import locate

gguf = pytest.importorskip("gguf")
HIDDEN, INNER, HEADS, KEYS = 64, 96, 4, 2


def write_gguf(file: Path, seed: int) -> dict[str, np.ndarray]:
    """Write a Qwen2 of one layer with biases; return its tensors."""
    from tokenizers import pre_tokenizers

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Tr", "ue", "<|end|>"]
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["T r", "u e"])
    types = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    writer.add_token_types(types)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    keys = HIDDEN // HEADS * KEYS
    shapes = {
        "token_embd.weight": (len(tokens), HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (len(tokens), HIDDEN),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_q.bias": (HIDDEN,),
        "blk.0.attn_k.weight": (keys, HIDDEN),
        "blk.0.attn_k.bias": (keys,),
        "blk.0.attn_v.weight": (keys, HIDDEN),
        "blk.0.attn_v.bias": (keys,),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (INNER, HIDDEN),
        "blk.0.ffn_up.weight": (INNER, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INNER),
    }
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = rng.normal(0, 0.1, shape).astype(np.float32)
        writer.add_tensor(name, tensors[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mv_lightning" / "gguf"


def test_model_and_tokenizer_of_a_file(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf", seed=0)
    settings = base.BaseSettings(name=str(tmp_path / "tiny.gguf"), quantization="none")
    tokenizer = base.load_tokenizer(settings)
    ids = tokenizer(" True", add_special_tokens=True)["input_ids"]
    assert [tokenizer.decode(token) for token in ids] == [" ", "Tr", "ue"]
    model = base.load_base(settings, torch.float32, torch.device("cpu"))
    assert model.config.model_type == "qwen2"
    layer = model.model.layers[0]
    for got, name in (
        (layer.self_attn.q_proj.bias, "blk.0.attn_q.bias"),
        (layer.mlp.down_proj.weight, "blk.0.ffn_down.weight"),
        (model.lm_head.weight, "output.weight"),
    ):
        expected = torch.from_numpy(tensors[name])
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-2)  # stored in bf16
    assert capsys.readouterr().out.count("Unpacking") == 1


def test_files_are_told_apart_by_content(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, seed=0)
    first = locate(str(file))
    file.rename(tmp_path / "moved.gguf")
    assert locate(str(tmp_path / "moved.gguf")) == first
    write_gguf(file, seed=1)
    assert locate(str(file)) != first
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
def test_a_damaged_file(content: bytes, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ValueError, match="Download the file again"):
        locate(str(tmp_path / "broken.gguf"))
    assert not list(cache.glob("*"))
