"""An intent classifier on sentence vectors, for sentences that the written rules do not recognise.

Kernel ridge regression onto one-hot intents (one-versus-all regularised least squares: Rifkin and Klautau 2004, "In
defense of one-vs-all classification") with a Gaussian kernel. It is trained at first use on
agent/understanding/utterances.jsonl: about 1,400 sentences, three seconds. Topics in these sentences are marked by
[brackets].
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from whyfeed.agent.request import Intent
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.files import keep_arrays, kept_arrays
from whyfeed.retrieval.words import STOPWORDS, words

INTENTS: tuple[Intent, ...] = get_args(Intent)
TRAINING = Path(__file__).with_name("utterances.jsonl")
_TOPIC = re.compile(r"\[([^\]]*)\]")

# Chosen by leave-one-out on the training sentences (accuracy 0.86 in English, 0.89 in Chinese). Adding words and word
# pairs to the vectors made it worse.
GAMMA, RIDGE = 1.0, 0.05
MIN_ACCURACY = 0.7  # leave-one-out; below it the embedder (one of a single language, say) is not used
UNSURE = 0.05  # best minus second best score: above it nine in ten are right, below it fewer than half


class Utterance(NamedTuple):
    """One training sentence: `text` without brackets, and the topics that were in brackets."""

    text: str
    intent: Intent
    language: str
    topics: tuple[str, ...]


def load_utterances(path: Path = TRAINING) -> list[Utterance]:
    """The sentences of a JSON Lines file with the fields text, intent and language."""
    utterances = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        topics = tuple(_TOPIC.findall(row["text"]))
        utterances.append(Utterance(_TOPIC.sub(r"\1", row["text"]), row["intent"], row["language"], topics))
    return utterances


def frame_words(utterances: Iterable[Utterance]) -> tuple[frozenset[str], frozenset[str]]:
    """Two sets of words learned from the training sentences, to tell topics from the words around them.

    The first holds all words outside topics, and the stop words. The second holds those of them that never occur in a
    topic, and can therefore be trimmed from the ends of one.
    """
    frame, topical = set(STOPWORDS), set[str]()
    for utterance in utterances:
        text = utterance.text
        for topic in utterance.topics:
            text = text.replace(topic, " , ")
            topical.update(word for word in words(topic) if word not in STOPWORDS)
        if utterance.intent not in ("out_of_scope", "smalltalk"):
            frame.update(words(text))
    return frozenset(frame), frozenset(frame - topical)


@dataclass(frozen=True, slots=True)
class Guess:
    """The classifier's result for one sentence. `margin` is the best score minus the second best (0..1)."""

    intent: Intent
    margin: float

    @property
    def sure(self) -> bool:
        """Whether the margin is wide enough to act on."""
        return self.margin >= UNSURE


class IntentClassifier:
    """Trains itself at first use. Safe to use from several threads."""

    def __init__(self, embedder: Embedder, utterances: Sequence[Utterance], file: Path | None = None) -> None:
        """`file` stores the trained classifier: training takes some seconds, reading the file almost none."""
        self._embedder = embedder
        self._utterances = utterances
        self._file = file
        self._lock = threading.Lock()
        self._vectors: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self._weights: npt.NDArray[np.float64] = np.zeros((0, len(INTENTS)))
        self._left_out: tuple[Guess, ...] = ()
        self.accuracy = 0.0  # leave-one-out accuracy on the training sentences, once trained

    def guess(self, text: str) -> Guess | None:
        """The intent of one sentence; None when this embedder cannot separate intents."""
        self.prepare()
        return self.guesses([text])[0] if self.accuracy >= MIN_ACCURACY else None

    def guesses(self, texts: Sequence[str]) -> list[Guess]:
        """The intents of several sentences. Only the first 300 characters of each are used."""
        self.prepare()
        return [_guess(row) for row in _kernel(self._encode(texts), self._vectors) @ self._weights]

    def leave_one_out(self) -> list[Guess]:
        """Leave-one-out predictions for all training sentences, in closed form."""
        self.prepare()
        return list(self._left_out)

    def prepare(self) -> None:
        """Train, unless it is already trained."""
        with self._lock:
            if self._left_out:
                return
            content = [self._embedder.name, RIDGE, GAMMA, [[each.text, each.intent] for each in self._utterances]]
            digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
            trained = kept_arrays(self._file, digest) if self._file else None
            if trained is None:
                trained = self._train()
                if self._file:
                    keep_arrays(self._file, digest, trained)
            self._vectors, self._weights = trained["vectors"], trained["weights"]
            left_out = tuple(_guess(row) for row in trained["left_out"])
            pairs = zip(left_out, self._utterances, strict=True)
            self.accuracy = sum(guess.intent == utterance.intent for guess, utterance in pairs) / len(left_out)
            self._left_out = left_out

    def _train(self) -> dict[str, npt.NDArray[Any]]:
        vectors = self._encode([utterance.text for utterance in self._utterances])
        targets = np.array([[utterance.intent == intent for intent in INTENTS] for utterance in self._utterances])
        inverse = np.linalg.inv(_kernel(vectors, vectors) + RIDGE * np.eye(len(targets)))
        weights = inverse @ targets
        return {"vectors": vectors, "weights": weights, "left_out": targets - weights / np.diag(inverse)[:, None]}

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self._embedder.encode([text[:300] for text in texts])


def _kernel(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.exp(-GAMMA * (2 - 2 * (left @ right.T).astype(np.float64)))  # squared distances, since rows have length 1


def _guess(scores: npt.NDArray[np.float64]) -> Guess:
    second, best = np.argsort(scores)[-2:]
    return Guess(INTENTS[int(best)], float(scores[best] - scores[second]))
