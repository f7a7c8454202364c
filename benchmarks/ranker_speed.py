"""Cost of ranking 50 posts for one user: the core alone, and with the language model on each available runtime.

    python -m benchmarks.ranker_speed [--candidates 50] [--full 10] [--rounds 3] [--url URL --model NAME]

Users and posts are the demo's. The judge's prompt is a prefix that depends only on the user, and then one post. Either
the prefix is computed once and shared, or every post gets a full prompt without any cache (a random `--full` of them
are timed, and extrapolated to all). The floor is a lower bound: the multiply-adds of the model for these tokens,
divided by the rate at which this machine multiplies large float32 matrices, measured in the same run with the same
threads. `--url` adds a server with an OpenAI-compatible interface, such as vLLM. Needs `make develop` and the weights
(`whyfeed models pull`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from whyfeed import Agent
from whyfeed.agent.demo import FOLDER
from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.agent.encoder.transformer import CausalModel
from whyfeed.agent.llm import weights
from whyfeed.agent.llm.engine import Engine, JudgeRequest
from whyfeed.agent.llm.open import open_engine
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.recommend.judge import Judge, post_line
from whyfeed.agent.recommend.ranker import Ranker
from whyfeed.finetune import training
from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import read_histories
from whyfeed.finetune.llm.packed import Prompts, pack, yes_minus_no
from whyfeed.finetune.ranking.core_ranker import CoreRanker
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.community import signals
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import read

THREADS = 2


@dataclass(frozen=True)
class Asked:
    """One user and the posts to be ranked: the prefix, the rest of each prompt, and both as token ids."""

    prefix: str
    posts: list[str]
    prefix_ids: list[int]
    post_ids: list[list[int]]

    @property
    def shared(self) -> int:
        """Tokens when the prefix is computed once."""
        return len(self.prefix_ids) + sum(map(len, self.post_ids))

    @property
    def full(self) -> float:
        """Mean tokens of one full prompt."""
        return len(self.prefix_ids) + sum(map(len, self.post_ids)) / len(self.post_ids)


class Machine:
    """Multiply-adds of the model for some tokens, and the seconds that this machine needs for them."""

    def __init__(self, path: Path) -> None:
        about = {key.removeprefix("llama."): value for key, value in GgufFile(path).fields.items()}
        self.width, self.blocks = int(about["embedding_length"]), int(about["block_count"])
        shared = self.width * int(about["attention.head_count_kv"]) // int(about["attention.head_count"])
        inner = int(about["feed_forward_length"])
        self.of_token = self.blocks * self.width * (2 * self.width + 2 * shared + 3 * inner)
        self.words = len(about["tokenizer.ggml.tokens"])
        rng = np.random.default_rng(0)
        one, other = (rng.standard_normal((2048, 2048)).astype(np.float32) for _ in range(2))
        with threadpool_limits(THREADS):
            self.speed = 2048**3 / min(_seconds(lambda: one @ other) for _ in range(7))  # multiply-adds a second

    def seconds(self, lengths: Sequence[int], past: int = 0) -> float:
        """Seconds for texts of these lengths, each after `past` cached tokens and with one output layer pass."""
        attended = sum(length * (past + (length + 1) / 2) for length in lengths)
        work = self.of_token * sum(lengths) + 2 * self.width * self.blocks * attended
        return float((work + self.width * self.words * len(lengths)) / self.speed)


class Numpy:
    """The judge in numpy: the encoder's model with all layers, with all posts behind the prefix in one pass."""

    def __init__(self, path: Path, blocks: int, labels: tuple[int, int]) -> None:
        self._model, self._blocks = CausalModel(path, blocks), blocks
        file = GgufFile(path)
        head = "output.weight" if "output.weight" in file else "token_embd.weight"
        rows = file.tensor(head)[list(labels)].astype(np.float32)
        self._readout = (rows[0] - rows[1]) * file.tensor("output_norm.weight").astype(np.float32)

    def __call__(self, before: list[int], after: Sequence[list[int]]) -> Floats:
        """(posts,) P(yes); with an empty `before`, `after` are full prompts."""
        known = self._model.remember(before) if before else None
        # Sorted by length, as the model batches them.
        order = sorted(range(len(after)), key=lambda place: len(after[place]))
        (states,) = self._model.hidden([after[place] for place in order], (self._blocks,), known)
        last = states[np.cumsum([len(after[place]) for place in order]) - 1]
        last /= np.sqrt((last**2).mean(axis=1, keepdims=True) + np.float32(1e-5))
        found = np.empty(len(after), dtype=np.float32)
        found[order] = 1 / (1 + np.exp(-(last @ self._readout)))
        return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--full", type=int, default=10, help="number of timed full prompts")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs with the shared prefix (median)")
    parser.add_argument("--url", help="URL of an OpenAI-compatible server with the same model")
    parser.add_argument("--model", help="name of the model on that server")
    args = parser.parse_args()

    path = weights.check(weights.find("ranker"))
    tokenizer, model = training.load(*training.base_files(weights.find("ranker").name))
    prompts = Prompts(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent.open(Path(folder), no_llm=True)
        agent.import_folder(FOLDER)
        agent.build()
        asked = _asked(agent, prompts, args.candidates)
        _core(agent, args.candidates)
        agent.close()

    machine = Machine(path)
    print(f"\n{path.stem}, {machine.blocks} layers, on {THREADS} of {os.cpu_count()} cores; prefix of "
          f"{len(asked.prefix_ids)} tokens, posts of {np.mean([len(ids) for ids in asked.post_ids]):.0f}; "
          f"{machine.speed / 1e9:.0f} thousand million multiply-adds a second in float32")  # fmt: skip
    print(f"{'':34}{'shared ms':>10}{'tokens':>8}{'x floor':>9}{'full ms':>10}{'tokens':>8}{'x floor':>9}"
          f"{'full / shared':>15}{'largest dP':>12}")  # fmt: skip
    reference: Floats | None = None
    for name, opened in _runtimes(path, model, prompts, machine, args):
        shared, full, close = opened
        times, found = [], np.zeros(0)
        for _ in range(args.rounds):
            begun = time.perf_counter()
            found = np.asarray(shared(asked))
            times.append(time.perf_counter() - begun)
        places = np.random.default_rng(0).permutation(len(asked.posts))[: args.full]
        alone = sum(_seconds(partial(full, asked, int(place))) for place in places)
        alone *= len(asked.posts) / len(places)
        close()
        once = float(np.median(times))
        lengths = [len(ids) for ids in asked.post_ids]
        floors = (
            machine.seconds([len(asked.prefix_ids)]) + machine.seconds(lengths, len(asked.prefix_ids)),
            machine.seconds([len(asked.prefix_ids) + length for length in lengths]),
        )
        reference = found if reference is None else reference
        # An engine's prompts start with a number, to defeat its cache, so they differ from the reference's prompts.
        apart = f"{np.abs(found - reference).max():12.1e}" if name.startswith(("torch", "numpy")) else f"{'-':>12}"
        print(f"{name:34}{1000 * once:10.0f}{asked.shared:8}{once / floors[0]:9.1f}{1000 * alone:10.0f}"
              f"{asked.full * len(asked.posts):8.0f}{alone / floors[1]:9.1f}{alone / once:15.1f}"
              f"{apart}", flush=True)  # fmt: skip
    print(f"{'floor':34}{1000 * floors[0]:10.0f}{asked.shared:8}{1:9.1f}{1000 * floors[1]:10.0f}"
          f"{asked.full * len(asked.posts):8.0f}{1:9.1f}{floors[1] / floors[0]:15.1f}")  # fmt: skip


Runtime = tuple[Callable[[Asked], Any], Callable[[Asked, int], Any], Callable[[], None]]


def _runtimes(path: Path, model: Any, prompts: Prompts, machine: Machine, args: argparse.Namespace) -> Any:
    """Yields, one at a time: name, scoring behind a shared prefix, scoring one full prompt, and closing."""
    import torch

    torch.set_num_threads(THREADS)

    def by_torch(judge: Any) -> Runtime:
        def logits(before: list[int], after: list[list[int]]) -> Floats:
            with torch.no_grad():
                return np.asarray(torch.sigmoid(yes_minus_no(judge, pack(before, after), prompts.labels)).numpy())

        return (
            lambda asked: logits(asked.prefix_ids, asked.post_ids),
            lambda asked, place: logits(asked.prefix_ids, [asked.post_ids[place]]),
            lambda: None,
        )

    def by_engine(engine: Engine) -> Runtime:
        calls = iter(range(1_000_000))
        # A number at the start of each prompt, so that no cached prefix can be reused.
        fresh = lambda asked: f"<|im_start|>system\n{next(calls)}<|im_end|>\n{asked.prefix}"  # noqa: E731
        engine.judge(JudgeRequest("warm", ["up"]))
        return (
            lambda asked: engine.judge(JudgeRequest(fresh(asked), asked.posts)),
            lambda asked, place: engine.judge(JudgeRequest(fresh(asked), [asked.posts[place]])),
            engine.close,
        )

    yield "torch float32, packed", by_torch(model)
    numpy = Numpy(path, machine.blocks, prompts.labels)
    yield (
        "numpy float32",
        (
            lambda asked: numpy(asked.prefix_ids, asked.post_ids),
            lambda asked, place: numpy([], [asked.prefix_ids + asked.post_ids[place]]),
            lambda: None,
        ),
    )
    yield "llama.cpp F16 (the product's)", by_engine(open_engine(weights.find("ranker").name))
    yield "torch bfloat16, packed", by_torch(model.to(torch.bfloat16))
    if args.url:
        yield f"server {args.model or ''}", by_engine(OpenAIEngine(args.url, args.model, None))


def _asked(agent: Agent, prompts: Prompts, count: int) -> Asked:
    """The user with the longest history, and candidate posts for them."""
    community = Community.load(agent.store, agent.embedder)
    user = agent.members(limit=1)[0].id
    reader = read(user, agent.events(user, 10_000)[::-1], community, agent.embedder)
    posts = agent.store.posts([event.post for event in reader.events])
    before, after = Judge(_NoEngine(), agent.store).prefix(reader, posts)
    ids = [item.post.id for item in agent.recommend(user, k=count).items]
    lines = [post_line(post) + after for post in agent.store.posts(ids).values()]
    return Asked(before, lines, prompts.ids(before), [prompts.ids(line) for line in lines])


class _NoEngine:
    name = "none"


def _core(agent: Agent, count: int) -> None:
    """Print the time of the core in a home, and of that of `evaluate` over the whole catalogue."""
    community = Community.load(agent.store, agent.embedder)
    ranker, rng = Ranker.load(agent.home), np.random.default_rng(0)
    times = []
    for member in agent.members(limit=30):
        reader = read(member.id, agent.events(member.id, 10_000)[::-1], community, agent.embedder)
        rows = rng.choice(len(community), count, replace=False)

        def rank(reader: Any = reader, rows: Any = rows) -> None:
            spread = signals.spread(reader, community, signals.reach(reader, community))
            measured = signals.measure(signals.SignalContext(rows, reader, community, spread[rows]))
            ranker.score(measured, signals.MEASURED)

        rank()
        times.append(_seconds(rank))
    print(f"core in a home: {count} posts for one reader in {1000 * np.median(times):.1f} ms (median of {len(times)})")
    histories = read_histories(FOLDER)
    core = CoreRanker(Resources(agent.embedder, histories.texts))
    fitting = _seconds(lambda: core.fit(histories))
    users = np.argsort(-histories.lengths)[:30]
    rows = np.arange(min(count, len(histories.posts)))
    times = [_seconds(lambda user=user: core.rerank(np.array([user]), lambda line, scores: rows)) for user in users]
    print(f"core of `evaluate`: the whole catalogue, then {count} posts, in {1000 * np.median(times):.1f} ms; "
          f"fitted in {fitting:.0f} s")  # fmt: skip


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
