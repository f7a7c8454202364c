"""`whyfeed mcp`: serve the tools over the Model Context Protocol."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from typing import Annotated

import typer

from whyfeed.ui.cli.terminal import Home, NoLlm, bars, open_agent, tell_first_key


def mcp(
    home: Home = None,
    http: Annotated[bool, typer.Option("--http", help="Serve HTTP, with keys, in place of standard streams.")] = False,
    host: Annotated[str, typer.Option(help="With --http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --http: the port to listen on.")] = 8001,
    user: Annotated[
        list[str] | None,
        typer.Option(help="Without --http: serve this user's data alone; may be given several times.", metavar="ID"),
    ] = None,
    no_llm: NoLlm = False,
) -> None:
    """Serve the tools over the Model Context Protocol; a client starts it and talks on standard input and output."""
    from whyfeed.ui import mcp_server
    from whyfeed.ui.http.access import Access
    from whyfeed.ui.http.tuning import tune_for_many

    tune_for_many()
    if http and user:
        raise ValueError("--user is for standard streams; over HTTP a key has its users: `whyfeed keys add`")
    with ExitStack() as stack:
        # Standard output is the protocol's: nothing that a library says may come before it.
        with redirect_stdout(sys.stderr):
            agent = stack.enter_context(open_agent(home, no_llm=no_llm))
        for id in user or ():
            agent.user(id)
        if not http:
            return mcp_server.serve_stdio(mcp_server.build(agent, Access(agent.store), mcp_server.local_key(user)))
        with bars() as progress:
            agent.build(progress)
            agent.desk.build(progress)
        mcp_server.serve_http(
            agent, host, port, lambda url: typer.echo(f"whyfeed speaks MCP: {url}"), tell_first_key
        )  # fmt: skip
