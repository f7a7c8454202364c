"""Train the post encoder: posts that the same users act on get similar vectors.

The upper layers of the cut model are trained, in full or through LoRA; the lower layers are frozen and run once per
step. An example is a post that a user acted on, with the user's posts before it. Its loss is the cross-entropy of that
post among all posts of the batch and a hard negative, which is similar in words but was never acted on by the same user
(InfoNCE, van den Oord et al. 2018). With one post before it this is the contrastive loss on pairs, with several a
next-item loss. Popular posts are over-represented in histories, so examples are sampled with weight 1 /
sqrt(popularity). Gradients reach the layers through cached gradients of the vectors (GradCache, Gao et al. 2021, arXiv
2101.06983), so that a batch may be larger than memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.agent.encoder.post_encoder import BEFORE, LAYERS, MODEL, CausalEncoder, file_of, tokens_of
from whyfeed.agent.encoder.tokenizer import Tokenizer
from whyfeed.agent.llm import weights as weight_files
from whyfeed.finetune import training
from whyfeed.finetune.config import TrainingConfig
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.llm import merge
from whyfeed.finetune.training import CHECKPOINT_EVERY, Checkpoint
from whyfeed.retrieval.arrays import Rows, Vectors
from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.event import DESK, STEERING
from whyfeed.retrieval.files import new_folder, write_whole
from whyfeed.retrieval.post import reading_text
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store

_APART = 2  # largest distance between the two posts of a pair, in events
_HELD_OUT = 0.1  # share of the users
_ASKED = 300  # largest number of held-out users, each tested on one post among all held-out ones
_NEAR = 20  # nearest neighbours by words from which hard negatives are sampled
_TOKENS_AT_ONCE = 1024
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class EncoderConfig(TrainingConfig):
    """Settings of the encoder's training; `base` is an F16 GGUF file of a Llama model or a name of our weights."""

    layers: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="Layers whose states are read; the model is cut after the last."),
    ] = LAYERS
    tuned: Annotated[int, Field(ge=1, description="How many layers up to the cut learn.")] = 4
    method: Annotated[Literal["layers", "lora"], Field(description="Whole layers, or low-rank additions.")] = "layers"
    rank: Annotated[int, Field(ge=1, description="Of the additions of `lora`.")] = 8
    before: Annotated[int, Field(ge=1, description="Posts before the target that an example asks with.")] = 1
    batch: Annotated[int, Field(ge=2, description="Examples that one step learns from.")] = 192
    steps: Annotated[int, Field(ge=1, description="Optimiser steps.")] = 150
    lr: Annotated[float, Field(gt=0, description="The highest learning rate, at the end of the warm-up.")] = 1e-4
    temperature: Annotated[float, Field(gt=0, description="Cosines are divided by it in the loss.")] = 0.07
    max_tokens: Annotated[int, Field(ge=1, description="Of a post's text; the rest is not read.")] = 32

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        if self.tuned > max(self.layers):
            raise ValueError(f"tuned must be at most {max(self.layers)}, the last of layers, not {self.tuned}")
        return self


def train_home(
    home: Path, histories: Histories, config: EncoderConfig, *, near: Vectors | None = None,
    progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    """`train` for a home: the encoder becomes a version of the model `MODEL`, live if it beats the live one."""
    return training.train_for_home(
        home, MODEL, lambda out, live: train(histories, out, config, near=near, in_place=live, progress=progress)
    )


def of_home(store: Store) -> Histories:
    """The ledger of a home as histories."""
    posts = list(store.all_posts())
    rows = {post.id: row for row, post in enumerate(posts)}
    acts = [event for _, event in store.events() if event.post in rows and event.kind not in (*STEERING, *DESK)]
    users = list(dict.fromkeys(event.user for event in acts))
    codes = {user: code for code, user in enumerate(users)}
    user = np.array([codes[event.user] for event in acts], dtype=np.int64)
    time = np.array([np.nan if event.time is None else event.time for event in acts], dtype=np.float64)
    order = np.lexsort((np.nan_to_num(time, nan=-np.inf), user))
    return Histories(
        name="ledger", users=tuple(users), posts=tuple(rows), texts=tuple(map(reading_text, posts)),
        years=np.full(len(posts), np.nan, dtype=np.float32), user=user[order],
        post=np.array([rows[event.post] for event in acts], dtype=np.int64)[order],
        weight=np.array([event.weight for event in acts], dtype=np.float32)[order], time=time[order], ordered=True,
    )  # fmt: skip


def train(
    histories: Histories, out: Path, config: EncoderConfig, *, near: Vectors | None = None,
    in_place: Path | None = None, progress: Progress | None = None, cancel: threading.Event | None = None,
) -> Outcome:  # fmt: skip
    """Train the post encoder and write a GGUF file, cut after the last of `layers`, with its card to `out`.

    `near` are sentence vectors (posts, d) used to find hard negatives; without them there are none. The gate compares
    with the encoder in the folder `in_place`, or with the base. The same call after a kill or a `cancel` resumes the
    training and ends with the same file. Raises ValueError for a base that is not a Llama model or has too few layers,
    DataError when too few users acted on two posts, ModelError without the extra `train`, HomeError for weights or
    disk.
    """
    versions = training.libraries("training the encoder")
    path = _file(config.base)
    learn, asked = split(histories, config.seed)
    settings = {
        "layers": list(config.layers), "tuned": config.tuned, "method": config.method,
        "rank": config.rank if config.method == "lora" else None, "before": config.before, "batch": config.batch,
        "steps": config.steps, "lr": config.lr, "temperature": config.temperature,
        "max_tokens": config.max_tokens, "hard_negatives": near is not None, "seed": config.seed,
    }  # fmt: skip
    card = {
        "base": path.stem, "data": histories.name, "settings": settings, "versions": versions, "epsilon": None,
        "split": {"readers": len(np.unique(learn.user)), "held_out": len(asked)},
    }  # fmt: skip
    stat = path.stat()
    digest = training.digest(json.dumps([card, stat.st_size, stat.st_mtime_ns, _fingerprint(learn, near)]))
    with training.exclusive(out):
        run = _Run(path, card, digest, out, training.Watch.of(progress, cancel))
        return run.train(learn, asked, near, in_place)


def split(histories: Histories, seed: int) -> tuple[Histories, Rows]:
    """Training histories, and (users, 2) the last two posts of held-out users. Raises DataError for too few users."""
    places = histories.first_likes
    users, counts = np.unique(histories.user[places], return_counts=True)
    able = users[counts >= 2]
    if len(able) < 2:
        raise DataError(f"{histories.name!r}: {len(able)} readers took up two posts; the encoder learns from many")
    drawn = np.random.default_rng([seed, 1]).permutation(able)[: min(_ASKED, max(1, int(_HELD_OUT * len(able))))]
    ends = np.searchsorted(histories.user[places], drawn, side="right")
    asked = histories.post[places][np.stack([ends - 2, ends - 1], axis=1)]
    return histories.keep(~np.isin(histories.user, drawn)), asked


@dataclass(frozen=True)
class Examples:
    """Rows of posts: `target` was acted on after `context` (newest first, -1 for none)."""

    target: Rows  # (n,)
    context: Rows  # (n, before)
    chance: Any  # (n,) sums to 1

    @classmethod
    def of(cls, histories: Histories, before: int) -> Examples:
        """Pairs one or two events apart; or, with `before` above 1, each event with that many before it."""
        places = histories.first_likes
        user, post = histories.user[places], histories.post[places]
        targets, contexts = [], []
        for apart in range(1, _APART + 1) if before == 1 else (1,):
            gaps = [apart + back for back in range(before)]
            context = np.full((len(post), before), -1, dtype=np.int64)
            for column, gap in enumerate(gaps):
                same = np.flatnonzero(user[gap:] == user[: len(user) - gap]) + gap
                context[same, column] = post[same - gap]
            kept = context[:, 0] >= 0
            targets.append(post[kept])
            contexts.append(context[kept])
        target, context = np.concatenate(targets), np.concatenate(contexts)
        if not len(target):
            raise DataError(f"{histories.name!r} has nobody to learn from who took up two posts")
        popularity = np.maximum(histories.popularity, 1)
        weight = 1 / np.sqrt(popularity[target] * popularity[context[:, 0]])
        return cls(target, context, weight / weight.sum())

    def draw(self, step: int, batch: int, seed: int) -> Rows:
        """Indices of a step's examples, determined by the seed and the step alone."""
        return np.random.default_rng([seed, 2, step]).choice(len(self.target), batch, p=self.chance)


class HardNegatives:
    """Hard negatives: posts that are similar in words but were never acted on by the same user."""

    def __init__(self, histories: Histories, near: Vectors) -> None:
        self._near, self._liked = near, histories.liked.tocsc()
        self._together = self._liked.T.tocsr()

    def draw(self, posts: Rows, rng: np.random.Generator) -> Rows:
        """One hard negative for each of the posts, or -1."""
        cosines = self._near[posts] @ self._near.T
        cosines[np.arange(len(posts)), posts] = -np.inf
        together = (self._together[posts] @ self._liked).tocoo()
        cosines[together.row, together.col] = -np.inf
        found = np.full(len(posts), -1, dtype=np.int64)
        most = min(_NEAR, cosines.shape[1])
        best = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        for row, columns in enumerate(np.sort(best, axis=1)):
            usable = columns[np.isfinite(cosines[row, columns])]
            if len(usable):
                found[row] = rng.choice(usable)
        return found


class _Run:
    """One training run: the cut model, and the paths of its checkpoint and its result."""

    def __init__(self, path: Path, card: dict[str, Any], digest: str, out: Path, watch: training.Watch) -> None:
        self._path, self._card = path, card
        self._progress, self._cancel = watch.progress, watch.cancel
        self._digest, self._out, self._checkpoint = digest, out, Checkpoint(out, digest)
        self._settings: dict[str, Any] = card["settings"]
        file = GgufFile(path)
        if file.fields.get("general.architecture") != "llama":
            raise ValueError(f"{path.name!r} is no Llama, and no other is tuned to read posts; name an F16 file of one")
        self._tokenizer = Tokenizer(file)
        self._before = self._tokenizer.encode(BEFORE)
        self._depth = max(self._settings["layers"])
        self._frozen = self._depth - self._settings["tuned"]
        self._causal = _load(path, self._depth)
        self._model = self._causal.model

    def train(self, learn: Histories, asked: Rows, near: Vectors | None, in_place: Path | None) -> Outcome:
        """Run the remaining steps, measure, and write the result."""
        import torch

        settings, total = self._settings, int(self._settings["steps"])
        self._ids = [tokens_of(self._tokenizer, text, settings["max_tokens"]) for text in learn.texts]
        examples = Examples.of(learn, settings["before"])
        strangers = None if near is None else HardNegatives(learn, near)
        with training.seeded(settings["seed"]):
            before = _ranks(asked, self._vectors)
            rival = None if in_place is None else _ranks(asked, self._read_by(in_place, learn.texts))
            weights = self._learning()
            optimiser = torch.optim.AdamW(weights, lr=settings["lr"], weight_decay=0.01)
            done, notes, _ = self._checkpoint.resume(weights, optimiser)
            losses: list[float] = notes.get("losses", [])
            for step in range(done, total):
                if self._cancel.is_set():
                    self._checkpoint.keep(weights, optimiser, step, {"losses": losses})
                    why = f"stopped after step {step} of {total}: run again to go on"
                    return Outcome(False, why, {"step": step, "steps": total})
                self._progress("train", step, total)
                training.begin_step(optimiser, step, total, settings["lr"], settings["seed"])
                losses.append(self._step(step, examples, strangers))
                training.end_step(weights, optimiser)
                if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == total:
                    self._checkpoint.keep(weights, optimiser, step + 1, {"losses": losses})
            self._progress("train", total, total)
            after = _ranks(asked, self._vectors)
        return self._write(asked, before, rival, after, losses)

    def _step(self, step: int, examples: Examples, strangers: HardNegatives | None) -> float:
        """Compute the gradients of one batch; returns its loss."""
        import torch

        settings = self._settings
        drawn = examples.draw(step, settings["batch"], settings["seed"])
        target, context = examples.target[drawn], examples.context[drawn]
        hard = np.full(len(drawn), -1, dtype=np.int64)
        if strangers is not None:
            hard = strangers.draw(target, np.random.default_rng([settings["seed"], 3, step]))
        posts = np.unique(np.concatenate([target, context.ravel(), hard]))
        posts = posts[posts >= 0]
        runs = list(self._runs(posts))
        with torch.no_grad():
            below = [self._lower(rows) for rows in runs]
            found = torch.cat([self._upper(*each) for each in below])
        order = torch.from_numpy(np.argsort(np.concatenate(runs), kind="stable")).to(found.device)
        # The graph of the loss holds only the vectors; their gradients are passed on to the model part by part.
        found.requires_grad_()
        places = tuple(np.searchsorted(posts, each) for each in (target, context))
        loss = self._loss(found[order], places[0], places[1], context >= 0, np.searchsorted(posts, hard[hard >= 0]))
        loss.backward()
        begin, asked = 0, torch.as_tensor(found.grad)
        for each, rows in zip(below, runs, strict=True):
            self._upper(*each).backward(asked[begin : begin + len(rows)])
            begin += len(rows)
        return float(loss.detach())

    def _loss(self, vectors: Any, target: Rows, context: Rows, there: Any, hard: Rows) -> Any:
        """Cross-entropy of each target among the batch's targets and hard negatives, given its context.

        All arguments index rows of `vectors`; `there` (n, before) marks the context entries that exist.
        """
        import torch

        units = torch.nn.functional.normalize(vectors, dim=-1)
        shares = np.where(there, 0.8 ** np.arange(there.shape[1]), 0.0).astype(np.float32)
        asking = (
            units[torch.from_numpy(np.where(there, context, 0)).to(units.device)]
            * torch.from_numpy(shares).to(units.device)[..., None]
        ).sum(1)
        candidates = np.unique(np.concatenate([target, hard]))
        scores = torch.nn.functional.normalize(asking, dim=-1) @ units[torch.from_numpy(candidates).to(units.device)].T
        # Posts that the user had already acted on are not negatives.
        own = (candidates[None, :, None] == np.where(there, context, -1)[:, None, :]).any(axis=2)
        own &= candidates[None] != target[:, None]
        scores = scores.masked_fill(torch.from_numpy(own).to(units.device), -torch.inf) / self._settings["temperature"]
        right = torch.from_numpy(np.searchsorted(candidates, target)).to(units.device)
        return torch.nn.functional.cross_entropy(scores, right)

    # ---- the model

    def _runs(self, posts: Rows) -> Iterator[Rows]:
        """Posts of similar length, to save padding, in parts that fit into memory."""
        ordered = posts[np.argsort([len(self._ids[post]) for post in posts], kind="stable")]
        begin = 0
        while begin < len(ordered):
            end = begin + 1
            while end < len(ordered) and (end + 1 - begin) * len(self._ids[ordered[end]]) <= _TOKENS_AT_ONCE:
                end += 1
            yield ordered[begin:end]
            begin = end

    def _lower(self, posts: Rows) -> tuple[Any, Any, Any]:
        """States (posts, tokens, width) after the frozen layers, the mask of the text's own tokens, and positions."""
        import torch

        device, start = self._model.device, len(self._before)
        # An empty text still needs one token to get a vector.
        texts = [[*self._before, *(self._ids[post] or self._before[-1:])] for post in posts]
        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=device)
        own = torch.tensor([[start <= at < len(text) for at in range(longest)] for text in texts], device=device)
        states = self._model.embed_tokens(ids)
        turns = self._model.rotary_emb(states, position_ids=torch.arange(longest, device=device)[None])
        for layer in self._model.layers[: self._frozen]:
            states = _after(layer, states, turns)
        return states, own, turns

    def _upper(self, states: Any, own: Any, turns: Any) -> Any:
        """(posts, width): the mean of the states of the texts' own tokens after the last layer, as at inference."""
        for layer in self._model.layers[self._frozen :]:
            states = _after(layer, states, turns)
        states = states * (states.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return (states * own[..., None]).sum(1) / own.sum(1, keepdim=True)

    def _learning(self) -> list[Any]:
        """The trained weights: all of the upper layers, or a low-rank addition to each of their matrices."""
        for weight in self._causal.parameters():
            weight.requires_grad_(False)
        upper = self._model.layers[self._frozen :]
        if self._settings["method"] == "lora":
            from peft import LoraConfig, get_peft_model

            rank, numbers = self._settings["rank"], list(range(self._frozen, self._depth))
            config = LoraConfig(
                r=rank, lora_alpha=2 * rank, target_modules=list(_LINEAR), layers_to_transform=numbers,
                layers_pattern="layers",
            )  # fmt: skip
            self._adapted: Any = get_peft_model(self._causal, config)
        else:
            for weight in upper.parameters():
                weight.requires_grad_(True)
        return [weight for weight in upper.parameters() if weight.requires_grad]

    # ---- evaluation and output

    def _vectors(self, posts: Rows) -> Any:
        import torch

        runs = list(self._runs(posts))
        with torch.no_grad():
            found = torch.cat([self._upper(*self._lower(rows)) for rows in runs]).float().cpu().numpy()
        return found[np.argsort(np.concatenate(runs), kind="stable")]

    def _read_by(self, in_place: Path, texts: Sequence[str]) -> Callable[[Rows], Any]:
        encoder = CausalEncoder(file_of(in_place), (self._depth,), max_tokens=self._settings["max_tokens"])
        return lambda posts: encoder.encode([texts[post] for post in posts])

    def _write(self, asked: Rows, before: Any, rival: Any, after: Any, losses: list[float]) -> Outcome:
        """Decide the gate and write file and card in one step."""
        place = "the base" if rival is None else "the encoder in place"
        decision = decide(
            before if rival is None else rival, after, np.arange(len(asked)), metric="nDCG@10",
            names=(place, "the encoder"), seed=self._settings["seed"],
        )  # fmt: skip
        card = {
            **self._card, "ndcg@10": {"base": float(before.mean()), "tuned": float(after.mean())}, "losses": losses,
            "gate": decision.to_json(),
        }  # fmt: skip
        if self._settings["method"] == "lora":
            self._causal = self._adapted.merge_and_unload()
        # The last norm belongs to the removed layers; without it a server pools states of equal length.
        self._causal.model.norm.weight.data.fill_(1.0)
        with new_folder(self._out) as folder:
            # Vectors are stored under the file's name, so each training needs its own name.
            merge.write_gguf(self._causal, self._path, folder / f"{MODEL}-{self._digest[:8]}.gguf")
            write_whole(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        self._checkpoint.drop()
        return Outcome(decision.live, decision.why, card)


def _ranks(asked: Rows, vectors_of: Callable[[Rows], Any]) -> Any:
    """(users,) nDCG@10 of each user's last post among those of all, by cosine with the post before it."""
    posts = np.unique(asked)
    vectors = vectors_of(posts).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    query, target = np.searchsorted(posts, asked).T
    candidates = np.unique(target)
    scores = vectors[query] @ vectors[candidates].T
    scores[candidates[None] == query[:, None]] = -np.inf
    own = scores[np.arange(len(asked)), np.searchsorted(candidates, target)]
    ranks = (scores > own[:, None]).sum(axis=1)
    return np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)


def _after(layer: Any, states: Any, turns: Any) -> Any:
    """A decoder layer with causal attention only: padding is at the end, where no token attends to it."""
    found = layer(states, position_embeddings=turns, attention_mask=None)
    return found[0] if isinstance(found, tuple) else found


def _load(path: Path, depth: int) -> Any:
    """The first layers of a GGUF model in float32, on the GPU where there is one."""
    _, causal = training.load(str(path.parent), path.name, attn_implementation="sdpa")
    if len(causal.model.layers) < depth:
        raise ValueError(f"{path.name!r} has {len(causal.model.layers)} layers, not {depth}; name fewer")
    causal.model.layers = causal.model.layers[:depth]
    causal.config.num_hidden_layers = depth
    return causal.eval()


def _file(base: str | Path) -> Path:
    path = Path(base).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise HomeError(f"there is no file {str(path)!r}; name an F16 GGUF file of a Llama model")
        return path
    return weight_files.check(weight_files.find(str(base)))


def _fingerprint(histories: Histories, near: Vectors | None) -> str:
    parts: list[Callable[[], bytes]] = [
        lambda: "\0".join(histories.texts).encode("utf-8", "replace"), histories.user.tobytes, histories.post.tobytes,
        lambda: b"" if near is None else near.tobytes(),
    ]  # fmt: skip
    return training.digest("".join(training.digest(part().hex()) for part in parts))
