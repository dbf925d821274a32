"""Train a model that says whether a math answer is correct."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mv_lightning.verifier import Verifier

__all__ = ["Verifier"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the libraries behind it take seconds."""
    if name == "Verifier":
        from mv_lightning.verifier import Verifier

        return Verifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
