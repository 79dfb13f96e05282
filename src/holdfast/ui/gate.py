"""Let in only requests that carry the page's token, so that a web page elsewhere cannot drive this one.

The token comes once in the URL, as Jupyter's does, and then in a cookie. A page whose name was pointed at this machine
(DNS rebinding) has neither: the cookie belongs to this page's host.
"""

import hashlib
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

LOCKED = b"This page opens by the address that `holdfast ui` printed, which carries a token (?token=...)."


def make_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


class Gate:
    """ASGI middleware around everything: pages, files, uploads, events and web sockets."""

    def __init__(self, app, token: str):
        self.app, self.token = app, token
        self.cookie = f"holdfast-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan" or self._has_cookie(scope):
            return await self.app(scope, receive, send)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if not any(map(self._is_token, given)):
            return await _refuse(scope, send)
        if scope["type"] == "http" and scope["method"] == "GET":
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            return await self._admit(rest, send)
        return await self.app(scope, receive, send)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())

    def _has_cookie(self, scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"cookie":
                found = _cookies(value.decode("latin-1")).get(self.cookie, "")
                if self._is_token(found):
                    return True
        return False

    async def _admit(self, rest: str, send) -> None:
        """Set the cookie, and send the browser to the same place without the token."""
        # Lax: a link in a mail still opens the page, and a form on another site carries no cookie.
        cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
        headers = {"location": f"?{rest}", "set-cookie": cookie, "referrer-policy": "no-referrer"}
        await _answer(send, 303, headers)


def _cookies(text: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(text).items()}
    except CookieError:
        return {}


async def _refuse(scope, send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, 403, {"content-type": "text/plain; charset=utf-8"}, LOCKED)


async def _answer(send, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    """Answer a request; nothing of it is kept anywhere."""
    sent = {"content-length": str(len(body)), "cache-control": "no-store"} | headers
    encoded = [(name.encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
