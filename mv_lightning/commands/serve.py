"""`serve`: a trained verifier behind HTTP, with calibrated probabilities.

Starlette and uvicorn rather than LitServe, Lightning's own server: LitServe batches a fixed number
of requests whatever their lengths, an error fails all requests of a batch, its queue has no bound,
and its workers are processes. Here a batch is a number of tokens, only the row that is wrong fails,
and a full queue refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.adapter_location import adapter_folder
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
)
from mv_lightning.data.batching import EVAL_TOKENS
from mv_lightning.serving.settings import Address, Limits


@dataclass(frozen=True)
class ServeOptions:
    """Options of the command, besides limits and address."""

    name: str | None = None
    """Name of the verifier in responses, before its version; default: the folder's name."""
    base: str | None = None
    """Hub id or folder of the base model, if it is not where it was in training."""
    device: str | None = None
    """Where to compute, such as cuda:1; default: the first GPU, or the CPU."""
    precision: str | None = None
    """bf16-mixed, 16-mixed or 32-true; default: the best one of the device."""
    eval_tokens: int = EVAL_TOKENS
    """Maximum tokens of a forward pass: requests that wait share it. A larger request takes several
    passes."""

    def __post_init__(self) -> None:
        if self.eval_tokens < 1:
            raise ValueError(f"expected --eval-tokens of at least 1, got {self.eval_tokens}")


def run(args: list[str]) -> None:
    """Load the verifier and serve it until SIGTERM or Ctrl-C.

    Args:
        args: The command line after `serve`.

    Raises:
        ValueError: The options are wrong, the extra is not installed, or the verifier cannot be
            loaded.
        OSError: The port is taken.
    """
    parser = command_parser(
        "serve",
        "Answer HTTP requests with calibrated probabilities: POST /v1/systemone and /v1/score, "
        "GET /health and /metrics.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="Folder of a finished phase, such as checkpoints/phase3, or of an adapter; or "
        "OWNER/NAME on the Hub",
    )
    for group in (ServeOptions, Address, Limits):
        add_options(parser, "serve", group)
    values = parse_options(parser, args)
    options = build(ServeOptions, values.serve)
    address = build(Address, values.serve)
    limits = build(Limits, values.serve)
    _check_extra()
    folder = adapter_folder(values.folder)
    from mv_lightning.serving.server import build_server, build_service, verifier_version
    from mv_lightning.training.console import silence_libraries
    from mv_lightning.verifier import Verifier

    silence_libraries()
    # Before the model is loaded: a port that is taken is said at once.
    listener = address.listen()
    verifier = Verifier.load(
        folder,
        base=options.base,
        device=options.device,
        precision=options.precision,
        eval_tokens=options.eval_tokens,
    )
    service = build_service(
        verifier,
        options.name or Path(values.folder).absolute().name,
        verifier_version(folder),
        limits,
    )
    listener.listen()
    host = f"[{address.host}]" if ":" in address.host else address.host
    port = listener.getsockname()[1]
    print(f"serving {service.model} on http://{host}:{port}", flush=True)
    build_server(service, address.drain_seconds).run(sockets=[listener])


def _check_extra() -> None:
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"serve needs the package {error.name}. Run: pip install -e '.[serve]'"
        ) from error
