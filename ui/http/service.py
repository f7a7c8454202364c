"""The HTTP service: one route for each of `agent.operations`, the chat as server-sent events, batch jobs, the page.

The key is checked before the body is read: 401, 403 and 429 come before 413 and 422. Every failure is
`{"error": "one line"}`. Names, arguments and descriptions of operations come from `agent.operations` alone.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from whyfeed import __version__
from whyfeed.agent.answer import Answer, ChatEvent, ItemsReady, ReasonReady, StageStarted
from whyfeed.agent.arguments import Id, OfUser, Words
from whyfeed.agent.operations import OPERATIONS, Operation
from whyfeed.retrieval.errors import (
    DataError,
    UnknownConversation,
    UnknownEvent,
    UnknownPost,
    UnknownUser,
    WhyfeedError,
    one_line,
)
from whyfeed.retrieval.progress import Progress
from whyfeed.ui.http.access import Access, Refused
from whyfeed.ui.http.connections import BODY, BodyLimit
from whyfeed.ui.http.jobs import Jobs, Unfinished, UnknownJob, add_routes
from whyfeed.ui.http.metrics import CONTENT_TYPE, Metered, Metrics
from whyfeed.ui.http.server import Drain, address, listen, open_access, run, stopping_of

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

PAGE = "/ui"
_AT_THE_DOOR = 4  # keys that are looked up at once; these look-ups do not wait for operations
_PATHS = {"explain": "why"}  # operations that have another name in the HTTP contract

_log = logging.getLogger(__name__)


class Error(BaseModel):
    """What every failure answers."""

    error: str = Field(description="What went wrong, and what to do about it.")


# A reference, because FastAPI would describe a model as a stream where the answer is a stream.
_SHAPE = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"content": _SHAPE, "description": told}
    for status, told in {
        401: "No key, or an unknown one.",
        403: "The key has not the scope, or may not see this user.",
        404: "No such user, post, event, conversation or job.",
        413: "The body is too large.",
        422: "Arguments that cannot be used.",
        429: "Too many requests with this key; Retry-After says how long to wait.",
        503: "Not ready yet, or the home or a language model needs the operator.",
    }.items()
}


class Chat(OfUser):
    """A message of a user."""

    text: Words = Field(description="What the user says.")
    conversation: Id | None = Field(None, description="Go on with this conversation; null starts one.")
    llm_rank: bool = Field(False, description="Compute and show the language model's P(engage).")


class Document(JSONResponse):
    """JSON that can always be sent: a lone surrogate becomes a question mark."""

    def render(self, content: Any) -> bytes:
        """The bytes of a document."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def build(
    agent: Agent,
    access: Access,
    *,
    page: bool,
    login: tuple[str, str] | None = None,
    sites: Sequence[str] = (),
    progress: Progress | None = None,
) -> FastAPI:
    """The service of an agent as an ASGI application. While it runs, the home is built and jobs are continued.

    With `page` the Gradio page is at /ui, `login` and `sites` as in `ui.page.page.mount`. The caller closes the agent.
    """
    metrics = Metrics(agent.models.usage.to_json)
    jobs = Jobs(agent.home, agent, metrics.batch_users.inc)
    home = _Home(agent, jobs, progress)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        home.start()
        try:
            yield
        finally:
            await run_sync(home.stop)

    app = FastAPI(
        title="whyfeed", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Recommendations with reasons that can be checked, and replies for a service desk.",
        exception_handlers=_HANDLERS,
    )  # fmt: skip
    app.add_middleware(BodyLimit, most=BODY)
    app.add_middleware(Metered, metrics=metrics, page=PAGE)
    gate = _Gate(access, home)
    for operation in OPERATIONS.values():
        router = gate.router(operation.scope)
        _add_operation(router, agent, access, operation)
        app.include_router(router)
    conversing, administering = gate.router("feedback"), gate.router("admin")
    _add_chat(conversing, agent, access)
    add_routes(administering, jobs)

    _add_probes(app, administering, home, metrics)
    app.include_router(conversing)
    app.include_router(administering)
    if page:
        app.state.drain = _mount_page(app, agent, login, sites)
    return app


def serve(
    agent: Agent,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] | None = None,
    *,
    page: bool = True,
    login: tuple[str, str] | None = None,
    sites: Sequence[str] = (),
    on_first_key: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once it answers, also while the home is still built.

    The key in WHYFEED_API_KEY may do everything. Without it, and without any key in the home, an admin key is made
    and given to `on_first_key`. HomeError when the address cannot be used, or when other machines could reach the
    page without a login.
    """
    if page:
        from whyfeed.ui.page.page import check_reach

        check_reach(host, login)
    with listen(host, port) as listening:
        access = open_access(agent.store, on_first_key)
        app = build(agent, access, page=page, login=login, sites=sites, progress=progress)
        url = address(host, listening)
        drain = app.state.drain if page else None
        run(app, listening, None if on_ready is None else lambda: on_ready(url), drain)


# ---- checks before a request is served


class _Home:
    """Builds the home in the background and knows whether it is ready."""

    def __init__(self, agent: Agent, jobs: Jobs, progress: Progress | None) -> None:
        self._agent = agent
        self._jobs = jobs
        self._progress = progress
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._build, name="whyfeed-building", daemon=True)
        self._state = "the home is being built; try again in a moment"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._jobs.stop()

    def check(self) -> None:
        """Raises Refused (503) until the home is built, HomeError when it can no longer be read."""
        if self._state:
            raise Refused(503, self._state, retry_after=5)
        self._agent.store.generation()

    def _build(self) -> None:
        def go_on(what: str, done: int, total: int) -> None:
            if self._stopping.is_set():
                sys.exit()  # ends this thread only; vectors made so far are stored
            if self._progress is not None:
                self._progress(what, done, total)

        try:
            self._agent.build(go_on)
            self._agent.desk.build(go_on)
        except Exception as exc:
            _log.exception("the home cannot be built")
            said = one_line(exc, None) if isinstance(exc, WhyfeedError) else "internal error; the log has more"
            self._state = f"the home cannot be built: {said}"
            return
        gc.collect()
        gc.freeze()  # what was built lives long: the garbage collector need not visit it
        self._state = ""
        if not self._stopping.is_set():
            self._jobs.start()


class _Gate:
    """Makes routers whose routes check the key before they read the body."""

    def __init__(self, access: Access, home: _Home) -> None:
        self._access = access
        self._home = home
        self._door = CapacityLimiter(_AT_THE_DOOR)

    def router(self, scope: str) -> APIRouter:
        """A router for holders of this scope."""
        enter = self._enter

        class Guarded(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handler = super().get_route_handler()

                async def guarded(request: Request) -> Response:
                    await enter(request, scope)
                    return await handler(_Strict(request.scope, request.receive))

                return guarded

        return APIRouter(route_class=Guarded, responses=_ERRORS, dependencies=[Security(_BEARER)])

    async def _enter(self, request: Request, scope: str) -> None:
        authorization = request.headers.get("authorization")
        key = await run_sync(self._access.authenticate, authorization, limiter=self._door)
        self._access.allow_scope(key, scope)
        if request.url.path != "/metrics":
            await run_sync(self._home.check, limiter=self._door)
        if request.method == "POST" and not _is_json(request.headers.get("content-type", "")):
            raise Refused(422, "send JSON, and say so: Content-Type: application/json")
        request.state.key = key


class _Strict(Request):
    """A request whose body must be standard JSON (no NaN)."""

    async def json(self) -> Any:
        def refuse(name: str) -> None:
            raise ValueError(f"{name} is no number")

        try:
            return json.loads(await self.body(), parse_constant=refuse)
        except (ValueError, RecursionError) as exc:
            raise HTTPException(422, f"the body is not JSON that can be read: {exc}") from None


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().casefold()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


# ---- routes


def _add_operation(router: APIRouter, agent: Agent, access: Access, operation: Operation) -> None:
    def answer(asked: Any, request: Request) -> Response:
        access.allow(request.state.key, operation, asked)
        with _translated():
            document = operation.run(agent, asked)
        return Document(document)

    answer.__annotations__["asked"] = operation.arguments  # FastAPI validates and describes the body by this annotation
    name = _PATHS.get(operation.name, operation.name).replace("_", "-")
    router.add_api_route(
        f"/v1/{name}", answer, methods=["POST"], operation_id=operation.name, summary=operation.name,
        description=operation.description, response_model=dict[str, Any],
    )  # fmt: skip


def _add_chat(router: APIRouter, agent: Agent, access: Access) -> None:
    async def begun(asked: Chat, request: Request) -> AsyncIterator[AsyncIterator[ChatEvent]]:
        access.allow_user(request.state.key, asked.user)
        talk = agent.achat(
            asked.user, asked.text, asked.conversation, llm_rank=asked.llm_rank,
            may_erase=request.state.key.may(OPERATIONS["erase"].scope),
        )  # fmt: skip
        async with aclosing(talk) as events:
            with _translated():
                first = await anext(events)  # an unknown user is a 404, not an event of the stream

            async def all_events() -> AsyncIterator[ChatEvent]:
                yield first
                stopping = stopping_of(request)
                while (event := await stopping.next(events)) is not None:
                    yield event

            yield all_events()

    talking = Depends(begun)

    @router.post("/v1/chat", operation_id="chat", response_class=EventSourceResponse)
    async def chat(
        events: AsyncIterator[ChatEvent] = talking,
    ) -> AsyncIterator[ServerSentEvent]:
        """Answer a user's message while the answer is being made.

        Events: `stage` {name}; `items` {text, items, waiting}: the list, with the posts whose reason may still get
        better; `reason` {post, reason}; `answer`, the last: the whole answer with its conversation; or `error`.
        Leaving early cancels the work.
        """
        try:
            async for event in events:
                yield _sent(event)
        except (WhyfeedError, ValueError) as exc:
            yield ServerSentEvent(event="error", data={"error": one_line(exc, None)})
        except Exception:
            _log.exception("a chat failed")
            yield ServerSentEvent(event="error", data={"error": _INTERNAL})


def _sent(event: ChatEvent) -> ServerSentEvent:
    match event:
        case StageStarted(name):
            return ServerSentEvent(event="stage", data={"name": name})
        case ItemsReady(text, items, waiting):
            listed = [item.to_json() for item in items]
            return ServerSentEvent(event="items", data={"text": text, "items": listed, "waiting": list(waiting)})
        case ReasonReady(post, reason):
            return ServerSentEvent(event="reason", data={"post": post, "reason": reason.to_json()})
        case Answer():
            return ServerSentEvent(event="answer", data={**event.to_chat_json(), "conversation": event.conversation})


def _add_probes(app: FastAPI, administering: APIRouter, home: _Home, metrics: Metrics) -> None:
    @administering.get("/metrics", operation_id="metrics", response_class=_Text)
    async def read_metrics() -> Response:
        """What the service counts, in Prometheus' text form."""
        return _Text(metrics.text())

    @app.get("/health", operation_id="health", openapi_extra={"security": []})
    async def health() -> dict[str, bool]:
        """Does the process live?"""
        return {"ok": True}

    @app.get("/ready", operation_id="ready", openapi_extra={"security": []}, responses={503: {"model": Error}})
    def ready() -> dict[str, bool]:
        """Is the home built, and can it be read?"""
        home.check()
        return {"ready": True}


def _mount_page(app: FastAPI, agent: Agent, login: tuple[str, str] | None, sites: Sequence[str]) -> Drain:
    from whyfeed.ui.page.page import mount

    @app.get("/", include_in_schema=False)
    @app.get("/favicon.ico", include_in_schema=False)
    async def to_page(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{PAGE}{request.url.path}")

    return mount(app, agent, PAGE, login=login, sites=sites)


# ---- failures


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the errors that an operation raises for its arguments."""
    try:
        yield
    except (ValueError, OverflowError, RecursionError) as exc:
        raise DataError(one_line(exc, None)) from exc


def _failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Document({"error": message}, status, dict(headers or {}))


async def _refused(_: Request, exc: Any) -> Response:
    return _failure(exc.status, str(exc), exc.headers)


async def _expected(_: Request, exc: Any) -> Response:
    match exc:
        case UnknownUser() | UnknownPost() | UnknownEvent() | UnknownConversation() | UnknownJob():
            status = 404
        case Unfinished():
            status = 409
        case DataError():
            status = 422
        case _:
            status = 503
    return _failure(status, one_line(exc, None))


async def _invalid(_: Request, exc: Any) -> Response:
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return _failure(422, f"{where}: {first['msg'].removeprefix('Value error, ')}")


async def _http(request: Request, exc: Any) -> Response:
    if exc.status_code == 404:
        return _failure(404, f"there is no {request.url.path!r}; /openapi.json says what there is")
    return _failure(exc.status_code, str(exc.detail), exc.headers)


async def _unexpected(_: Request, __: Any) -> Response:
    return _failure(500, _INTERNAL)


_INTERNAL = "internal error; the service's log has more"
_HANDLERS: dict[Any, Any] = {
    Refused: _refused,
    WhyfeedError: _expected,
    RequestValidationError: _invalid,
    AnyHTTPException: _http,
    Exception: _unexpected,
}
_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="`whyfeed keys add` makes one.")


class _Text(Response):
    media_type = CONTENT_TYPE
