"""Who may use the page, and what of Gradio's server it needs: everything else is refused before Gradio sees it.

Gradio's server answers any origin with the visitor's cookies where its Host is not local, takes files of any size, and
has routes that this page never uses. `Guard` stands before it: names and origins (`ui.http.origins`), the login
(`ui.page.login`), a list of routes, and limits on bodies, sessions and messages (`ui.page.sessions`).
"""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from whyfeed.agent.phrases import say
from whyfeed.ui.http.access import Refused
from whyfeed.ui.page.document import accepted_language
from whyfeed.ui.page.login import address_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from whyfeed.ui.http.origins import Origins
    from whyfeed.ui.page.login import Login
    from whyfeed.ui.page.sessions import Sessions

_ALIVE = "/gradio_api/app_id"  # asked by a tab until a server that went away is back; answers a random number
# What the page's browser asks of Gradio, below the page's own path.
_ROUTES = {
    "/": ("GET", "HEAD"),
    "/theme.css": ("GET", "HEAD"),
    "/favicon.ico": ("GET", "HEAD"),
    _ALIVE: ("GET",),
    "/gradio_api/queue/join": ("POST",),
    "/gradio_api/queue/data": ("GET",),
}
_FILES = re.compile(r"/(?:assets|static/js|static/fonts|static/img)(?:/[\w@+-][\w.@+-]*)+")
_BODY = 1_000_000  # bytes; the longest message of the page, a text of 200,000 characters, is shorter
_LOGIN_BODY = 10_000
_BODY_SECONDS = 30
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
# The browser loads nothing from other servers. Gradio compiles templates and inlines styles, which needs
# 'unsafe-eval' and 'unsafe-inline'.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_SECURITY = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
# Headers that Gradio does not get: it would let other origins in, or believe where it is served.
_WITHHELD = {b"origin", b"host", b"x-gradio-server", b"x-forwarded-host"}
_FORM = Template((Path(__file__).with_name("static") / "login.html").read_text(encoding="utf-8"))


class Guard:
    """ASGI middleware around Gradio's application. `login` None: the page has none. `events`: numbers of its events."""

    def __init__(
        self, app: ASGIApp, *, origins: Origins, sessions: Sessions, login: Login | None, events: Collection[int]
    ) -> None:
        self._app = app
        self._events = events
        self._origins = origins
        self._sessions = sessions
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with `{"error": "one line"}`."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = message.get("headers", [])
                names = {name.lower() for name, _ in said}
                added = [pair for pair in _SECURITY if pair[0] not in names]
                message = {**message, "headers": [*said, *added]}
            await send(message)

        request = Request(scope, receive)
        try:
            await self._serve(request, secured)
        except Refused as exc:
            await _refusal(exc)(scope, receive, secured)

    async def _serve(self, request: Request, send: Send) -> None:
        path = get_route_path(request.scope) or "/"
        path = path if path == "/" else path.rstrip("/")
        if self._login is None:
            self._origins.check_name(request.headers)
        self._origins.check_origin(
            request.headers, opens=request.method in ("GET", "HEAD") and path in ("/", "/login", "/logout")
        )
        if self._login is not None:
            answer = await self._at_the_door(self._login, request, path)
            if answer is not None:
                await answer(request.scope, request.receive, send)
                return
        methods = ("GET", "HEAD") if _FILES.fullmatch(path) else _ROUTES.get(path)
        if methods is None:
            raise Refused(404, f"the page has no {path[:100]!r}")
        if request.method not in methods:
            raise Refused(405, f"{path} is for {' and '.join(methods)}")
        scope = self._for_gradio(request)
        if path == "/gradio_api/queue/join":
            body = await self._message(request)
            await self._app(_with_length(scope, body), _replayed(body, request.receive), send)
        elif path == "/gradio_api/queue/data":
            with self._sessions.streaming(request.query_params.get("session_hash", "")):
                await self._app(scope, request.receive, _unless_stopped(send))
        else:
            self._sessions.end_idle()
            await self._app(scope, request.receive, send)

    # ---- login

    async def _at_the_door(self, login: Login, request: Request, path: str) -> Response | None:
        """The answer to a visitor who logs in or out, or has not logged in; None for one who has."""
        token = _cookies(request.headers).get(login.cookie, "")
        language = accepted_language(request.headers)
        if path == "/login" and request.method == "POST":
            return await self._log_in(login, request, language)
        if path == _ALIVE:
            return None  # a tab whose login ended with the server must see that it is back
        known = bool(token) and login.knows(token)
        if path == "/logout" and known:
            if request.method != "POST":
                return _form("logout", language)
            login.leave(token)
            answer = RedirectResponse("./", 303)
            secure = self._origins.is_secure(request.url.scheme, request.headers)
            answer.headers["set-cookie"] = login.set_cookie("", secure=secure)
            return answer
        if known and path not in ("/login", "/logout"):
            return None
        if path in ("/login", "/logout"):
            return RedirectResponse("./", 303)
        if path == "/" and request.method in ("GET", "HEAD"):
            return _form("login", language, query=request.url.query)
        raise Refused(401, "log in first: open the page again")

    async def _log_in(self, login: Login, request: Request, language: str) -> Response:
        form = parse_qs((await _read(request, _LOGIN_BODY)).decode(errors="replace"), keep_blank_values=True)
        if "username" not in form:
            raise Refused(422, "send username and password as a form: application/x-www-form-urlencoded")
        name, password = form["username"][0], form.get("password", [""])[0]
        by_form = "text/html" in request.headers.get("accept", "")
        try:
            token = login.enter(name, password, address_of(request.scope.get("client")))
        except Refused as exc:
            if not by_form:
                raise
            wait = exc.headers.get("Retry-After", "")
            told = say("login.wait", language, seconds=wait) if wait else say("login.wrong", language)
            return _form("login", language, exc.status, told, query=request.url.query, headers=exc.headers)
        query = request.url.query
        answer: Response = JSONResponse({"success": True})
        if by_form:
            answer = RedirectResponse(f"./?{query}" if query else "./", 303)
        secure = self._origins.is_secure(request.url.scheme, request.headers)
        answer.headers["set-cookie"] = login.set_cookie(token, secure=secure)
        return answer

    # ---- what Gradio gets

    def _for_gradio(self, request: Request) -> Scope:
        """The request as if the visitor's browser had asked without a proxy: Gradio makes its own address of it."""
        headers, scope = request.headers, request.scope
        kept = [pair for pair in scope["headers"] if pair[0].lower() not in _WITHHELD]
        root = self._origins.root_of(headers)
        return {
            **scope,
            "headers": [(b"host", self._origins.host_of(headers).encode("latin-1")), *kept],
            "scheme": "https" if self._origins.is_secure(request.url.scheme, headers) else "http",
            "root_path": root + scope.get("root_path", ""),
            "path": root + scope["path"],
        }

    async def _message(self, request: Request) -> bytes:
        """The body of a message, made anew of the fields that the page sends: no files and no other function."""
        try:
            said = json.loads(await _read(request, _BODY))
            id, number, about = said["session_hash"], said["fn_index"], said.get("trigger_id")
            good = isinstance(id, str) and _ID.fullmatch(id) and type(number) is int and number in self._events
            if not good or not (about is None or type(about) is int):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Refused(422, "this is no message of the page; open the page again") from None
        self._sessions.admit(id, address_of(request.scope.get("client")))
        kept = {"session_hash": id, "fn_index": number, "trigger_id": about, "event_data": said.get("event_data")}
        return json.dumps({**kept, "data": []}).encode()


async def _read(request: Request, most: int) -> bytes:
    """A request's body. Raises Refused: 413 where it is longer than `most` bytes, 408 where it does not come."""
    too_long = Refused(413, f"the body has more than {most} bytes")
    if request.headers.get("content-length", "0").isdigit() and int(request.headers.get("content-length", "0")) > most:
        raise too_long
    pieces, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise too_long
                pieces.append(piece)
    except TimeoutError:
        raise Refused(408, "the body did not come") from None
    return b"".join(pieces)


def _with_length(scope: Scope, body: bytes) -> Scope:
    dropped = (b"content-length", b"transfer-encoding", b"content-encoding", b"content-type")
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in dropped]
    own = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    return {**scope, "headers": [*headers, *own]}


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _unless_stopped(send: Send) -> Send:
    """A server that stops breaks the stream off, so that the tab looks for it until it is back.

    Gradio's last message would tell the tab of an error of that one answer, and the tab would wait for it for ever.
    """

    async def go_on(message: Message) -> None:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        await send(message)

    return go_on


def _cookies(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in headers.getlist("cookie"):
        try:
            found |= {name: morsel.value for name, morsel in SimpleCookie(each).items()}
        except CookieError:
            continue
    return found


def _form(
    kind: str, language: str, status: int = 200, told: str = "", query: str = "", headers: dict[str, str] | None = None
) -> Response:
    """The small page that asks for name and password, or whether to log out."""
    words = {
        "tag": say("language.tag", language),
        "told": told,
        "name": say("login.name", language),
        "password": say("login.password", language),
        "enter": say("login.login" if kind == "login" else "login.logout", language),
        "action": kind + (f"?{query}" if query else ""),
        "asks": "" if kind == "login" else "disabled",
    }
    text = _FORM.substitute({key: html.escape(word) for key, word in words.items()})
    # With no-referrer a form's Origin would be "null".
    return HTMLResponse(
        text, status, {**(headers or {}), "referrer-policy": "same-origin", "cache-control": "no-store"}
    )


def _refusal(exc: Refused) -> Response:
    headers = {name: value for name, value in exc.headers.items() if name != "WWW-Authenticate"}
    return JSONResponse({"error": str(exc)}, exc.status, headers)
