"""The Gradio page: Read (a user's conversation), Desk (customer service) and Behind (traces, models, ledger).

The page is one `gr.HTML` component. Its template is page.html, which never contains data: Gradio evaluates a
rendered template as a JavaScript template literal, in which a title with `${…}` or `\\x3c` would run as code. The
scripts fill `<template>` elements through `textContent` instead. The browser sends the events `act`, `ask`, `desk`
and `stop` (`ui.page.messages`); the server answers with what has changed (`ui.page.session`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Mount

from whyfeed.agent.phrases import languages, texts
from whyfeed.retrieval.errors import HomeError
from whyfeed.ui.http.origins import Origins, is_loopback
from whyfeed.ui.http.server import Drain, address, listen, run
from whyfeed.ui.page.access import Guard
from whyfeed.ui.page.document import Document
from whyfeed.ui.page.login import Login
from whyfeed.ui.page.messages import BadMessage, read_ask
from whyfeed.ui.page.running import Running
from whyfeed.ui.page.session import Session
from whyfeed.ui.page.sessions import MOST, Sessions
from whyfeed.ui.page.theme import head, theme

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

_FOLDER = Path(__file__).with_name("static")
_SCRIPTS = ("page.js", "cards.js", "rail.js", "behind.js", "start.js", "desk-help.js", "desk.js")
_LOOK_SECONDS = 2.0
_PORTS = range(7860, 7960)
_WAITING = 200  # messages that wait for one of Gradio's 40 threads; more are refused


def mount(
    app: FastAPI,
    agent: Agent,
    path: str = "",
    *,
    login: tuple[str, str] | None = None,
    sites: Sequence[str] = (),
    language: str | None = None,
) -> Drain:
    """Add the page of an agent to an application, at `path` ("": at the root), behind `ui.page.access`.

    `login` is a name and a password; `sites` are the page's public addresses. `language` is used until the browser
    says its own. Returns what its server must do before it stops. Raises ValueError, in one line, for a site that is
    no address.
    """
    origins = Origins(sites)
    sessions = Sessions(agent, language or "en", lambda id: _forget(page, id))
    running = Running()
    page = _build(sessions, running)
    gr.mount_gradio_app(app, page, path or "/", **_settings())
    mounted: Any = next(route.app for route in reversed(app.routes) if isinstance(route, Mount) and route.path == path)
    # Added last, it is the outermost: Gradio's own middleware answers foreign origins.
    door = None if login is None else Login(*login)
    mounted.add_middleware(Guard, origins=origins, sessions=sessions, login=door, events=frozenset(page.fns))

    async def drain(seconds: float) -> None:
        await running.drain(seconds)
        mounted.stop_event.set()  # ends the streams that tabs keep open

    return drain


def _forget(page: Any, id: str) -> None:
    """Drop what Gradio keeps of a session that has ended; by itself it keeps it for hours or for good."""
    page.state_holder.session_data.pop(id, None)
    page.state_holder.time_last_used.pop(id, None)
    page._queue.pending_messages_per_session.pop(id, None)
    page._queue.pending_event_ids_session.pop(id, None)


def _build(sessions: Sessions, running: Running) -> Any:
    """The page as `gradio.Blocks`."""
    handlers = _Handlers(sessions, running)
    with gr.Blocks(title="whyfeed", fill_width=True, analytics_enabled=False) as page:
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
        html.act(handlers.act, None, html, **common)
        html.ask(handlers.ask, None, html, **common)
        html.desk(handlers.desk, None, [html, timer], **common)
        html.stop(handlers.stop, None, html, **common)
        timer.tick(handlers.tick, None, [html, timer], **{**common, "trigger_mode": "once"})
    page.state_session_capacity = MOST
    return page.queue(max_size=_WAITING)


class _Handlers:
    """What Gradio calls for the events of `page.html` and of the timer."""

    def __init__(self, sessions: Sessions, running: Running) -> None:
        self._sessions = sessions
        self._running = running

    def act(self, request: gr.Request, event: gr.EventData) -> str:
        """Carry out a message of the user."""
        with self._at_work(request, event._data) as session:
            session.act(event._data)
            return session.news(_field(event._data, "seen"))

    def ask(self, request: gr.Request, event: gr.EventData) -> Iterator[str]:
        """Answer what the user wrote, step by step."""
        seen = _field(event._data, "seen")
        with self._at_work(request, event._data) as session, self._running.work(session):
            try:
                text = read_ask(event._data).text
            except BadMessage as exc:
                text = ""
                session.say(str(exc))
            for _ in session.ask(text):
                yield session.news(seen)
            yield session.news(seen)

    def desk(self, request: gr.Request, event: gr.EventData) -> Iterator[tuple[str, Any]]:
        """Carry out a message of the operator, step by step."""
        seen = _field(event._data, "seen")
        # Customers may write at any time: once the desk is open, the timer looks for new messages.
        timer = gr.Timer(active=True) if _field(event._data, "do") == "list" else gr.skip()
        with self._at_work(request, event._data) as session, self._running.work(session):
            for _ in session.desk(event._data):
                yield session.news(seen), timer
                timer = gr.skip()

    def stop(self, request: gr.Request, event: gr.EventData) -> Any:
        """Stop the answer that is being made."""
        with self._sessions.working(str(request.session_hash)) as session:
            if session is None:
                return gr.skip()
            session.stop()
            return session.news(_field(event._data, "seen"))

    def tick(self, request: gr.Request) -> tuple[Any, Any]:
        """Look for what changes by itself."""
        with self._sessions.working(str(request.session_hash)) as session:
            if session is None:
                return gr.skip(), gr.skip()
            changed = session.look_again()
            timer = gr.skip() if session.waits else gr.Timer(active=False)
            return session.news() if changed else gr.skip(), timer

    @contextmanager
    def _at_work(self, request: gr.Request, data: Any) -> Iterator[Session]:
        """The session of the tab that sent this message.

        A tab that was open before the server restarted, or was idle for long, has none; its message says what it shows.
        """
        id = str(request.session_hash)
        with self._sessions.working(id) as session:
            if session is None:
                session = self._sessions.begin(id)
                session.act({"do": "start", "here": _field(data, "here") or {}})
            yield session


def serve(
    agent: Agent,
    host: str = "127.0.0.1",
    port: int | None = None,
    on_ready: Callable[[str], None] | None = None,
    *,
    language: str | None = None,
    login: tuple[str, str] | None = None,
    sites: Sequence[str] = (),
) -> None:
    """Serve the page until SIGTERM or SIGINT; `on_ready` gets its address once it answers.

    Without a port the first free one from 7860 on is taken. HomeError when the port is in use, or when others could
    reach the page (`host` is not this machine alone) and no login is given. `login` and `sites` as in `mount`.
    """
    check_reach(host, login)
    app = application(agent, login=login, sites=sites, language=language)
    with listen(host, port) if port is not None else _listen_anywhere(host) as listening:
        url = f"{address(host, listening)}/"
        run(app, listening, None if on_ready is None else lambda: on_ready(url), app.state.drain)


def application(
    agent: Agent, *, login: tuple[str, str] | None = None, sites: Sequence[str] = (), language: str | None = None
) -> FastAPI:
    """The page alone as an ASGI application; arguments as in `mount`, whose result is `app.state.drain`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.drain = mount(app, agent, login=login, sites=sites, language=language)
    return app


def check_reach(host: str, login: tuple[str, str] | None) -> None:
    """HomeError where other machines could reach a page on `host` that has no login."""
    if login is None and not is_loopback(host):
        raise HomeError(
            f"{host!r} can be reached from other machines: give the page a login (--login-file FILE or WHYFEED_LOGIN), "
            "or use 127.0.0.1"
        )


def _listen_anywhere(host: str) -> socket.socket:
    for port in _PORTS:
        try:
            return listen(host, port)
        except HomeError as exc:
            last = exc
    tried = f"every port from {_PORTS[0]} to {_PORTS[-1]} of {host!r}"
    raise HomeError(f"{tried} is in use; name another with --port") from last


def _settings() -> dict[str, Any]:
    return {
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "footer_links": [],
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "theme": theme(),
        "head": f"{head()}<style>{_read('desk.css')}</style>",
        "app_kwargs": {"middleware": [Middleware(Document)], "docs_url": None, "redoc_url": None, "openapi_url": None},
    }


def _field(data: Any, name: str) -> Any:
    """A field of what the browser sent, before it is known to be a message."""
    return data.get(name) if isinstance(data, dict) else None


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
