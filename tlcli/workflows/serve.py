"""Serve: answer requests with a classifier."""

from collections.abc import Callable
from pathlib import Path

from tlcli.errors import UsageError
from tlcli.evaluate.runtimes import open_model
from tlcli.serve.predictor import Limits, Predictor


def serve(run: Path, host: str, port: int, limits: Limits, *, announce: Callable[[str], None]) -> None:
    """Serve a classifier until the process is stopped.

    Args:
        run: A run folder, a bundle or a file of a classifier.
        host: The address to bind.
        port: The port to bind; 0 for a free one.
        limits: What is accepted.
        announce: Receives the URL when it answers.

    Raises:
        UsageError: If there is no such classifier, the address cannot be bound, or the extra `serve` is missing.
    """
    try:
        import python_multipart  # noqa: F401 – FastAPI looks for it at the first form only

        from tlcli.serve.server import serve as serve_requests
    except ImportError as error:
        hint = "Install it with: pip install 'tlcli[serve]'"
        raise UsageError(f"the server is not installed ({error})", where="serve", hint=hint) from error
    serve_requests(Predictor(open_model(run), limits), host, port, announce=announce)
