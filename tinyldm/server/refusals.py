"""What the server refuses: one sentence each, with a status of HTTP and the field that is to blame."""

from __future__ import annotations

import re

from tinyldm.errors import InputError
from tinyldm.pipelines.request import READ

# The fields of a request that a sentence of `pipelines` may begin with.
NAMED = (*READ, "num_images", "image", "mask")


class Refusal(InputError):
    """A request that can't be honoured, with the status of its answer and the field that is to blame, if one is."""

    status = 422

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotAllowed(Refusal):
    """The host, the origin or the token is not one that this server answers."""

    status = 403


class NoToken(Refusal):
    """The server wants a token, and the request has none, or another."""

    status = 401


class NotThere(Refusal):
    """There is no such address, model or picture."""

    status = 404


class TooLarge(Refusal):
    """An upload is larger than the server takes."""

    status = 413


class NotEnoughMemory(Refusal):
    """A picture would take more memory than there is."""

    status = 413


class QueueFull(Refusal):
    """As many wait as may wait."""

    status = 429


class Broken(Refusal):
    """A bug: what it was is for who runs the server, who has its traceback."""

    status = 500

    def __init__(self) -> None:
        super().__init__("something went wrong inside the server; what it prints says more")


class Ending(Refusal):
    """The server is being ended."""

    status = 503


def blamed(error: Exception) -> str | None:
    """The field that an error is about: its own, or the one that its sentence begins with or names a prompt by."""
    if isinstance(error, Refusal):
        return error.field
    message = str(error)
    # It may come after the path of the model: "weights/emoji: negative_prompt is nothing that …".
    for first in (re.match(r"[a-z_]+", message), *re.finditer(r"(?<=: )[a-z_]+(?= is )", message)):
        if first is not None and first[0] in NAMED:
            return first[0]
    return "prompt" if "prompt" in message else None
