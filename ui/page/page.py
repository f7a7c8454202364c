"""The Gradio page: Read (a user's conversation), Desk (customer service) and Behind (traces, models, ledger).

The page is one `gr.HTML` component. Its template is page.html, which never contains data: Gradio evaluates a
rendered template as a JavaScript template literal, in which a title with `${…}` or `\\x3c` would run as code. The
scripts fill `<template>` elements through `textContent` instead. The browser sends the events `act`, `ask`, `desk`
and `stop` (`ui.page.messages`); the server answers with what has changed (`ui.page.session`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware

from whyfeed.agent.phrases import languages, texts
from whyfeed.retrieval.errors import HomeError
from whyfeed.ui.http.connections import BodyLimit
from whyfeed.ui.http.server import Drain, address, listen, run
from whyfeed.ui.page.messages import BadMessage, read_ask
from whyfeed.ui.page.running import Running
from whyfeed.ui.page.session import Session
from whyfeed.ui.page.theme import head, theme

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

_FOLDER = Path(__file__).with_name("static")
_SCRIPTS = ("page.js", "cards.js", "rail.js", "behind.js", "start.js", "desk-help.js", "desk.js")
_LOOK_SECONDS = 2.0
_SESSIONS = 200  # kept at once; a tab whose session is gone gets a new one and goes on
_PORTS = range(7860, 7960)
# The browser loads nothing from other servers. Gradio compiles templates and inlines styles, which needs
# 'unsafe-eval' and 'unsafe-inline'.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def build(agent: Agent, language: str | None = None, running: Running | None = None) -> Any:
    """The page as `gradio.Blocks`, not yet served. `language` is used until the browser says its own.

    `running` gets to know what the page is answering.
    """

    handlers = _Handlers(agent, language or "en", running or Running())
    with gr.Blocks(title="whyfeed", fill_width=True, analytics_enabled=False) as page:
        page.state_session_capacity = _SESSIONS
        state = gr.State(None)
        html = gr.HTML(
            None,
            html_template=_read("page.html"),
            js_on_load="\n".join(_read(name) for name in _SCRIPTS),
            apply_default_css=False,
            elem_id="whyfeed",
            texts={name: texts(name) for name in languages()},
        )
        timer = gr.Timer(_LOOK_SECONDS)
        common: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "trigger_mode": "multiple",
            "concurrency_limit": None,
        }
        html.act(handlers.act, state, [state, html], **common)
        html.ask(handlers.ask, state, [state, html], **common)
        html.desk(handlers.desk, state, [state, html, timer], **common)
        html.stop(handlers.stop, state, html, **common)
        timer.tick(handlers.tick, state, [html, timer], **{**common, "trigger_mode": "once"})
    return page


class _Handlers:
    """What Gradio calls for the events of `page.html` and of the timer."""

    def __init__(self, agent: Agent, language: str, running: Running) -> None:
        self._agent = agent
        self._language = language
        self._running = running

    def act(self, session: Session | None, event: gr.EventData) -> tuple[Session, str]:
        """Carry out a message of the user."""
        session = self._session(session, event._data)
        session.act(event._data)
        return session, session.news(_field(event._data, "seen"))

    def ask(self, session: Session | None, event: gr.EventData) -> Iterator[tuple[Session, str]]:
        """Answer what the user wrote, step by step."""
        session, seen = self._session(session, event._data), _field(event._data, "seen")
        try:
            text = read_ask(event._data).text
        except BadMessage as exc:
            text = ""
            session.say(str(exc))
        with self._running.work(session):
            for _ in session.ask(text):
                yield session, session.news(seen)
            yield session, session.news(seen)

    def desk(self, session: Session | None, event: gr.EventData) -> Iterator[tuple[Session, str, Any]]:
        """Carry out a message of the operator, step by step."""
        session, seen = self._session(session, event._data), _field(event._data, "seen")
        # Customers may write at any time: once the desk is open, the timer looks for new messages.
        timer = gr.Timer(active=True) if _field(event._data, "do") == "list" else gr.skip()
        with self._running.work(session):
            for _ in session.desk(event._data):
                yield session, session.news(seen), timer
                timer = gr.skip()

    def stop(self, session: Session | None, event: gr.EventData) -> Any:
        """Stop the answer that is being made."""
        if session is None:
            return gr.skip()
        session.stop()
        return session.news(_field(event._data, "seen"))

    def tick(self, session: Session | None) -> tuple[Any, Any]:
        """Look for what changes by itself."""
        if session is None:
            return gr.skip(), gr.skip()
        changed = session.look_again()
        timer = gr.skip() if session.waits else gr.Timer(active=False)
        return session.news() if changed else gr.skip(), timer

    def _session(self, session: Session | None, data: Any) -> Session:
        # A tab that was open before the server restarted has no session; its message says what it shows.
        if session is None:
            session = Session(self._agent, self._language)
            session.act({"do": "start", "here": _field(data, "here") or {}})
        return session


def serve(
    agent: Agent,
    host: str = "127.0.0.1",
    port: int | None = None,
    on_ready: Callable[[str], None] | None = None,
    *,
    language: str | None = None,
    login: tuple[str, str] | None = None,
) -> None:
    """Serve the page until SIGTERM or SIGINT; `on_ready` gets its address once it answers.

    Without a port the first free one from 7860 on is taken. HomeError when the port is in use, or
    when others could reach the page (`host` is not this machine alone) and no login is given.
    """
    if login is None and not is_loopback(host):
        raise HomeError(f"{host!r} can be reached from other machines: give a login, or use 127.0.0.1")
    with _listen(host, port) as listening:
        running = Running()
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_middleware(BodyLimit)
        drain = mount(app, build(agent, language, running), "/", running, login)
        url = f"{address(host, listening)}/"
        run(app, listening, None if on_ready is None else lambda: on_ready(url), drain)


def mount(app: FastAPI, page: Any, path: str, running: Running, login: tuple[str, str] | None = None) -> Drain:
    """Put a built page under a path of an application. Returns what its server must do before it stops."""
    gr.mount_gradio_app(app, page, path, auth=login, **settings())
    mounted: Any = app.routes[-1]

    async def drain(seconds: float) -> None:
        await running.drain(seconds)
        mounted.app.stop_event.set()  # ends the streams that tabs keep open

    return drain


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket on the port, or on the first free one from 7860 on. HomeError when there is none."""
    if port is not None:
        return listen(host, port)
    for each in _PORTS:
        try:
            return listen(host, each)
        except HomeError:
            if each == _PORTS[-1]:
                raise
    raise HomeError(f"no port of {host!r} is free; name one with --port")


def settings() -> dict[str, Any]:
    """Arguments of `gradio.mount_gradio_app`."""
    return {
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "theme": theme(),
        "head": f"{head()}<style>{_read('desk.css')}</style>",
        "app_kwargs": {"middleware": [Middleware(_Headers)], "docs_url": None, "redoc_url": None},
    }


class _Headers:
    """Adds the security headers to every answer (ASGI middleware)."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def is_loopback(host: str) -> bool:
    """Is it an address that only this machine can reach?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _field(data: Any, name: str) -> Any:
    """A field of what the browser sent, before it is known to be a message."""
    return data.get(name) if isinstance(data, dict) else None


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
