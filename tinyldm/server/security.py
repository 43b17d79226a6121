"""Whom the server answers: the hosts, origins and tokens that it is told to, and uploads of a bounded size.

A page of another site can make a browser send requests to a server on the loopback address. Three checks keep it out:

- `Host` must be a name of this server. A site whose name is made to lead to the loopback address (DNS rebinding) still
  sends its own name there. An address in numbers can't be made to lead elsewhere.
- `Origin`, which browsers send with what a page's script asks for, must be the server itself, or be allowed.
- `Sec-Fetch-Site` tells of what else a page embeds, such as a picture: only a link that is followed may come from
  another site.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyldm.server.problems import answer
from tinyldm.server.refusals import NotAllowed, NoToken, Refusal, TooLarge

COOKIE = "tinyldm-token"
MOST_BYTES = 32 << 20  # of an upload


@dataclass(frozen=True)
class Rules:
    """Which hosts and origins are answered, and with which token, if one is wanted.

    `hosts` are names without a port, beside localhost and loopback addresses; `any_address` also takes every address
    in numbers. `origins` are such as `https://example.org`, beside the server's own; `*` is any.
    """

    hosts: tuple[str, ...] = ()
    any_address: bool = False
    origins: tuple[str, ...] = ()
    token: str | None = None

    def check(self, headers: Headers, method: str) -> None:
        """Raise `NotAllowed` or `NoToken` for a request that is not to be answered."""
        host = headers.get("host", "")
        if not self.answers(host):
            raise NotAllowed(f"this server does not answer as {host!r}; start it with --allow-host to allow that name")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and not self.lets_in(origin, host):
            raise NotAllowed(f"pages of {origin!r} may not use this server; start it with --allow-origin to allow them")
        followed = headers.get("sec-fetch-mode") == "navigate" and method == "GET"
        if origin is None and site not in ("none", "same-origin") and not followed and "*" not in self.origins:
            raise NotAllowed("pages of other sites may not embed what this server has")
        if self.token is not None and method != "OPTIONS" and not any(map(self.is_token, words_of(headers))):
            raise NoToken("this server wants its token: as a bearer, as a password, or in the address that it printed")

    def answers(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        name = host_name(host)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name.endswith(".localhost") or name in self.hosts
        return address.is_loopback or self.any_address or name in self.hosts

    def lets_in(self, origin: str, host: str) -> bool:
        """Whether pages of an origin may use the server: its own pages, and those that are allowed."""
        return origin in (f"http://{host}", f"https://{host}") or origin in self.origins or "*" in self.origins

    def is_token(self, word: str) -> bool:
        """Whether a word is the token; it takes as long whatever the word is."""
        return secrets.compare_digest(word.encode(), (self.token or "").encode())


def host_name(host: str) -> str:
    """The name of a `Host` header: without the port, and an address of IPv6 without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def words_of(headers: Headers) -> list[str]:
    """What a request gives for a token: a bearer, the password of basic authentication, the cookie of the page."""
    words = []
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        words.append(value.strip())
    if kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            words.append(base64.b64decode(value).decode().partition(":")[2])
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    return words if cookie is None else [*words, cookie.value]


class Guard:
    """Lets in what the rules let in, and reads no more than `most` bytes of it: a layer around the application."""

    def __init__(self, app: ASGIApp, rules: Rules, most: int = MOST_BYTES) -> None:
        self.app, self.rules, self.most = app, rules, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        early = self.early_answer(Request(scope), Headers(scope=scope))
        await (early or self.app)(scope, receive if early else self.bounded(receive), send)

    def early_answer(self, request: Request, headers: Headers) -> Response | None:
        """A refusal, or the cookie for who comes with the token in the address; None for what may pass."""
        try:
            given = parse_qs(request.url.query).get("token", [""])[-1]
            if self.rules.token is not None and request.url.path == "/" and self.rules.is_token(given):
                Rules(self.rules.hosts, self.rules.any_address, self.rules.origins).check(headers, request.method)
                return with_cookie(given)
            self.rules.check(headers, request.method)
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length) > self.most:
                raise self.too_large()
        except Refusal as refused:
            return answer(request, refused)
        return None

    def bounded(self, receive: Receive) -> Receive:
        """What is received, up to the bound."""
        taken = 0

        async def within() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:
                raise self.too_large()
            return message

        return within

    def too_large(self) -> TooLarge:
        """The refusal of an upload."""
        return TooLarge(f"the upload is larger than {self.most >> 20} MB, which is what this server takes")


def with_cookie(token: str) -> Response:
    """To the page, with the token in a cookie that no script can read and no other site can send."""
    response = RedirectResponse("/", 303)
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
    return response
