"""`whyfeed serve` and `whyfeed keys`: the HTTP service, and who may ask it what."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.terminal import Home, Json, NoLlm, bars, open_agent, print_json, tell_first_key, tune_for_many

keys_app = typer.Typer(no_args_is_help=True, help="Keys of those who ask over the network.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called.")]


def serve(
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address to listen on; for others than this machine see --login.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    login: Annotated[
        str | None,
        typer.Option(envvar="WHYFEED_LOGIN", help="NAME:PASSWORD that visitors of the page give.", show_default=False),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Serve the API alone.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Serve the API with Ray, in several processes.")] = False,
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: how many processes.")] = 2,
    no_llm: NoLlm = False,
) -> None:
    """Serve HTTP, and the page; prints the address once it answers. See docs/http.md."""
    tune_for_many()
    name, _, password = (login or "").partition(":")
    if login is not None and not (name and password):
        raise ValueError("--login must be NAME:PASSWORD")
    visitor = (name, password) if login else None
    if ray:
        from ui.rayserve import serve_on_ray

        serve_on_ray(home, host, port, _serves, no_llm=no_llm, replicas=replicas, on_first_key=tell_first_key)
        return
    from ui import service

    with open_agent(home, no_llm=no_llm) as agent, bars() as progress, bars(unit="bytes") as fetched:
        agent.models.fetch(fetched)
        service.serve(
            agent, host, port, _serves, page=not no_page, login=visitor, on_first_key=tell_first_key, progress=progress
        )


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
    """Make a key; prints its secret, once."""
    from retrieval.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        typer.echo(Keys(agent.store).add(name, scope, user or None, per_minute))


@keys_app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """Every key, without its secret."""
    from retrieval.clock import format_time
    from retrieval.keys import Keys

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
    """Remove a key; its next request is refused."""
    from retrieval.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        Keys(agent.store).remove(name)
    print_json({"removed": name}) if as_json else typer.echo(f"removed: {name}")


def _serves(url: str) -> None:
    typer.echo(f"whyfeed serves: {url}")
