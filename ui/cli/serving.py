"""Commands that run until they are stopped: `ui`, `serve`, `serve-llm`, `mcp`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.ui.cli.terminal import Home, NoLlm, bars, open_agent, tell, tell_first_key
from whyfeed.ui.http.tuning import tune_for_many

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.llm.vllm_server import Environment, Options
    from whyfeed.agent.registry import Registry


LoginFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", envvar="WHYFEED_LOGIN_FILE", show_default=False,
        help="File with NAME:PASSWORD that visitors of the page must enter; or set WHYFEED_LOGIN.",
    ),
]  # fmt: skip
Login = Annotated[str | None, typer.Option(metavar="NAME:PASSWORD", hidden=True, show_default=False)]
Site = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS", envvar="WHYFEED_SITE", show_default=False,
        help="Public address of the page behind a proxy, as in https://desk.example.com; may be given several times.",
    ),
]  # fmt: skip


def ui(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the page needs a login unless it is local.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on; default: the first free one from 7860 on.")
    ] = None,
    login_file: LoginFile = None,
    login: Login = None,
    site: Site = None,
    no_llm: NoLlm = False,
) -> None:
    """Open the page and print its address once it responds. Missing weights are downloaded meanwhile.

    Example: whyfeed ui --port 7860
    """
    from whyfeed.ui.page.page import serve

    visitor = _visitor(login_file, login)
    with open_agent(home, no_llm=no_llm) as agent, bars() as progress:
        agent.build(progress)
        agent.desk.build(progress)
        agent.models.fetch(progress.bytes)

        stopping = threading.Event()
        learning = threading.Thread(target=_fit_when_due, args=(agent, stopping), name="whyfeed-learning", daemon=True)

        def ready(url: str) -> None:
            tell("whyfeed is ready: {}", url)
            learning.start()

        try:
            serve(agent, host, port, ready, login=visitor, sites=site or ())
        finally:
            stopping.set()
            if learning.is_alive():
                learning.join()


def serve(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the page needs a login unless it is local.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    login_file: LoginFile = None,
    login: Login = None,
    site: Site = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Serve the API without the page.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Serve the API with Ray in several processes.")] = False,
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: number of processes.")] = 2,
    no_llm: NoLlm = False,
) -> None:
    """Serve the HTTP API and the page; prints the address once it responds. See docs/http.md.

    Example: whyfeed serve --port 8000 --no-page
    """
    tune_for_many()
    visitor = _visitor(login_file, login)
    if ray:
        from whyfeed.ui.http.ray_serve import serve_on_ray

        serve_on_ray(home, host, port, _serves, no_llm=no_llm, replicas=replicas, on_first_key=tell_first_key)
        return
    from whyfeed.ui.http import service

    with open_agent(home, no_llm=no_llm) as agent, bars() as progress:
        agent.models.fetch(progress.bytes)
        service.serve(
            agent, host, port, _serves, page=not no_page, login=visitor, sites=site or (),
            on_first_key=tell_first_key, progress=progress,
        )  # fmt: skip


def serve_llm(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Folder, name on the hub or in `models list`, or judge; default: the ranker."
        ),
    ] = None,
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address to listen on; --key is required unless it is local.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8100,
    gpus: Annotated[
        str, typer.Option(metavar="T[xC]", help="T GPUs share one copy of the model; C such copies run in parallel.")
    ] = "1",
    context: Annotated[
        int, typer.Option(min=256, help="Largest number of tokens of prompt and answer together.")
    ] = 4096,
    memory: Annotated[
        float | None,
        typer.Option(help="Share of each GPU's memory (0.9); on a CPU: GB of cache (2).", show_default=False),
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="Largest rank of a LoRA adapter; 0: no adapters.")] = 64,
    tool_parser: Annotated[
        str, typer.Option(help="Format of the model's tool calls: hermes, llama3_json, …; empty: none.")
    ] = "hermes",
    key: Annotated[
        str, typer.Option(envvar="WHYFEED_LLM_KEY", help="API key that clients must send.", show_default=False)
    ] = "",
    python: Annotated[
        Path | None,
        typer.Option(envvar="WHYFEED_VLLM_PYTHON", help="Python interpreter with vLLM; default: that of .venv-vllm."),
    ] = None,
) -> None:
    """Start a vLLM server and restart it when it fails; prints the address once it is healthy. See docs/deployment.md.

    Example: whyfeed serve-llm Qwen/Qwen2.5-7B-Instruct --gpus 2
    """
    from whyfeed.agent.llm import vllm_server as vllm
    from whyfeed.agent.registry import Registry
    from whyfeed.agent.settings import Settings
    from whyfeed.finetune.llm.served import served_model

    if host not in ("127.0.0.1", "localhost", "::1") and not key:
        raise ValueError("others than this machine can reach it: give a --key")
    tensor, copies = _gpus_and_copies(gpus)
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
    _supervise(options, environment, registry, found.base)


def mcp(
    home: Home = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve over HTTP with keys instead of standard streams.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --http: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --http: port to listen on.")] = 8001,
    user: Annotated[
        list[str] | None,
        typer.Option(help="Without --http: serve only this user; may be given several times.", metavar="ID"),
    ] = None,
    no_llm: NoLlm = False,
) -> None:
    """Serve the tools over the Model Context Protocol (MCP), by default on standard input and output.

    Example: whyfeed mcp --user alcohol:37
    """
    from whyfeed.ui import mcp_server
    from whyfeed.ui.http.access import Access

    tune_for_many()
    if http and user:
        raise ValueError("--user is for standard streams; over HTTP a key has its users: `whyfeed keys add`")
    with ExitStack() as stack:
        # Standard output is reserved for the protocol: libraries must not write to it.
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
            agent, host, port, lambda url: tell("whyfeed speaks MCP: {}", url), tell_first_key
        )  # fmt: skip


def _visitor(file: Path | None, spoken: str | None) -> tuple[str, str] | None:
    """Name and password for visitors of the page, from a file or WHYFEED_LOGIN; None without either.

    ValueError, in one line, for what is neither; for a password on the command line, which every process can read, too.
    """
    if spoken is not None:
        raise ValueError(
            "a password on the command line is seen by every user of this machine: write NAME:PASSWORD into a file and "
            "give --login-file FILE, or set WHYFEED_LOGIN"
        )
    if file is not None:
        where = f"--login-file {str(file)!r}"
        try:
            login = file.expanduser().read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            told = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise ValueError(f"{where} cannot be read: {told}") from None
    else:
        where, login = "WHYFEED_LOGIN", os.environ.get("WHYFEED_LOGIN", "")
        if not login:
            return None
    name, _, password = login.partition(":")
    if not (name.strip() and password) or "\n" in login:
        raise ValueError(f"{where} must be one line NAME:PASSWORD")
    return name.strip(), password


def _fit_when_due(agent: Agent, stopping: threading.Event) -> None:
    """Fit the reply ranker in the background if many answers came since the last fit."""
    from whyfeed.finetune.desk.fit import fit_when_due
    from whyfeed.retrieval.errors import WhyfeedError

    def go_on(*_: object) -> None:
        if stopping.is_set():
            sys.exit()  # ends this thread only; the unfinished fit is discarded

    try:
        fit_when_due(agent, go_on)
    except WhyfeedError as exc:
        tell("whyfeed: the desk goes on with the ranker it has: {}", exc, err=True)


def _supervise(options: Options, environment: Environment, registry: Registry, base: str) -> None:
    """Run vLLM until Ctrl-C or SIGTERM."""
    from whyfeed.agent.llm import vllm_server as vllm
    from whyfeed.agent.llm.vllm_adapters import Adapters

    def say(line: str) -> None:
        tell("whyfeed: {}", line, err=True)

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
        tell("whyfeed serves {}: {}", options.name, options.url)

    where = f"{environment.gpus} GPUs" if environment.gpus else "the CPU"
    say(f"vLLM {environment.version} starts on {where}; its log is {str(log)!r}")
    supervisor.run(stop, ready, adapters.sync if options.rank else lambda: None)


def _gpus_and_copies(gpus: str) -> tuple[int, int]:
    """GPUs per copy and number of copies, from `T` or `TxC`."""
    tensor, _, copies = gpus.lower().partition("x")
    try:
        found = int(tensor), int(copies or 1)
    except ValueError:
        found = 0, 0
    if min(found) < 1:
        raise ValueError(f"--gpus {gpus!r} is neither T nor TxC, as in 2 or 2x4")
    return found


def _serves(url: str) -> None:
    tell("whyfeed serves: {}", url)
