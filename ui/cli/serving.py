"""`whyfeed serve`, `serve-llm` and `keys`: the HTTP service, vLLM, and who may ask what."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.ui.cli.terminal import Home, Json, NoLlm, bars, open_agent, print_json, tell_first_key
from whyfeed.ui.http.tuning import tune_for_many

if TYPE_CHECKING:
    from whyfeed.agent.llm.vllm_server import Environment, Options
    from whyfeed.agent.registry import Registry

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
        from whyfeed.ui.http.ray_serve import serve_on_ray

        serve_on_ray(home, host, port, _serves, no_llm=no_llm, replicas=replicas, on_first_key=tell_first_key)
        return
    from whyfeed.ui.http import service

    with open_agent(home, no_llm=no_llm) as agent, bars() as progress:
        agent.models.fetch(progress.bytes)
        service.serve(
            agent, host, port, _serves, page=not no_page, login=visitor, on_first_key=tell_first_key, progress=progress
        )


def serve_llm(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A folder, a name on the hub or in `models list`, or judge; default: the ranker."
        ),
    ] = None,
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need --key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8100,
    gpus: Annotated[
        str, typer.Option(metavar="T[xC]", help="T cards hold one copy of the model together, C copies side by side.")
    ] = "1",
    context: Annotated[int, typer.Option(min=256, help="Tokens of prompt and answer together.")] = 4096,
    memory: Annotated[
        float | None, typer.Option(help="Share of each card (0.9); on a CPU: GB of the cache (2).", show_default=False)
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="Largest rank of an adapter; 0: no adapters.")] = 64,
    tool_parser: Annotated[
        str, typer.Option(help="How the model writes tool calls: hermes, llama3_json, …; empty: it does not.")
    ] = "hermes",
    key: Annotated[
        str, typer.Option(envvar="WHYFEED_LLM_KEY", help="What clients must send.", show_default=False)
    ] = "",
    python: Annotated[
        Path | None,
        typer.Option(envvar="WHYFEED_VLLM_PYTHON", help="The Python that has vLLM; default: .venv-vllm's."),
    ] = None,
) -> None:
    """Start vLLM and keep it up; prints the address once it is healthy. See docs/deployment.md."""
    from whyfeed.agent.llm import vllm_server as vllm
    from whyfeed.agent.registry import Registry
    from whyfeed.agent.settings import Settings
    from whyfeed.finetune.llm.served import served_model

    if host not in ("127.0.0.1", "localhost", "::1") and not key:
        raise ValueError("others than this machine can reach it: give a --key")
    tensor, copies = _cards(gpus)
    settings = Settings(home=home) if home is not None else Settings()
    environment = vllm.find_environment(python)
    if environment.gpus < tensor * copies and tensor * copies > 1:
        raise ValueError(f"--gpus {gpus} needs {tensor * copies} cards and {environment.gpus} are there")
    vllm.check_port(host, port)
    registry = Registry(settings.home.expanduser())
    found = served_model(model or settings.ranker, registry)
    options = vllm.Options(
        found.model, found.name, host, port, tensor, copies, context, memory, 0 if found.whole else rank, key=key,
        tool_parser=tool_parser,
    )  # fmt: skip
    _keep_up(options, environment, registry, found.base)


def _keep_up(options: Options, environment: Environment, registry: Registry, base: str) -> None:
    """Until it is told to stop, by Ctrl-C or SIGTERM."""
    from whyfeed.agent.llm import vllm_server as vllm
    from whyfeed.agent.llm.vllm_adapters import Adapters

    def say(line: str) -> None:
        typer.echo(f"whyfeed: {line}", err=True)

    adapters = Adapters(registry, options.url, base, options.rank, options.key, say)
    log = registry.home / "vllm.log"
    supervisor = vllm.Supervisor(
        vllm.command(options, environment), vllm.variables(options, environment), options.url, log, say=say
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def ready() -> None:
        if options.rank:
            adapters.restarted()
        typer.echo(f"whyfeed serves {options.name}: {options.url}")

    where = f"{environment.gpus} GPUs" if environment.gpus else "the CPU"
    say(f"vLLM {environment.version} starts on {where}; its log is {str(log)!r}")
    supervisor.run(stop, ready, adapters.sync if options.rank else lambda: None)


def _cards(gpus: str) -> tuple[int, int]:
    """`T` or `TxC`: cards of a copy, and copies."""
    tensor, _, copies = gpus.lower().partition("x")
    try:
        found = int(tensor), int(copies or 1)
    except ValueError:
        found = 0, 0
    if min(found) < 1:
        raise ValueError(f"--gpus {gpus!r} is neither T nor TxC, as in 2 or 2x4")
    return found


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
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        typer.echo(Keys(agent.store).add(name, scope, user or None, per_minute))


@keys_app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """Every key, without its secret."""
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
    """Remove a key; its next request is refused."""
    from whyfeed.retrieval.store.keys import Keys

    with open_agent(home, no_llm=True) as agent:
        Keys(agent.store).remove(name)
    print_json({"removed": name}) if as_json else typer.echo(f"removed: {name}")


def _serves(url: str) -> None:
    typer.echo(f"whyfeed serves: {url}")
