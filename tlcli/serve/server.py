"""The server: binds the address, then answers until it is stopped."""

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn

from tlcli.errors import UsageError
from tlcli.serve.app import make_app
from tlcli.serve.predictor import Predictor

LOCAL_HOSTS = frozenset({"localhost"})


def serve(predictor: Predictor, host: str, port: int, *, announce: Callable[[Sequence[str]], None]) -> None:
    """Serve a classifier until SIGINT or SIGTERM.

    Args:
        predictor: Classifies the images.
        host: The address to bind. Only for an address of this computer alone, calls by other host names are refused.
        port: The port to bind; 0 for a free one.
        announce: Receives the URLs when it answers: for this computer and, if others reach it, for those.

    Raises:
        UsageError: If the address cannot be bound.
    """
    # It reports every damaged form, which the client is told of.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    with _bind(host, port) as bound:
        hosts = LOCAL_HOSTS if is_local(host) else None
        config = uvicorn.Config(
            make_app(predictor, hosts=hosts),
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
        predictor.warm_up()
        announce([_url(name, bound.getsockname()[1]) for name in _names(host)])
        # uvicorn raises the signal again after it has closed the connections.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def is_local(host: str) -> bool:
    """True if only this computer reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOCAL_HOSTS


def _names(host: str) -> list[str]:
    """The addresses by which a server bound to `host` can be called."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    return ["127.0.0.1" if host == "0.0.0.0" else "::1", *filter(None, [_own_address()])]


def _own_address() -> str | None:
    """The address of this computer in its network; None without a network. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # An address for documentation (RFC 5737): the socket only looks up the route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


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
        is_address = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        hint = "Choose another --port, or --port 0 for a free one."
        if is_address:
            hint = "Give --host an address of this computer: 127.0.0.1, or 0.0.0.0 for all."
        raise UsageError(f"cannot be bound ({reason})", where=f"{host}:{port}", hint=hint) from error
    return bound
