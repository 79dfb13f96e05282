"""What is let in: every route asks for the token, on any kind of address; one page a folder."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from holdfast.base.errors import UserError
from holdfast.ui.auth import TokenMiddleware
from holdfast.ui.queue import Limits
from holdfast.ui.serve import Address, open_socket, serve
from tests.patience import HANG

TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page's address without its token, and its application."""
    folder = tmp_path_factory.mktemp("page")
    with serve(folder, Limits(), Address(token=TOKEN)) as (url, _):
        yield url.partition("?")[0]


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def ask(url, data=None, **headers):
    """The status and headers of an answer."""
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=HANG) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


ROUTES = (
    "",
    "config",
    "theme.css",
    "gradio_api/info",
    "gradio_api/startup-events",
    "gradio_api/file=/etc/passwd",
    "gradio_api/queue/data?session_hash=x",
    "gradio_api/heartbeat/x",
    "gradio_api/upload_progress?upload_id=x",
    "docs",
    "openapi.json",
    "nothing",
)


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_opens_without_the_token(site, route):
    for query in ("", "token=", "token=wrong"):
        joint = "&" if "?" in route else "?"
        assert ask(f"{site}{route}{joint}{query}")[0] == 403
    assert ask(f"{site}{route}", Cookie="holdfast=x; other=open-sesame")[0] == 403


@pytest.mark.parametrize(
    "route", ["gradio_api/upload", "gradio_api/queue/join", "gradio_api/run/x"]
)
def test_nothing_is_posted_without_the_token(site, route):
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    assert ask(f"{site}{route}", body, **{"Content-Type": "application/json"})[0] == 403


def test_the_first_visit_sets_a_cookie_that_opens_everything(site):
    status, headers = ask(f"{site}?token={TOKEN}&__theme=dark")
    assert (status, headers["Location"]) == (303, "?__theme=dark")
    cookie = headers["Set-Cookie"]
    assert "; HttpOnly; SameSite=Lax" in cookie
    for route in ("", "config"):
        assert ask(f"{site}{route}", Cookie=f"other=1; {cookie.partition(';')[0]}")[0] == 200
    # A page whose name was pointed here sends its own host's cookies: none of ours.
    assert ask(site, Host="evil.example")[0] == 403


def test_a_web_socket_and_events_are_asked_too():
    sent = []

    async def send(message):
        sent.append(message)

    async def reached(*_):
        raise AssertionError("let in")

    gate = TokenMiddleware(reached, TOKEN)
    for kind in ("http", "websocket"):
        scope = {"type": kind, "method": "POST", "headers": [(b"cookie", b"a=\xff;=;")]}
        asyncio.run(gate(scope | {"query_string": b"token=%FF"}, None, send))
    assert [m.get("status", m.get("code")) for m in sent] == [403, None, 1008]


def test_addresses_read_as_a_browser_takes_them():
    assert Address("::1", token="x").url(80) == "http://[::1]:80/?token=x"
    assert Address("0.0.0.0").url(80) == "http://localhost:80/"
    assert Address("::").url(80) == "http://localhost:80/"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("listen", ["::1", "::", "127.0.0.1", "localhost", "0.0.0.0"])
def test_any_family_of_address_gets_a_port(listen):
    with open_socket(Address(listen)) as held:
        port = held.getsockname()[1]
        assert port
        with pytest.raises(UserError, match=rf"port {port} on .* cannot be used.*--port"):
            open_socket(Address(listen, port))


def test_a_name_that_nobody_has_is_told():
    with pytest.raises(UserError, match="cannot be used"):
        open_socket(Address("no.such.name.invalid"))


def test_a_second_page_on_a_folder_ends_with_a_sentence(tmp_path):
    command = [sys.executable, "-m", "holdfast.cli", "ui", "-o", tmp_path, "--port", "0"]
    with serve(tmp_path, Limits(), Address()):
        second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2
    assert re.fullmatch(r"error: another page is open on .*--folder\n", second.stderr)
