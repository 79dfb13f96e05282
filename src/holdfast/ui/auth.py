"""Accept only requests that carry the page's token, so that another web page cannot control this one.

The token arrives once in the URL, like Jupyter's, and then in a cookie. A page whose name was pointed at this machine
(DNS rebinding) has neither: the cookie belongs to this page's host.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

REFUSAL = b"Open this page with the address that `holdfast ui` printed, which carries a token (?token=...)."

# The types of ASGI.
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def make_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


class TokenMiddleware:
    """ASGI middleware that protects pages, files, uploads, events and web sockets with a token."""

    def __init__(self, app: App, token: str):
        self.app, self.token = app, token
        self.cookie = f"holdfast-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request: forward it, set the cookie, or refuse it."""
        if scope["type"] == "lifespan" or self._has_cookie(scope):
            return await self.app(scope, receive, send)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in query if name == "token"]
        if not any(map(self._is_token, tokens)):
            return await _refuse(scope, send)
        if scope["type"] == "http" and scope["method"] == "GET":
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            return await self._admit(rest, send)
        return await self.app(scope, receive, send)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())

    def _has_cookie(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"cookie":
                token = _parse_cookies(value.decode("latin-1")).get(self.cookie, "")
                if self._is_token(token):
                    return True
        return False

    async def _admit(self, rest: str, send: Send) -> None:
        """Set the cookie, and redirect the browser to the same place without the token."""
        # Lax: a link in a mail still opens the page, and a form on another site sends no cookie.
        cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
        headers = {"location": f"?{rest}", "set-cookie": cookie, "referrer-policy": "no-referrer"}
        await _send_response(send, 303, headers)


def _parse_cookies(text: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(text).items()}
    except CookieError:
        return {}


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _send_response(send, 403, {"content-type": "text/plain; charset=utf-8"}, REFUSAL)


async def _send_response(
    send: Send, status: int, headers: dict[str, str], body: bytes = b""
) -> None:
    """Send a response that is not cached."""
    fields = {"content-length": str(len(body)), "cache-control": "no-store"} | headers
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
