"""The engine for models behind a server of the OpenAI HTTP protocol, such as vLLM."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from whyfeed.agent.llm.engine import ChatRequest, Completion, Job, JudgeRequest, check_wanted, checked_text
from whyfeed.agent.llm.llama_labels import label_options, label_probability
from whyfeed.retrieval.errors import ModelError, UnreachableError, one_line

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
_TOKENISED = 20_000  # texts whose token ids are cached, since a post is judged for many readers
_TOKENISING = 8  # concurrent requests for token ids


class _BadLabel(ValueError):
    """A label of the caller is not one token; tells this apart from the ValueErrors of unreadable answers."""


class OpenAIEngine:
    """Any server of the OpenAI HTTP protocol: vLLM, llama.cpp, Ollama, or a hosted service.

    `url` is the base address, with or without /v1. Without `model`, the first model that the server lists is used.
    `timeout` is the longest wait without a byte, in seconds. Lost connections and HTTP 429 and 5xx are retried
    `retries` times, with growing, randomised pauses. At most `most` calls are sent at once; more wait here, where they
    can be cancelled. `in_flight` is the number of concurrent calls for a batch. ValueError when `url` is no http(s)
    address.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 2,
        in_flight: int = 16,
        most: int = 64,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is not an http(s) address")
        self.url = url.rstrip("/") + ("/v1" if parts.path in ("", "/") else "")
        self._root = self.url.removesuffix("/v1")
        self._model = model
        self._timeout = timeout
        self._key = api_key
        self._retries = retries
        self.in_flight = in_flight
        self._opened: openai.OpenAI | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(max(most, in_flight))
        self._ids: OrderedDict[tuple[str, bool], list[int]] = OrderedDict()
        self._context = 0  # the server's context in tokens; 0 while unknown
        self._llama = False  # whether token ids come from llama.cpp's server

    @property
    def name(self) -> str:
        """The model's name; the address while that is not known yet."""
        return self._model or self.url

    def models(self) -> list[str]:
        """Names of the server's models and adapters; the first becomes the model if none was given.

        ModelError when the server does not answer.
        """
        work = self._translated(lambda job: [each.id for each in self._client().models.list().data])
        found = Job(work, "whyfeed-models").result()
        if self._model is None and found:
            self._model = found[0]
        return found

    def complete(self, request: ChatRequest) -> Completion:
        """See `Engine.complete`."""
        return self._chat(request).result(request.cancel)

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """See `Engine.stream`."""
        return self._chat(request).pieces(request.cancel)

    def judge(self, request: JudgeRequest) -> list[float]:
        """See `Engine.judge`. Uses vLLM's /generative_scoring where available, else log-probabilities of a completion.

        vLLM and llama.cpp compare the two labels even when other tokens are more likely. Other servers list only the
        most likely tokens: if only one label is among them, the other gets the probability of the least likely one.
        """
        if not request.candidates:
            return []
        texts, yes, no = [request.prefix, *request.candidates], request.yes, request.no

        def work(job: Job[list[float]]) -> list[float]:
            ids = self._token_ids([*texts, yes, no], job)
            scores = None if ids is None else self._score(ids)
            if scores is None and ids is not None and self._llama:
                scores = self._score_by_llama(ids, job)
            return self._score_by_logprobs(texts, ids, yes, no) if scores is None else scores

        return Job(self._translated(work), "whyfeed-judge").result(request.cancel)

    def warm(self, prefix: str) -> None:
        """See `Engine.warm`: generates one token, which fills the server's prefix cache if it has one."""
        text = checked_text(prefix)

        def work(job: Job[None]) -> None:
            self._client().completions.create(model=self._chosen(), prompt=text, max_tokens=1)

        Job(self._translated(work), "whyfeed-warm").result()

    def embed(self, texts: Sequence[str]) -> list[tuple[list[float], int]]:
        """(pooled vector, number of pooled tokens) of each text, by /v1/embeddings.

        Sends one request per text, `in_flight` at once, because a server reports only the token count of a whole
        request; it batches concurrent requests itself.
        """
        checked = [checked_text(text) for text in texts]

        def one(text: str) -> tuple[list[float], int]:
            answer = self._client().embeddings.create(model=self._chosen(), input=text, encoding_format="float")
            (found,) = answer.data
            return [float(value) for value in found.embedding], int(answer.usage.prompt_tokens)

        def work(job: Job[list[tuple[list[float], int]]]) -> list[tuple[list[float], int]]:
            self._chosen()
            with ThreadPoolExecutor(self.in_flight, "whyfeed-embed") as pool:
                return list(pool.map(one, checked))

        return Job(self._translated(work), "whyfeed-embed").result()

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            if self._opened is not None:
                self._opened.close()

    # ---- inside ----

    def _chat(self, request: ChatRequest) -> Job[Completion]:
        body: dict[str, Any] = {
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.schema is not None:
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}

        def work(job: Job[Completion]) -> Completion:
            text, finish, prompt_tokens, tokens, chunks = "", "", 0, 0, 0
            with self._client().chat.completions.create(model=self._chosen(), **body) as answer:
                for chunk in answer:
                    if job.stop.is_set():
                        break  # closing the connection stops the server's work
                    if chunk.usage is not None:
                        prompt_tokens, tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
                    if not chunk.choices:
                        continue
                    finish = chunk.choices[0].finish_reason or finish
                    if piece := chunk.choices[0].delta.content:
                        text += piece
                        chunks += 1
                        job.emit(piece)
            if not finish and not job.stop.is_set():
                raise UnreachableError(
                    f"{self.name!r} at {self.url!r} broke off in the middle of its answer; ask again"
                )
            return Completion(text, finish, prompt_tokens, tokens or chunks)

        return Job(self._translated(work), "whyfeed-chat")

    def _client(self) -> openai.OpenAI:
        import openai

        with self._lock:
            if self._closed:
                raise ModelError(f"the engine for {self.url!r} is closed; open a new one")
            if self._opened is None:
                # A key in the environment may be for another server: only the given key is sent.
                self._opened = openai.OpenAI(
                    base_url=self.url,
                    api_key=self._key or "none",
                    timeout=openai.Timeout(self._timeout, connect=min(5.0, self._timeout)),
                    max_retries=self._retries,
                )
            return self._opened

    def _chosen(self) -> str:
        if self._model is None:
            models = self._client().models.list().data
            if not models:
                raise ModelError(f"the server at {self.url!r} serves no model; start it with one")
            self._model = models[0].id
        return self._model

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST to a route of the server outside of /v1; None when it has no such route."""
        import openai

        try:
            return self._client().post(f"{self._root}{path}", cast_to=object, body=dict(body))
        except openai.APIStatusError as exc:
            # An unknown model is a 404 too, with "model" in its message.
            if exc.status_code in (404, 405) and "model" not in str(exc.body).lower():
                return None
            raise

    def _token_ids(self, texts: Sequence[str], job: Job[list[float]]) -> list[list[int]] | None:
        """Token ids of each text; only the first gets the beginning-of-sequence token. None without such a route."""
        keys = [(text, place == 0) for place, text in enumerate(texts)]
        with self._lock:
            known = {key: self._ids[key] for key in keys if key in self._ids}
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            first = self._tokenised(*missing[0])  # None when there is no such route
            if first is None:
                return None

            def one(key: tuple[str, bool]) -> list[int] | None:
                check_wanted(job.stop)
                return self._tokenised(*key)

            with ThreadPoolExecutor(_TOKENISING, "whyfeed-tokens") as pool:
                fresh = [first, *pool.map(one, missing[1:])]
            for key, ids in zip(missing, fresh, strict=True):
                if ids is None:
                    return None
                known[key] = ids
        with self._lock:
            for key in keys:
                self._ids[key] = known[key]
                self._ids.move_to_end(key)
            while len(self._ids) > _TOKENISED:
                self._ids.popitem(last=False)
        found = [known[key] for key in keys]
        # The server would truncate a prompt that is too long and return a plausible score.
        longest = len(found[0]) + max(len(each) for each in found[1:])
        if self._context and longest >= self._context:
            raise ModelError(
                f"a prompt of {longest} tokens is too long for {self.name!r} ({self._context}); shorten it"
            )
        return found

    def _tokenised(self, text: str, opening: bool) -> list[int] | None:
        # vLLM and llama.cpp both have this route, with different field names; each ignores those of the other.
        body = {"model": self._chosen(), "prompt": text, "add_special_tokens": opening}
        answer = self._post("/tokenize", {**body, "content": text, "add_special": opening, "parse_special": True})
        tokens = answer.get("tokens") if isinstance(answer, Mapping) else None
        if tokens is None or (text and not tokens):
            return None
        most = answer.get("max_model_len")
        self._context, self._llama = int(most or 0), most is None
        return [int(token) for token in tokens or ()]

    def _labels(self, ids: Sequence[Sequence[int]]) -> list[int]:
        if any(len(label) != 1 for label in ids[-2:]):
            raise _BadLabel(f"yes and no must each be one token of {self.name!r}")
        return [label[0] for label in ids[-2:]]

    def _score(self, ids: list[list[int]]) -> list[float] | None:
        body = {
            "model": self._chosen(),
            "query": ids[0],
            "items": ids[1:-2],
            "label_token_ids": self._labels(ids),
            "apply_softmax": True,
            "item_first": False,
        }
        answer = self._post("/generative_scoring", body)
        if answer is None:
            return None
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        return self._probabilities([float(row["score"]) for row in rows], len(ids) - 3)

    def _score_by_llama(self, ids: list[list[int]], job: Job[list[float]]) -> list[float]:
        """P(yes) from llama.cpp's server, with a logit bias that leaves only the two labels; see `label_options`.

        Prompts are sent one at a time and without the cache: a cached start would change the shape of the batches and
        so the rounding, and scores would depend on earlier requests.
        """
        labels = self._labels(ids)
        body = {"model": self._chosen(), "max_tokens": 1, "cache_prompt": False, **label_options(labels)}
        scores = []
        for item in ids[1:-2]:
            check_wanted(job.stop)
            answer = self._post("/v1/completions", {**body, "prompt": [*ids[0], *item]})
            scores.append(label_probability(answer, labels))
        return self._probabilities(scores, len(ids) - 3)

    def _score_by_logprobs(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None, yes: str, no: str
    ) -> list[float]:
        """P(yes) from the log-probabilities of the first token; labels are given as ids if both are single tokens."""
        prompts: Any = [texts[0] + candidate for candidate in texts[1:]]
        more: dict[str, Any] = {}
        if ids is not None and len(ids[-2]) == len(ids[-1]) == 1:
            prompts = [[*ids[0], *candidate] for candidate in ids[1:-2]]
            labels = [ids[-2][0], ids[-1][0]]
            more = {"logprob_token_ids": labels, "return_tokens_as_token_ids": True}
            yes, no = (f"token_id:{label}" for label in labels)
        answer = self._client().completions.create(
            model=self._chosen(), prompt=prompts, max_tokens=1, temperature=0.0, logprobs=2 if more else 20,
            extra_body=more,
        )  # fmt: skip
        scores = []
        for choice in sorted(answer.choices, key=lambda choice: choice.index):
            tops = (choice.logprobs.top_logprobs or [{}])[0] if choice.logprobs is not None else {}
            if yes not in tops and no not in tops:
                raise ModelError(
                    f"{self.name!r} at {self.url!r} gives no log-probability of {yes!r} or {no!r}; "
                    "judge with vLLM or the embedded engine"
                )
            least = min(tops.values())
            gap = tops.get(no, least) - tops.get(yes, least)
            scores.append(1 / (1 + math.exp(min(gap, 700.0))))
        return self._probabilities(scores, len(texts) - 1)

    def _probabilities(self, scores: list[float], wanted: int) -> list[float]:
        if len(scores) != wanted or not all(0 <= score <= 1 for score in scores):
            raise ModelError(f"{self.name!r} at {self.url!r} answered {len(scores)} scores for {wanted} candidates")
        return scores

    def _translated(self, work: Callable[[Job[T]], T]) -> Callable[[Job[T]], T]:
        """`work`, run when fewer than `most` calls are running, with its errors translated to ModelError."""

        def translated(job: Job[T]) -> T:
            while not self._room.acquire(timeout=0.1):
                check_wanted(job.stop)
            try:
                return work(job)
            except (ModelError, _BadLabel):
                raise
            except Exception as exc:  # of the client, its HTTP library, or answers that violate the protocol
                raise self._explain(exc) from exc
            finally:
                self._room.release()

        return translated

    def _explain(self, exc: Exception) -> ModelError:
        import openai

        where = f"{self.name!r} at {self.url!r}"
        said = one_line(exc)
        if isinstance(exc, openai.APITimeoutError):
            return UnreachableError(
                f"{where} did not answer within {self._timeout:g} s; try again, or give it more time"
            )
        if isinstance(exc, openai.APIConnectionError):
            return UnreachableError(f"no server answers at {self.url!r}; start it, or check the address")
        status = _status_of(exc)
        if status in (401, 403):
            return ModelError(f"{where} refuses the key (HTTP {status}); check the key")
        if status == 404:
            return ModelError(f"{where}: no such model or route ({said}); check the name and the address")
        if status == 400 and re.search(r"context|too long|max_model_len", said, re.IGNORECASE):
            return ModelError(f"the prompt is too long for {where} ({said}); shorten it")
        if 400 <= status < 500 and status != 429:
            return ModelError(f"{where} refuses the request ({said}); check prompt and schema")
        if status:
            kind = UnreachableError if status >= 500 else ModelError
            return kind(f"{where} failed (HTTP {status}: {said}); try again, or look at its log")
        return UnreachableError(f"{where} broke off or answered in a way that cannot be read ({said}); look at its log")


def _status_of(exc: Exception) -> int:
    """The HTTP status of an answer, or of an error within a stream; 0 for none."""
    found = getattr(exc, "status_code", None)
    if found is None:
        body = getattr(exc, "body", None)
        found = body.get("code") if isinstance(body, Mapping) else None
    try:
        return int(found or 0)
    except (TypeError, ValueError):
        return 0
