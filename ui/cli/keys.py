"""The command `whyfeed keys`: manages the API keys of network clients."""

from __future__ import annotations

from typing import Annotated

import typer

from whyfeed.ui.cli.terminal import Home, Json, open_agent, print_json, tell

keys_app = typer.Typer(
    no_args_is_help=True, help="Manage the API keys of network clients.\n\nExample: whyfeed keys list"
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]


@keys_app.command("add")
def add(
    name: Name,
    scope: Annotated[
        list[str], typer.Option(help="Scope of the key: read, feedback, desk or admin; may be given several times.")
    ],
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Limit the key to this user; may be given several times. Default: all users."),
    ] = None,
    per_minute: Annotated[int, typer.Option(min=1, help="Largest number of requests per minute.")] = 600,
    home: Home = None,
) -> None:
    """Create a key and print its secret, which is shown only once.

    Example: whyfeed keys add shop --scope read --scope feedback
    """
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        tell("{}", Keys(agent.store).add(name, scope, user or None, per_minute))


@keys_app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List all keys, without their secrets.

    Example: whyfeed keys list
    """
    from whyfeed.retrieval.clock import format_time
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        keys = Keys(agent.store).all()
    rows = [
        {
            "name": key.name, "scopes": sorted(key.scopes), "users": None if key.users is None else sorted(key.users),
            "per_minute": key.per_minute, "created": format_time(key.created),
        }
        for key in keys
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    for key in keys:
        users = "everybody" if key.users is None else ",".join(sorted(key.users))
        tell("{}\t{}\t{}\t{}/min", key.name, ",".join(sorted(key.scopes)), users, key.per_minute)


@keys_app.command("remove")
def remove(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Remove a key; requests with it are then refused.

    Example: whyfeed keys remove shop
    """
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        Keys(agent.store).remove(name)
    print_json({"removed": name}) if as_json else tell("removed: {}", name)
