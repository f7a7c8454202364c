"""The tools of `agent.operations` over the Model Context Protocol, on standard streams or HTTP."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from whyfeed import __version__

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, Tool
    from starlette.types import ASGIApp, Receive, Scope, Send

    from whyfeed.agent.agent import Agent
    from whyfeed.agent.operations import Operation
    from whyfeed.retrieval.store.keys import Key
    from whyfeed.ui.http.access import Access

PATH = "/mcp"
_AT_ONCE = 16  # calls that run in parallel; more wait
_KEY = "whyfeed.key"  # key of a request's scope under which its access key is
_INSTRUCTIONS = (
    "whyfeed answers what a person should read: real posts of their community, each with a reason that can be checked. "
    "Give a post's own words and its reason as they are, and name its id when asking about it again."
)

_log = logging.getLogger(__name__)


def local_key(users: list[str] | None = None) -> Key:
    """The rights of whoever started this process: everything, or only these users' data.

    The latter excludes the desk, which has every customer's conversations.
    """
    from whyfeed.retrieval.store.keys import Key

    if not users:
        return Key("local", frozenset({"admin"}))
    return Key("local", frozenset({"read", "feedback"}), frozenset(users))


def build(agent: Agent, access: Access, key: Key | None = None) -> Server[Any]:
    """The protocol's server over an agent. Without `key`, each HTTP request has its own, which `Guard` has checked."""
    import anyio
    import mcp_types as types
    from anyio.to_thread import run_sync
    from mcp.server.lowlevel import Server
    from mcp.shared.exceptions import MCPError

    from whyfeed.agent.operations import TOOLS
    from whyfeed.retrieval.errors import WhyfeedError, one_line
    from whyfeed.ui.http.access import Refused

    offered = {operation.name: (operation, _tool(operation)) for operation in TOOLS}
    slots = anyio.CapacityLimiter(_AT_ONCE)

    def caller(context: ServerRequestContext[Any, Any]) -> Key:
        request: Any = context.request
        found: Key = key if key is not None else request.scope[_KEY]
        return found

    async def list_tools(context: ServerRequestContext[Any, Any], _: PaginatedRequestParams | None) -> ListToolsResult:
        may = caller(context).may
        return types.ListToolsResult(tools=[tool for operation, tool in offered.values() if may(operation.scope)])

    async def call_tool(context: ServerRequestContext[Any, Any], asked: CallToolRequestParams) -> CallToolResult:
        if asked.name not in offered:
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {asked.name!r}; there are {', '.join(offered)}")
        operation, _ = offered[asked.name]
        try:
            access.allow_scope(caller(context), operation.scope)
            arguments = operation.check(asked.arguments or {})
            access.allow(caller(context), operation, arguments)
            document = await run_sync(operation.run, agent, arguments, limiter=slots)
        except (WhyfeedError, ValueError, Refused) as exc:
            return _result(one_line(exc, None))
        except Exception:
            _log.exception("the tool %s failed", operation.name)
            return _result("internal error")
        return _result(json.dumps(document, ensure_ascii=False), document)

    def _result(text: str, document: dict[str, Any] | None = None) -> CallToolResult:
        content: list[types.ContentBlock] = [types.TextContent(text=text)]
        return types.CallToolResult(content=content, structured_content=document, is_error=document is None)

    return Server(
        "whyfeed", version=__version__, instructions=_INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool
    )


def serve_stdio(server: Server[Any]) -> None:
    """Serve one client on standard input and output until the input is closed."""
    import anyio
    from mcp.server.stdio import stdio_server

    async def serve() -> None:
        # The server owns standard output; what anything else prints goes to standard error.
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    # A thread that reads standard input cannot be cancelled. Exiting at once is safe: the store is consistent.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        anyio.run(serve)
    except* BrokenPipeError:
        _log.debug("the client went away while it was answered")


def serve_http(
    agent: Agent, host: str, port: int, on_ready: Callable[[str], None], on_first_key: Callable[[str], None]
) -> None:
    """Serve clients with keys over HTTP until interrupted; `on_ready` gets the address once it answers.

    Where there is no key at all, an admin key is made and given to `on_first_key`. HomeError when the address cannot be
    used.
    """
    from whyfeed.ui.http.connections import BodyLimit
    from whyfeed.ui.http.server import address, listen, open_access, run

    with listen(host, port) as listening:
        access = open_access(agent.store, on_first_key)
        app = build(agent, access).streamable_http_app(
            streamable_http_path=PATH, stateless_http=True, transport_security=_security(host)
        )
        url = f"{address(host, listening)}{PATH}"
        run(Guard(BodyLimit(app), access), listening, lambda: on_ready(url))


class Guard:
    """ASGI middleware: passes on requests with a valid key, and puts the key into the request's scope."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; 401 without a known key, 429 when the key asks too often."""
        if scope["type"] == "http":
            from starlette.datastructures import Headers
            from starlette.responses import JSONResponse

            from whyfeed.ui.http.access import Refused

            try:
                scope[_KEY] = self._access.authenticate(Headers(scope=scope).get("authorization"))
            except Refused as exc:
                await JSONResponse({"error": str(exc)}, exc.status, exc.headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _tool(operation: Operation) -> Tool:
    import mcp_types as types

    hints = types.ToolAnnotations(read_only_hint=not operation.writes, open_world_hint=False)
    if operation.writes:
        hints.destructive_hint = operation.name == "forget"
    return types.Tool(
        name=operation.name,
        description=operation.description,
        input_schema=operation.arguments.model_json_schema(),
        annotations=hints,
    )


def _security(host: str) -> Any:
    """Host names that a browser may use for this server: protection against DNS rebinding."""
    from mcp.server.transport_security import TransportSecuritySettings

    from whyfeed.ui.http.origins import LOOPBACK
    from whyfeed.ui.http.server import in_url

    if host in ("0.0.0.0", "::"):
        # The names of other addresses are not known; requests there need a key anyway.
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    names = [form for name in dict.fromkeys((*LOOPBACK, in_url(host))) for form in (name, f"{name}:*")]
    return TransportSecuritySettings(allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names])
