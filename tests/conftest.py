"""What the tests share: the synthetic world, imported once and copied for each test, and no real models."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.world import NOW, World, make_world
from whyfeed.agent.recommend.ranker import Ranker
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.community.reader import Reader, read
from whyfeed.retrieval.community.topics import Topics
from whyfeed.retrieval.store import exchange
from whyfeed.retrieval.store.store import Store

if TYPE_CHECKING:
    from tests.vllm_world import VllmServer
    from whyfeed import Agent

EMBEDDER = "hash-64"
ROOT = Path(__file__).parent.parent
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]

# Timings on a busy machine say nothing about the code, and fixtures are not changed by examples.
settings.register_profile(
    "whyfeed", deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("whyfeed")


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Starts processes within milliseconds: forks of a server that has imported things once and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tests.test_kill",
            "tests.test_store",
            "whyfeed.agent.agent",
            "scipy.sparse",
            "scipy.cluster.hierarchy",
            "faiss",
        ]
    )
    return context


@pytest.fixture(scope="session")
def vllm_server(_imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM with the small base and a LoRA of ours, over a home that holds the world."""
    from tests.vllm_world import add_judge, serving

    folder = Path(shutil.copytree(_imported, tmp_path_factory.mktemp("vllm") / "home"))
    add_judge(folder)
    with serving(folder) as found:
        found.until("judge-v1 is loaded")
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium for tests of the page."""
    from tests.page_driver import NoBrowser, chromium

    try:
        with chromium() as found:
            yield found
    except NoBrowser as exc:
        pytest.fail(str(exc), pytrace=False)


@pytest.fixture(autouse=True)
def _no_real_models(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A fast test can neither download weights nor load those of the machine."""
    for name in [name for name in os.environ if name.startswith("WHYFEED_") and name != "WHYFEED_CACHE"]:
        monkeypatch.delenv(name)
    if request.node.get_closest_marker("slow"):
        return
    monkeypatch.setenv("WHYFEED_CACHE", str(_once(tmp_path_factory, "no-weights")))
    monkeypatch.setenv("WHYFEED_EMBEDDER", EMBEDDER)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)


def _once(factory: pytest.TempPathFactory, name: str) -> Path:
    path = factory.getbasetemp() / name
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def world() -> World:
    """What is true of the world; tests leave it as it is."""
    return make_world()


@pytest.fixture(scope="session")
def exchange_folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world as an exchange folder; tests leave it as it is."""
    return world.write(tmp_path_factory.mktemp("exchange") / "world")


@pytest.fixture(scope="session")
def _imported(exchange_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("imported") / "home"
    store = Store(home)
    exchange.import_folder(store, exchange_folder)
    Community.load(store, HashEmbedder(64))
    store.close()
    return home


@pytest.fixture
def home(_imported: Path, tmp_path: Path) -> Path:
    """A home that holds the world, with its index built by `hash-64`."""
    return Path(shutil.copytree(_imported, tmp_path / "home"))


@pytest.fixture
def embedder() -> HashEmbedder:
    """The embedder of the world's homes."""
    return HashEmbedder(64)


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """The world's store."""
    opened = Store(home)
    yield opened
    opened.close()


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Store]:
    """The store of a new home."""
    opened = Store(tmp_path / "empty")
    yield opened
    opened.close()


@pytest.fixture
def community(store: Store, embedder: HashEmbedder) -> Community:
    """The world in memory."""
    return Community.load(store, embedder)


@pytest.fixture
def view(store: Store, embedder: HashEmbedder, community: Community) -> Snapshot:
    """The world as a request sees it, ranked by the hand-set weights."""
    return Snapshot(store, embedder, community, Topics(store, community, embedder), Ranker())


@pytest.fixture
def agent(home: Path) -> Iterator[Agent]:
    """An agent over the world, without language models, whose clock stands still."""
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.settings import Settings

    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=lambda: NOW) as opened:
        yield opened


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a batch writes."""
    return tmp_path / "out.jsonl"


@pytest.fixture
def whole(agent: Agent, tmp_path: Path) -> bytes:
    """The file of an undisturbed batch for everybody."""
    agent.batch(None, tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def run_cli(home: Path) -> RunCli:
    """Run `whyfeed ARGUMENT...` on the world's home in a process of its own."""

    def run(*arguments: str, input: str | None = None, **environment: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "whyfeed", *arguments],
            input=input, capture_output=True, text=True, cwd=ROOT, timeout=120,
            env={
                **os.environ, "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER, "WHYFEED_NO_LLM": "1",
                **environment,
            },
        )  # fmt: skip

    return run


# ---- what is computed from a store, to the bit


def arrays(community: Community) -> dict[str, object]:
    users, codes, rows, weights, times = community.sequences()
    every = np.arange(len(community), dtype=np.int64)
    assert community.cooccurrence is not None
    reach = community.cooccurrence.reach(every)
    return {
        "ids": community.ids,
        "users": users,
        "codes": codes.tobytes(),
        "rows": rows.tobytes(),
        "weights": weights.tobytes(),
        "times": times.tobytes(),
        "popularity": community.popularity(every).tobytes(),
        "freshness": community.freshness(every).tobytes(),
        "now": [community.now(code) for code in range(len(community.community_names))],
        "reach": reach.toarray().tobytes(),
        "spread": community.cooccurrence.spread(reach, np.ones(len(every), dtype=np.float32)).tobytes(),
        "active": community.active_users(),
        "communities": [community.communities_of(user) for user in users],
        "following": {user: dict(edges) for user, edges in community.following.items() if edges},
        "vectors": community.vectors(every).tobytes(),
        "tags": community.tag_vectors.tobytes(),
    }


def of_reader(reader: Reader) -> dict[str, object]:
    return {
        "events": [(event.post, event.kind, event.time) for event in reader.events],
        "rows": reader.rows.tobytes(),
        "weights": reader.weights.tobytes(),
        "recent": reader.recent.tobytes(),
        "groups": [(group.vector.tobytes(), group.weight, group.rows, group.topic) for group in reader.groups],
        "rest": (reader.seen, reader.hidden, reader.tags, reader.people, reader.communities),
    }


def state(store: Store, *users: str) -> dict[str, object]:
    """What is computed from the store: the community and some readers, to the bit."""
    embedder = HashEmbedder(64)
    community = Community.load(store, embedder)
    found = arrays(community)
    for user in users:
        events = [event for _, event in store.events(user=user)]
        found[user] = of_reader(read(user, events, community, embedder))
    return found
