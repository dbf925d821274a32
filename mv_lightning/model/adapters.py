"""LoRA adapters on the base model, in PEFT's own file format.

LoRA: Hu et al. 2021 (arXiv:2106.09685); rank-stabilised scaling: Kalajdzievski 2023 (arXiv:2312.03732); LoftQ:
Li et al. 2023 (arXiv:2310.08659).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mv_lightning.atomic import atomic_folder

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = "adapter_model.safetensors"
"""The only form of weights that is read: unlike a pickle, it cannot hold code."""
CARD = "verifier.json"
"""Beside the adapter: what it was trained on and how it must be asked."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapters; the defaults are the report's final values."""

    r: int = 128
    """Rank."""
    alpha: int = 128
    """Scale: the adapter's output is multiplied by alpha / r (alpha / sqrt(r) with rslora)."""
    dropout: float = 0.0
    """Dropout on the adapters' input."""
    rslora: bool = False
    """Rank-stabilised scaling."""
    loftq: bool = False
    """Initialise the adapters so that they make up for the quantisation error; needs the base as a local folder."""

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "the adapters need r >= 1, alpha >= 1 and 0 <= dropout < 1; "
                f"got r={self.r}, alpha={self.alpha}, dropout={self.dropout}"
            )


def attach(base: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """Put fresh adapters on all seven projections of every layer.

    Args:
        base: The frozen base model; changed in place.
        settings: Rank, scale and initialisation.

    Raises:
        ValueError: LoftQ was asked for a base that is not quantised or not in a local folder.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=list(TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    if getattr(base, "is_loaded_in_4bit", False):
        from bitsandbytes.nn import Linear4bit

        from mv_lightning.model.linear import FusedLinear4bit

        # PEFT's way of giving a layer type an adapter class of one's own; it is not saved with the adapter.
        config._register_custom_module({Linear4bit: FusedLinear4bit})
    model: PeftModel = get_peft_model(base, config)
    if settings.loftq:
        _loftq(model, base)
    return model


def trained_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def flops_per_token(model: PeftModel) -> int:
    """Return the floating-point operations that training needs for a token, attention's scores left out.

    Two a weight of a projection forward, two for the gradient of its input; its own gradient is not taken. Six a
    weight of an adapter, whose gradient is. Recomputing activations is work too, but not work that is needed.

    Args:
        model: The adapted model.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    trained = sum(parameter.numel() for parameter in trained_parameters(model).values())
    return 4 * sum(layer.in_features * layer.out_features for layer in layers) + 6 * trained


def save(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, card: dict[str, Any], folder: Path
) -> None:
    """Write the adapter as a PEFT folder, whole or not at all.

    Args:
        model: The adapted model.
        tokenizer: Saved along, so that the folder can be used alone.
        card: What `load` compares, see `read_metadata`.
        folder: Where to.

    Raises:
        OSError: The disk is full, or does not let itself be written to.
    """
    from safetensors import SafetensorError

    with atomic_folder(folder) as tmp_path:
        try:
            model.save_pretrained(str(tmp_path))
        except (
            SafetensorError
        ) as error:  # its writer has an error of its own for what the system says
            raise OSError(
                f"the adapter {folder} could not be written ({error}); make room, and give the same command again"
            ) from error
        (tmp_path / "README.md").unlink(
            missing_ok=True
        )  # peft's model card is a form to fill in; the card says it all
        tokenizer.save_pretrained(str(tmp_path))
        (tmp_path / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what `save` wrote about the adapter.

    Raises:
        ValueError: The folder is missing or is not one that `save` wrote.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        _ = card["base"]["fingerprint"], card["prompt"]["fingerprint"], card["steps"]
    except FileNotFoundError as error:
        raise ValueError(
            f"no adapter in {folder}: {CARD} is missing. Run the phase that makes it first, or give the folder of "
            "another one as model.init_from"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder / CARD} does not say which base and prompt the adapter belongs to ({error!r}); copy the "
            "adapter's folder again, all files of it"
        ) from error
    return card


def load(model: PeftModel, folder: Path) -> None:
    """Fill the model's adapters from a PEFT folder.

    Args:
        model: Adapters of the same shape, in place.
        folder: What `save` wrote.

    Raises:
        ValueError: Rank, scale, targets or keys differ; both sides are named.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved, here = LoraConfig.from_pretrained(str(folder)), model.peft_config["default"]
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"no adapter that can be read in {folder}: {error}. Needed are adapter_config.json and {WEIGHTS} (a pickle "
            "such as adapter_model.bin is never opened); copy the folder again, or make the adapter anew"
        ) from error
    differing = {
        field: (getattr(saved, field), getattr(here, field))
        for field in ("r", "lora_alpha", "use_rslora", "target_modules")
        if getattr(saved, field) != getattr(here, field)
    }
    if differing:
        told = "; ".join(
            f"{field}: {old} there, {new} here" for field, (old, new) in differing.items()
        )
        raise ValueError(
            f"the adapter in {folder} was made with other settings ({told}); make model.lora match it"
        )
    wanted = {name.replace(".default.", ".") for name in trained_parameters(model)}
    check_keys(set(weights), wanted, f"the adapter in {folder}")
    set_peft_model_state_dict(model, weights)


def merged_weights(model: PeftModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the base's weights with the adapter's products added, under the base's own names, on the CPU.

    The sum is taken in fp32 and rounded once, if the base was loaded in fp32. Merging in PEFT would round the sum of a
    quantised layer to 4 bits again.

    Args:
        model: The adapted model.
        dtype: Of the result.
    """
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    weights = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in base.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }
    merged = {
        name: weight.to("cpu", dtype)
        for name, weight in weights.items()
        if weight.is_floating_point()
    }
    for name, layer in base.named_modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            if hasattr(weight, "quant_state"):
                from mv_lightning.model.linear import dequantized

                weight = dequantized(weight, torch.float32)
            with torch.no_grad():
                total = weight.float() + layer.get_delta_weight("default").float()
            merged[f"{name}.weight"] = total.to("cpu", dtype)
    return merged


def check_compatible(card: dict[str, Any], here: dict[str, Any], where: str) -> None:
    """Compare what an adapter was trained on, and how it was asked, with what it meets here.

    Args:
        card: Of the adapter, see `read_metadata`.
        here: The same entries, or some of them, of what is loaded.
        where: The adapter, for the message.

    Raises:
        ValueError: A fingerprint differs.
    """
    for what, mend in (
        ("base", "model.base.name (in Python: base)"),
        ("tokenizer", "model.base.name (in Python: base)"),
        ("prompt", "data.prompt"),
    ):
        if what in here and card[what]["fingerprint"] != here[what]["fingerprint"]:
            raise ValueError(
                f"{where} belongs to another {what}: {card[what]['name']!r} ({card[what]['fingerprint']}) there, "
                f"{here[what]['name']!r} ({here[what]['fingerprint']}) here; set {mend} as it was"
            )


def check_keys(found: set[str], wanted: set[str], where: str) -> None:
    """Compare the names of saved weights with those of the model.

    Raises:
        ValueError: Keys are missing or unexpected; the first few of each are named.
    """
    missing, unexpected = sorted(wanted - found), sorted(found - wanted)
    if missing or unexpected:
        raise ValueError(
            f"{where} does not fit the model: {len(missing)} of {len(wanted)} weights are missing "
            f"({', '.join(missing[:3]) or 'none'}), {len(unexpected)} are not known here "
            f"({', '.join(unexpected[:3]) or 'none'})"
        )


def _loftq(model: PeftModel, base: PreTrainedModel) -> None:
    """Set each adapter to the best low-rank approximation of what quantisation took from its projection.

    PEFT has this for GPUs and for a scale (alpha / r) of 1 only.
    """
    folder = Path(str(base.config._name_or_path))
    files = sorted(folder.glob("*.safetensors"))
    if not getattr(base, "is_loaded_in_4bit", False) or not files:
        raise ValueError(
            "model.lora.loftq needs a base model that is quantised (model.base.quantization=nf4) and lies in a local "
            f"folder with safetensors; got {folder}"
        )
    from peft.tuners.lora.bnb import Linear4bit
    from safetensors import safe_open

    from mv_lightning.model.linear import dequantized

    layers = {
        f"{name}.weight": module
        for name, module in base.named_modules()
        if isinstance(module, Linear4bit)
    }
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in sorted(layers.keys() & set(weights.keys())):
                layer = layers.pop(name)
                packed = layer.base_layer.weight
                exact_OI = weights.get_tensor(name).to(packed.device, torch.float32)
                lost_OI = exact_OI - dequantized(packed, torch.float32)
                _approximate(
                    lost_OI,
                    layer.lora_A["default"].weight,
                    layer.lora_B["default"].weight,
                    layer.scaling,
                )
    if layers:
        raise ValueError(
            f"model.lora.loftq: the safetensors in {folder} lack {len(layers)} of the projections' weights, such as "
            f"{min(layers)}; copy the base model's folder again, or set model.lora.loftq=false"
        )


@torch.no_grad()
def _approximate(
    wanted_OI: torch.Tensor, a_RI: torch.Tensor, b_OR: torch.Tensor, scaling: dict[str, float]
) -> None:
    """Make scale x B A the truncated singular value decomposition; ranks beyond the matrix's stay as they are."""
    rank = min(a_RI.shape[0], *wanted_OI.shape)
    # Randomised, a thousandth of the exact decomposition's time at 8B; its generator is the adapters' own.
    left_OR, values_R, right_IR = torch.svd_lowrank(wanted_OI, q=rank, niter=4)
    root_R = (values_R / scaling["default"]).sqrt()
    a_RI[:rank] = (right_IR * root_R).T
    b_OR[:, :rank] = left_OR * root_R
