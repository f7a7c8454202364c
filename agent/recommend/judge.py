"""P(engage | user, post) by a causal LLM, from the yes/no logits after a prompt of user prefix and post.

The prompt is [system][user] ‖ [post]: the prefix is computed once per user, and the text of a post affects only its own
score. An untrained judge is not informative and gets weight zero.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from whyfeed import prompts
from whyfeed.agent.llm.engine import Engine, JudgeRequest, defuse
from whyfeed.retrieval.community.reader import Reader
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.store import Store

HISTORY = 12  # events in the prefix
_MARK = "\u241f"  # stands for the post while the prompt is rendered; the prompt is then split at it
_BREAKS = re.compile(r"[\u241f\n\r]")


class Judge:
    """Scores posts for a user with an engine. Scores are cached until the post or the user's prefix changes.

    `calibration` is that of a trained judge: slope and intercept applied to its logit.
    """

    def __init__(
        self, engine: Engine, store: Store, most: int = 20, calibration: tuple[float, float] = (1.0, 0.0)
    ) -> None:
        self._engine = engine
        self._store = store
        self._prompt = prompts.load("judge", "en")
        self._slope, self._intercept = calibration
        self.most = most
        self.name = engine.name
        self.version = self._prompt.version

    def prefix(self, reader: Reader, posts: Mapping[str, Post]) -> tuple[str, str]:
        """The prompt before and after the post."""
        acts = [
            (word_of(event.kind, event.weight), posts[event.post])
            for event in reader.events
            if event.post in posts and event.weight
        ]
        return around(history_lines(acts, [topic for _, topic in reader.named]), self._prompt)

    def warm(self, reader: Reader, posts: Mapping[str, Post]) -> None:
        """Compute the prefix of this user before the first post is scored."""
        self._engine.warm(self.prefix(reader, posts)[0])

    def score(self, reader: Reader, wanted: Sequence[Post], posts: Mapping[str, Post]) -> list[float]:
        """P(yes) of each wanted post; `posts` must hold the posts of the user's history. May raise ModelError."""
        before, after = self.prefix(reader, posts)
        who = hashlib.sha256(f"{self.version}|{self.name}|{before}{after}".encode()).hexdigest()[:16]
        lines = [post_line(post) for post in wanted]
        keys = [f"{reader.user}|{who}|{hashlib.sha256(line.encode()).hexdigest()[:16]}" for line in lines]
        known = [self._store.kept("judgement", key) for key in keys]
        missing = [place for place, document in enumerate(known) if document is None]
        scores = [0.0 if document is None else float(document["p"]) for document in known]
        if missing:
            fresh = self._engine.judge(JudgeRequest(before, [lines[place] + after for place in missing]))
            for place, probability in zip(missing, fresh, strict=True):
                scores[place] = probability
                self._store.keep("judgement", keys[place], {"p": probability}, reader.user)
        return [self._calibrated(score) for score in scores]

    def _calibrated(self, score: float) -> float:
        if (self._slope, self._intercept) == (1.0, 0.0):
            return score
        score = min(max(score, 1e-9), 1 - 1e-9)
        return 1 / (1 + math.exp(-(self._slope * math.log(score / (1 - score)) + self._intercept)))


# ---- the prompt, shared by training and scoring


def around(history: Sequence[str], prompt: prompts.Prompt | None = None) -> tuple[str, str]:
    """The prompt before and after the post's line, in ChatML, the format of the default base model and of Qwen."""
    messages = (prompt or prompts.load("judge", "en")).render(history=history, post=_MARK)
    text = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    before, after = f"{text}<|im_start|>assistant\n".split(_MARK)
    return before, after


def history_lines(acts: Iterable[tuple[str, Post]], interests: Iterable[str] = ()) -> list[str]:
    """One line (word and post) for each of the latest events, one event per post; then the named interests."""
    last: dict[str, str] = {}
    for word, post in acts:
        last.pop(post.id, None)
        last[post.id] = f"{word}: {post_line(post)}"
    return [*list(last.values())[-HISTORY:], *(f"interest: {_clean(topic)}" for topic in interests)]


def word_of(kind: str, weight: float) -> str:
    """The word for an event in the history; a rating becomes like or dislike, since "rate" alone does not say which."""
    return kind if kind != "rate" else "like" if weight > 0 else "dislike"


def post_line(post: Post) -> str:
    """Title and tags: 20 to 25 tokens, so that two cores can score 20 posts in a turn."""
    tags = f" ({', '.join(post.tags[:5])})" if post.tags else ""
    return _clean(post.label)[:200] + _clean(tags)[:100]


def _clean(text: str) -> str:
    """Foreign text on one line, without anything that could end a message or shift the end of the prefix."""
    return defuse(_BREAKS.sub(" ", text))
