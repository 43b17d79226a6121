"""How an error is answered: a status and JSON, in the shape that the clients of each address expect."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tinyldm.errors import TinyldmError
from tinyldm.server.refusals import Broken, NoToken, Refusal, blamed

STATUSES = {404: "there is nothing at this address", 405: "this address does not take this method"}


def answer(request: Request, error: Exception) -> Response:
    """The answer to an error; one that is no fault of the request is a bug, status 500, and says nothing of itself."""
    path = request.url.path
    if isinstance(error, HTTPException):
        return refusal(path, error.status_code, STATUSES.get(error.status_code, str(error.detail)), "NotThere")
    if isinstance(error, ClientDisconnect):  # while it sent its request: nobody reads this
        return Response(status_code=400)
    if isinstance(error, TinyldmError):
        status = error.status if isinstance(error, Refusal) else 422
        headers = {"WWW-Authenticate": 'Basic realm="tinyldm", charset="UTF-8"'} if isinstance(error, NoToken) else {}
        headers |= {"Retry-After": "5"} if status in (429, 503) else {}
        return refusal(path, status, str(error), type(error).__name__, blamed(error), headers)
    return refusal(path, 500, str(Broken()), "Broken")


def refusal(
    path: str, status: int, sentence: str, kind: str, field: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """A sentence as an answer: for OpenAI's clients in an object `error`, for AUTOMATIC1111's beside its kind."""
    content: dict[str, Any] = {"error": kind, "detail": sentence, "field": field, "body": "", "errors": sentence}
    if path.startswith("/v1/"):
        status = 400 if status == 422 else status
        whose = "invalid_request_error" if status < 500 else "server_error"
        content = {"error": {"message": sentence, "type": whose, "param": field, "code": kind}}
    return JSONResponse(content, status, headers)
