"""The application: the page, `/predict`, `/labels`, `/health`, OpenAPI. Nothing in a request is used as a path."""

import asyncio
import ipaddress
from importlib import resources
from typing import Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tlcli import __version__
from tlcli.errors import DataError, TlcliError, TooManyPixelsError
from tlcli.serve.predictor import Busy, Predictor

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
# Room for the headers and boundaries of a multipart body.
_ENVELOPE_BYTES = 10_000
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}}
_BODY = {"requestBody": {"required": True, "content": {"image/*": _IMAGE, "multipart/form-data": _FORM}}}


class ClassProbability(BaseModel):
    """A class and its probability, 0-1."""

    label: str
    probability: float


class Answer(ClassProbability):
    """The most probable class, and classes by falling probability."""

    top: list[ClassProbability]


class Labels(BaseModel):
    """The class names in the order of the network."""

    labels: list[str]


class Health(BaseModel):
    """`ok` while the server answers."""

    status: str


class ErrorDetails(BaseModel):
    """What is wrong, and what to do; `kind` is `request`, or `internal` for a failure of the server."""

    kind: str
    where: str
    message: str
    hint: str


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetails


# What each status of an error means.
ERRORS = {
    400: "not an image that can be read",
    403: "another host name",
    408: "the body is too slow",
    413: "too many bytes or pixels",
    422: "top is wrong",
    500: "the classifier failed",
    503: "too many requests wait",
    504: "the answer took too long",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning[:1].upper() + meaning[1:]}
    for status, meaning in ERRORS.items()
}


class Refused(Exception):
    """A request that is refused with an HTTP status."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def make_app(predictor: Predictor, *, hosts: frozenset[str] | None) -> FastAPI:
    """The application of a classifier.

    Args:
        predictor: Classifies the images.
        hosts: Host names by which it may be called besides addresses; None for all. A page elsewhere could otherwise
            reach a server on this computer by a name that leads here (DNS rebinding).
    """
    app = FastAPI(title="tlcli serve", version=__version__, docs_url=None, redoc_url=None)
    page = resources.files("tlcli.serve").joinpath("page.html").read_text(encoding="utf-8")
    _answer_errors(app)

    @app.middleware("http")
    async def check_host(request: Request, call_next: Any) -> Any:
        """Refuse calls by an unknown host name."""
        if hosts is not None and not _is_allowed(request.url.hostname or "", hosts):
            return _error(403, "this host name is not served", "Call the server by localhost or its address.")
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers."""
        return Health(status="ok")

    @app.get("/labels")
    async def labels() -> Labels:
        """The class names."""
        return Labels(labels=list(predictor.runtime.classes))

    @app.post("/predict", openapi_extra=_BODY, responses=_RESPONSES)
    async def predict(request: Request, top: int | None = Query(None, ge=1)) -> Answer:
        """Classify the image in the body."""
        deadline = asyncio.get_running_loop().time() + predictor.limits.timeout_s
        async with predictor.slot(deadline):
            data = await _receive(request, predictor.limits.max_bytes, deadline)
            try:
                async with asyncio.timeout_at(deadline):
                    probabilities = await predictor.predict(data)
            except TimeoutError:
                raise Refused(504, "the answer took too long", "Send it again later, or a smaller image.") from None
        return _answer(probabilities, predictor.runtime.classes, top)

    return app


def _is_allowed(host: str, hosts: frozenset[str]) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in hosts
    return True


async def _receive(request: Request, max_bytes: int, deadline: float) -> bytes:
    """The image in the body of a request, of at most `max_bytes`, before `deadline` on the clock of the event loop.

    Raises:
        Refused: If the body is too large, too slow, or a form without exactly one file.
    """
    try:
        async with asyncio.timeout_at(deadline):
            body = await _read(request, max_bytes)
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                # Parsed from the body that was read, which is within the limit.
                request._body = body
                return await _file_of_form(request)
            return body
    except ClientDisconnect:
        raise Refused(400, "the body ended early") from None
    except TimeoutError:
        raise Refused(408, "the body was not received in time", "Send a smaller image.") from None


async def _read(request: Request, max_bytes: int) -> bytes:
    parts, size = [], 0
    hint = f"At most {max_bytes / 1e6:g} MB are read."
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes + _ENVELOPE_BYTES:
        raise Refused(413, "the body is too large", hint)
    async for part in request.stream():
        size += len(part)
        if size > max_bytes + _ENVELOPE_BYTES:
            raise Refused(413, "the body is too large", hint)
        parts.append(part)
    return b"".join(parts)


async def _file_of_form(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if len(files) == 1:
                return await files[0].read()
    except HTTPException as error:
        raise Refused(400, f"the form cannot be read ({error.detail})", "Send one image file.") from None
    raise Refused(400, "the form has no file", "Send one image file.")


def _answer(probabilities: np.ndarray, classes: tuple[str, ...], top: int | None) -> Answer:
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = [ClassProbability(label=classes[index], probability=float(probabilities[index])) for index in order]
    return Answer(label=ranked[0].label, probability=ranked[0].probability, top=ranked)


def _answer_errors(app: FastAPI) -> None:
    """Make every error a JSON document of the shape that `--json` prints."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        return _error(error.status, error.message, error.hint)

    @app.exception_handler(DataError)
    async def unreadable(_request: Request, error: DataError) -> JSONResponse:
        status = 413 if isinstance(error, TooManyPixelsError) else 400
        return _error(status, error.message, error.hint, where=error.where)

    @app.exception_handler(Busy)
    async def busy(_request: Request, _error_: Busy) -> JSONResponse:
        return _error(503, "too many requests wait", "Send it again later.")

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, _error_: RequestValidationError) -> JSONResponse:
        return _error(422, "top must be a whole number from 1", "Leave it out for all classes.", where="top")

    @app.exception_handler(TlcliError)
    async def failed(_request: Request, error: TlcliError) -> JSONResponse:
        return _error(500, error.message, error.hint, where=error.where, kind="internal")

    @app.exception_handler(Exception)
    async def broken(_request: Request, error: Exception) -> JSONResponse:
        hint = "The terminal of the server has the details."
        return _error(500, f"the server failed ({type(error).__name__})", hint, kind="internal")

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), "The addresses are listed in /openapi.json.")


def _error(status: int, message: str, hint: str, *, where: str = "", kind: str = "request") -> JSONResponse:
    document = {"kind": kind, "where": where, "message": message, "hint": hint}
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": document}, status_code=status, headers=headers)
