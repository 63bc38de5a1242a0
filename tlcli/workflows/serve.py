"""Serve: answer requests with a classifier."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tlcli.errors import UsageError
from tlcli.evaluate.runtimes import open_model
from tlcli.serve.predictor import Limits, Predictor


def open_predictor(run: Path, limits: Limits) -> Predictor:
    """Open the classifier of a run folder, a bundle or a file, and check that the server is installed.

    Raises:
        UsageError: If there is no such classifier, or the extra `serve` is missing.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401 – FastAPI looks for it at the first form only
        import uvicorn  # noqa: F401
    except ImportError as error:
        hint = "Install it with: pip install 'tlcli[serve]'"
        raise UsageError(f"the server is not installed ({error})", where="serve", hint=hint) from error
    return Predictor(open_model(run), limits)


def serve(predictor: Predictor, host: str, port: int, *, announce: Callable[[Sequence[str]], None]) -> None:
    """Serve a classifier until the process is stopped.

    Args:
        predictor: The opened classifier.
        host: The address to bind.
        port: The port to bind; 0 for a free one.
        announce: Receives the URLs when it answers, that for this computer first.

    Raises:
        UsageError: If the address cannot be bound.
    """
    from tlcli.serve import server

    server.serve(predictor, host, port, announce=announce)
