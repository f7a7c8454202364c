"""`whyfeed keys`: who may ask what over the network."""

from __future__ import annotations

from typing import Annotated

import typer

from whyfeed.ui.cli.terminal import Home, Json, open_agent, print_json

keys_app = typer.Typer(
    no_args_is_help=True, help="Keys of those who ask over the network.\n\nExample: whyfeed keys list"
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called.")]


@keys_app.command("add")
def add(
    name: Name,
    scope: Annotated[list[str], typer.Option(help="read, feedback, desk or admin; may be given several times.")],
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this user's data; may be given several times. Default: everybody's."),
    ] = None,
    per_minute: Annotated[int, typer.Option(min=1, help="Requests a minute.")] = 600,
    home: Home = None,
) -> None:
    """Make a key; prints its secret, once.

    Example: whyfeed keys add shop --scope read --scope feedback
    """
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        typer.echo(Keys(agent.store).add(name, scope, user or None, per_minute))


@keys_app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """Every key, without its secret.

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
        typer.echo(f"{key.name}\t{','.join(sorted(key.scopes))}\t{users}\t{key.per_minute}/min")


@keys_app.command("remove")
def remove(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Remove a key; its next request is refused.

    Example: whyfeed keys remove shop
    """
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        Keys(agent.store).remove(name)
    print_json({"removed": name}) if as_json else typer.echo(f"removed: {name}")
