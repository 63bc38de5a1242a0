"""The server: binds the address, then answers until it is stopped."""

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from tlcli.errors import UsageError
from tlcli.serve.app import make_app
from tlcli.serve.predictor import Predictor

# Connections above the requests that may wait, which are answered that the server is busy.
SPARE_CONNECTIONS = 256
LOCAL_HOSTS = frozenset({"localhost"})


def serve(predictor: Predictor, host: str, port: int, *, announce: Callable[[str], None]) -> None:
    """Serve a classifier until SIGINT or SIGTERM.

    Args:
        predictor: Classifies the images.
        host: The address to bind. Only for an address of this computer alone, calls by other host names are refused.
        port: The port to bind; 0 for a free one.
        announce: Receives the URL when it answers.

    Raises:
        UsageError: If the address cannot be bound.
    """
    with _bind(host, port) as bound:
        hosts = LOCAL_HOSTS if is_local(host) else None
        config = uvicorn.Config(
            make_app(predictor, hosts=hosts),
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=predictor.limits.max_waiting + SPARE_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
        predictor.warm_up()
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{bound.getsockname()[1]}/")
        # uvicorn raises the signal again after it has closed the connections.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def is_local(host: str) -> bool:
    """True if only this computer reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOCAL_HOSTS


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(512)
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        hint = "Choose another --port, or --port 0 for a free one."
        raise UsageError(f"cannot be bound ({reason})", where=f"{host}:{port}", hint=hint) from error
    return bound
