"""Overhead of whyfeed's client over a minimal one, on vLLM and the embedded engine, and agreement of their scores.

    python -m benchmarks.serving [--url URL] [--candidates 50] [--reasons 32] [--rounds 3] [--pairs 200]

Without `--url` a vLLM server is started as in `whyfeed serve-llm`, from `.venv-vllm` (`make vllm`). The minimal client
sends the necessary bytes and parses the answer, nothing else: for a ranking one request with token ids made beforehand,
for reasons plain chat completions with the same number of threads; for the embedded engine it calls llama.cpp's server
object in this process. Both clients alternate, each with new users and posts, so that no cache answers. A pair is the
time of both for the same kind of work, one right after the other. The overhead is the median of their ratios, minus 1,
with a 95 % bootstrap interval of the median. Wall-clock seconds are noisy on a shared machine, CPU seconds much less:
"processor" is the additional CPU time of this process with whyfeed's client, as a share of the minimal client's
wall-clock time (with a server this is the client alone, else it includes the model). Posts and users are the demo's;
the model is the small base in float32 (vLLM) and in F16 (embedded). P(engage) is compared with transformers in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed import prompts
from whyfeed.agent.demo import FOLDER
from whyfeed.agent.llm import vllm_server as vllm
from whyfeed.agent.llm import weights
from whyfeed.agent.llm.engine import ChatRequest, Engine, JudgeRequest
from whyfeed.agent.llm.llamacpp import EmbeddedEngine
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.reasons.clauses import TOKENS, asks, plain, shorten
from whyfeed.agent.recommend.judge import around, post_line
from whyfeed.agent.registry import Registry
from whyfeed.finetune.llm.judge_examples import read_posts
from whyfeed.finetune.llm.served import served_model
from whyfeed.retrieval.post import Post

BASE = "smollm2-135m-instruct-f16"
Work = Callable[[int], Any]  # argument: the number of the user


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="")
    parser.add_argument("--python", default="", help="Python interpreter with vLLM")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--reasons", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=200)
    args = parser.parse_args()
    posts = [post for post in read_posts(FOLDER).values() if post.text]
    world = World(posts, args.candidates, args.reasons)
    with started(args.url, args.python) as url:
        engine = OpenAIEngine(url)
        engine.models()  # finds the name of the model on the server
        bare = Bare(url, engine.name)
        print(f"{'':32}{'ours, s':>8}{'minimal, s':>11}{'overhead [95 %]':>26}{'processor':>12}")
        before = metrics(url)
        ranked = world.ranked(engine), world.ranked_minimal(bare)
        row(f"vLLM: {args.candidates} candidates", *ranked, args.rounds, lambda number: world.tokenised(bare, number))
        after = metrics(url)
        row(f"vLLM: {args.reasons} reasons at once", world.written(engine), world.written_minimal(bare), args.rounds)
        asked, hit = (after[name] - before[name] for name in ("queries", "hits"))
        print(f"tokens of the rankings' prompts that vLLM took from its prefix cache: {hit / asked:.1%}")
        pairs = world.pairs(args.pairs)
        served = world.judged(engine, pairs)
    local = EmbeddedEngine(weights.check(weights.find(BASE)), n_ctx=4096)
    local.load()
    server = local._server  # llama.cpp's own object, used by the minimal client
    row(
        f"embedded: {args.candidates} candidates",
        world.ranked(local),
        world.ranked_llamacpp(local, server),
        args.rounds,
    )
    row(
        f"embedded: {args.reasons // 4} reasons",
        world.written(local, 4),
        world.written_llamacpp(server, 4),
        args.rounds,
    )
    here = world.judged(local, pairs)
    local.close()
    plain_ = in_transformers(world, pairs)
    print(f"P(engage) of {len(plain_)} pairs, greatest difference from transformers in float32:")
    print(f"  vLLM {np.abs(served - plain_).max():.2e}, embedded {np.abs(here - plain_).max():.2e}; "
          f"the P themselves spread from {plain_.min():.3f} to {plain_.max():.3f}")  # fmt: skip


def row(name: str, ours: Work, minimal: Work, rounds: int, prepare: Work = lambda _: None) -> None:
    """Time both in turns, alternating which of a pair is first; an untimed pair warms up.

    `prepare` is work of the minimal client before its time is taken.
    """
    wall, cpu = np.empty((rounds + 1, 2)), np.empty((rounds + 1, 2))
    for number in range(rounds + 1):
        order: list[tuple[int, Work]] = [(0, ours), (1, minimal)]
        for side, work in order if number % 2 else order[::-1]:
            if side:
                prepare(2 * number + side)
            begun, computed = time.perf_counter(), time.process_time()
            work(2 * number + side)
            wall[number, side], cpu[number, side] = time.perf_counter() - begun, time.process_time() - computed
    wall, cpu = wall[1:], cpu[1:]
    ratios = wall[:, 0] / wall[:, 1] - 1
    drawn = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    own = np.median(cpu[:, 0] - cpu[:, 1]) / np.median(wall[:, 1])
    one, other = np.median(wall, axis=0)
    print(
        f"{name:32}{one:8.2f}{other:11.2f}{np.median(ratios):+10.1%} [{low:+.1%}, {high:+.1%}]{own:+12.1%}", flush=True
    )


class World:
    """Users, posts and prompts, all different and of similar length."""

    def __init__(self, posts: Sequence[Post], candidates: int, reasons: int) -> None:
        self._posts, self._candidates, self._reasons = list(posts), candidates, reasons

    def reader(self, number: int) -> tuple[str, str]:
        """The prompt before and after the post, for this user."""
        acts = [f"like: {post_line(self._posts[(37 * number + place) % len(self._posts)])}" for place in range(12)]
        return around(acts)

    def lines(self, number: int) -> list[str]:
        """The lines of the posts to be ranked."""
        after = self.reader(number)[1]
        return [
            post_line(self._posts[(53 * number + 3 * place) % len(self._posts)]) + after
            for place in range(self._candidates)
        ]

    def messages(self, number: int, every: int = 1) -> list[list[dict[str, str]]]:
        """Conversations that ask for the clause of one post each."""
        found = []
        for place in range(self._reasons // every):
            post = self._posts[(61 * number + 7 * place + 11) % len(self._posts)]
            topic = post.tags[0] if post.tags else "?"
            said = prompts.load("clause", "en").render(
                topic=topic, title=plain(post.title), text=shorten(plain(post.text), 600), asks=asks(post), terms=[],
                fault="", words="",
            )  # fmt: skip
            found.append([dict(each) for each in said])
        return found

    def pairs(self, count: int) -> list[tuple[int, list[str]]]:
        """Users with some posts each, `count` pairs in total."""
        each = min(20, count)
        return [(1000 + number, self.lines(1000 + number)[:each]) for number in range(count // each)]

    # ---- whyfeed's client

    def ranked(self, engine: Engine) -> Work:
        """Score a user's candidates with one of whyfeed's engines."""
        return lambda number: engine.judge(JudgeRequest(self.reader(number)[0], self.lines(number)))

    def written(self, engine: Engine, every: int = 1) -> Work:
        """Write clauses concurrently with one of whyfeed's engines."""

        def work(number: int) -> None:
            with ThreadPoolExecutor(self._reasons) as pool:
                list(
                    pool.map(
                        lambda each: engine.complete(ChatRequest(each, max_tokens=TOKENS["en"], stop=("\n",))),
                        self.messages(number, every),
                    )
                )

        return work

    def judged(self, engine: Engine, pairs: Sequence[tuple[int, list[str]]]) -> np.ndarray[Any, Any]:
        """P(engage) of each pair."""
        return np.array(
            [p for reader, lines in pairs for p in engine.judge(JudgeRequest(self.reader(reader)[0], lines))]
        )

    # ---- the minimal client

    def ranked_minimal(self, bare: Bare) -> Work:
        """Score candidates with the minimal client."""
        return lambda number: bare.score(self.reader(number)[0], self.lines(number))

    def tokenised(self, bare: Bare, number: int) -> None:
        """Tokenise a user's ranking prompt for the minimal client in advance."""
        for text in (self.reader(number)[0], *self.lines(number), "Yes", "No"):
            bare.ids(text)

    def written_minimal(self, bare: Bare) -> Work:
        """Write clauses concurrently with the minimal client."""

        def work(number: int) -> None:
            with ThreadPoolExecutor(self._reasons) as pool:
                list(pool.map(bare.complete, self.messages(number)))

        return work

    def ranked_llamacpp(self, engine: EmbeddedEngine, server: Any) -> Work:
        """Exact scores with llama.cpp's own object: one prefix, and the cache cut back to it for each post."""

        def work(number: int) -> list[float]:
            prefix = engine._tokens(self.reader(number)[0], opening=True)
            labels = [engine._label("Yes"), engine._label("No")]
            server.handle_completions({"prompt": prefix, "n_predict": 0, "cache_prompt": False})
            found = []
            for line in self.lines(number):
                server.handle_completions({"prompt": prefix, "n_predict": 0, "cache_prompt": True})
                answer = server.handle_completions({
                    "prompt": prefix + engine._tokens(line, opening=False), "n_predict": 1, "cache_prompt": True,
                    "temperature": 1.0, "samplers": ["top_k"], "top_k": 2, "logprobs": 2, "post_sampling_probs": True,
                    "logit_bias": [[label, 100] for label in labels],
                })  # fmt: skip
                found.append(answer["choices"][0]["logprobs"]["content"][0]["top_probs"])
            return found

        return work

    def written_llamacpp(self, server: Any, every: int) -> Work:
        """Write clauses one after the other with llama.cpp's own object."""

        def work(number: int) -> None:
            for messages in self.messages(number, every):
                server.handle_chat_completions(
                    {"messages": messages, "max_tokens": TOKENS["en"], "temperature": 0, "stop": ["\n"]}
                )

        return work


class Bare:
    """A minimal client that sends only what is necessary."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model
        self.ids = cache(self._tokenised)

    def score(self, prefix: str, lines: Sequence[str]) -> Any:
        """One request with all token ids; tokenises only what was not tokenised before."""
        body = {
            "model": self._model, "query": self.ids(prefix), "items": [self.ids(line) for line in lines],
            "label_token_ids": [self.ids("Yes")[0], self.ids("No")[0]], "apply_softmax": True, "item_first": False,
        }  # fmt: skip
        return self.post("/generative_scoring", body)["data"]

    def complete(self, messages: Sequence[dict[str, str]]) -> Any:
        """One answer, not streamed."""
        body = {
            "model": self._model, "messages": list(messages), "max_tokens": TOKENS["en"], "temperature": 0,
            "stop": ["\n"],
        }  # fmt: skip
        return self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON."""
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def _tokenised(self, text: str) -> list[int]:
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        return [int(each) for each in self.post("/tokenize", body)["tokens"]]


def metrics(url: str) -> dict[str, float]:
    """Tokens queried in vLLM's prefix cache, and tokens found in it, so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:prefix_cache_{name}_total"))
        for name in ("queries", "hits")
    }


def in_transformers(world: World, pairs: Sequence[tuple[int, list[str]]]) -> np.ndarray[Any, Any]:
    """P(engage) of the pairs from full prompts, one by one, in float32."""
    import torch

    from whyfeed.finetune import training

    tokenizer, model = training.load(*training.base_files(BASE))
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No"))
    found = []
    with torch.no_grad():
        for reader, lines in pairs:
            before = tokenizer.encode(world.reader(reader)[0], add_special_tokens=False)
            for line in lines:
                ids = torch.tensor([before + tokenizer.encode(line, add_special_tokens=False)])
                logits = model(ids.to(model.device), logits_to_keep=1).logits[0, -1]
                found.append(float(torch.sigmoid(logits[yes] - logits[no])))
    return np.array(found)


@contextmanager
def started(url: str, python: str) -> Iterator[str]:
    """A running server at `url`, else a temporary one."""
    if url:
        yield url.rstrip("/").removesuffix("/v1")
        return
    with tempfile.TemporaryDirectory() as home:
        environment = vllm.find_environment(python or None)
        found = served_model(BASE, Registry(Path(home)))
        options = vllm.Options(found.model, found.name, port=int(os.environ.get("PORT", "8199")))
        vllm.check_port(options.host, options.port)
        stop, ready = threading.Event(), threading.Event()
        supervisor = vllm.Supervisor(
            vllm.command(options, environment), vllm.variables(options, environment), options.url,
            Path(home) / "vllm.log",
        )  # fmt: skip
        thread = threading.Thread(target=supervisor.run, args=(stop, ready.set))
        thread.start()
        try:
            while not ready.wait(1.0):
                if not thread.is_alive():
                    raise SystemExit("vLLM did not start")
            yield options.url
        finally:
            stop.set()
            thread.join()


if __name__ == "__main__":
    main()
