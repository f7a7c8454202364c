"""Train the next-item transformer of `retrieval.community.next_item` in torch.

Each position of a history predicts the post that follows it (SASRec: Kang and McAuley 2018) among all posts or a
uniform sample of them. With uniform negatives the scores include how popular a post is, which ranking a whole catalogue
needs. A batch holds histories of one length, because padding would cost six times the work here. A history without
order is read in a new order each epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import require_library
from whyfeed.retrieval.arrays import Condenser, Rows, Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.next_item import NextItem
from whyfeed.retrieval.progress import Progress

_STARTING = threading.Lock()
_training: list[int] = []
MIN_LIKES = 10_000  # with fewer it learns nothing beyond the texts


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes and rates of the training; `benchmarks/LOG.md` has the measurements behind the defaults."""

    size: int = 64
    blocks: int = 2
    heads: int = 2
    longest: int = 50
    epochs: int = 8
    rate: float = 3e-3
    decay: float = 0.01
    dropout: float = 0.3
    tokens: int = 3000  # of a batch
    negatives: int = 1024  # shared by a batch; 0: all posts
    warm_up: int = 200  # steps
    seed: int = 0


def train_next_item(
    histories: Sequence[Rows], text: Vectors, ordered: bool, recipe: TransformerConfig = TransformerConfig(),
    progress: Progress | None = None,
) -> NextItem:  # fmt: skip
    """Train on histories (rows of posts, oldest first); `text` are the posts' text vectors (posts, t).

    The same input gives the same model, also when several train in parallel. ModelError when torch is not installed.
    """
    torch = _torch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _STARTING, torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(recipe.seed)  # global: no other thread may draw while the weights are drawn
        model = network(recipe, text.shape, ordered).to(device)
    with _one_thread():
        _fit(model, histories, torch.from_numpy(np.ascontiguousarray(text)).to(device), ordered, recipe, progress)
    return NextItem(weights_of(model), recipe.heads, recipe.longest)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread while any training runs: with several, sums depend on the order of threads."""
    import torch

    with _STARTING:
        if not _training:
            _training.append(torch.get_num_threads())  # what it was before the first
        _training.append(1)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _STARTING:
            _training.pop()
            torch.set_num_threads(_training.pop() if len(_training) == 1 else 1)


def train_on_community(
    community: Community, progress: Progress | None = None, encoder: str = "", states: Vectors | None = None,
    enough: int = MIN_LIKES,
) -> NextItem | None:  # fmt: skip
    """Train on the likes of a community; None for fewer than `enough`. ModelError when torch is not installed.

    `states` (posts, d): vectors of the posts by the language model named `encoder`.
    """
    _, users, rows = community.counted()
    order = np.argsort(users, kind="stable")
    users, rows = users[order], rows[order]
    _, first = np.unique(users * len(community) + rows, return_index=True)
    first.sort()
    users, rows = users[first], rows[first]
    if len(rows) < enough:
        return None
    histories = np.split(rows, np.flatnonzero(np.diff(users)) + 1)
    text = community.vectors(range(len(community)))
    if states is None:
        return replace(train_next_item(histories, text, True, progress=progress), posts=tuple(community.ids))
    condenser = Condenser.of(states)
    text = np.concatenate([text, condenser(states)], axis=1)
    model = train_next_item(histories, text, True, progress=progress)
    arrays = {**model.arrays, "centre": condenser.centre, "directions": condenser.directions}
    return replace(model, arrays=arrays, posts=tuple(community.ids), encoder=encoder)


def _torch() -> Any:
    require_library("torch", "train")
    import torch

    return torch


def _fit(
    model: Any,
    histories: Sequence[Rows],
    text: Any,
    ordered: bool,
    recipe: TransformerConfig,
    progress: Progress | None,
) -> None:
    import torch

    parts = chunks(histories, recipe.longest)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.decay)
    per_epoch = len(list(batches(parts, recipe, 0, ordered)))
    total, step = per_epoch * recipe.epochs, 0
    model.train()
    for epoch in range(recipe.epochs):
        for batch in batches(parts, recipe, epoch, ordered):
            if progress and step % 20 == 0:
                progress("training the next-item transformer", step, total)
            rate = recipe.rate * min(1.0, (step + 1) / recipe.warm_up)
            rate *= 0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * step / total))
            for group in optimiser.param_groups:
                group["lr"] = rate
            rng = np.random.default_rng([recipe.seed, 1, step])
            loss = model.loss(torch.from_numpy(batch).to(text.device), text, rng)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
    model.eval()
    if progress:
        progress("training the next-item transformer", total, total)


def chunks(histories: Sequence[Rows], longest: int) -> list[Rows]:
    """Histories split into parts of at most longest + 1 posts, from the end; consecutive parts share one post."""
    found = []
    for history in histories:
        end = len(history)
        while end >= 2:
            begin = max(0, end - longest - 1)
            found.append(np.asarray(history[begin:end], dtype=np.int64))
            end = begin + 1
    return found


def batches(parts: Sequence[Rows], recipe: TransformerConfig, epoch: int, ordered: bool) -> Iterator[Rows]:
    """Batches (n, length) of parts of equal length, in the order of this epoch."""
    rng = np.random.default_rng([recipe.seed, 0, epoch])
    by_length: dict[int, list[int]] = {}
    for place in rng.permutation(len(parts)).tolist():
        by_length.setdefault(len(parts[place]), []).append(place)
    found = []
    for length, places in sorted(by_length.items()):
        most = max(1, recipe.tokens // length)
        found += [places[begin : begin + most] for begin in range(0, len(places), most)]
    for number in rng.permutation(len(found)).tolist():
        batch = np.stack([parts[place] for place in found[number]])
        yield batch if ordered else rng.permuted(batch, axis=1)


def network(recipe: TransformerConfig, shape: tuple[int, ...], ordered: bool) -> Any:
    """The torch module with new weights, for text vectors of this shape; maps (n, length, size) to states."""
    import torch
    from torch import nn
    from torch.nn import functional

    count, width = shape
    size = recipe.size
    chance: dict[Any, Any] = {}  # a generator per device of its own, so that trainings can run in parallel

    def dropped(x: Any) -> Any:
        if x.device not in chance:
            chance[x.device] = torch.Generator(x.device).manual_seed(recipe.seed + 1)
        kept = torch.rand(x.shape, generator=chance[x.device], device=x.device) >= recipe.dropout
        return x * kept / (1 - recipe.dropout)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
            self.attend_in, self.attend_out = nn.Linear(size, 3 * size), nn.Linear(size, size)
            self.widen, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

        def forward(self, x: Any) -> Any:
            count, length, _ = x.shape
            parts = self.attend_in(self.norm1(x)).reshape(count, length, 3, recipe.heads, -1).permute(2, 0, 3, 1, 4)
            drop = dropped if self.training else _as_it_is
            scores = parts[0] @ parts[1].transpose(2, 3) * (size // recipe.heads) ** -0.5
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            mixed = drop(scores.masked_fill(later, float("-inf")).softmax(dim=-1)) @ parts[2]
            x = x + drop(self.attend_out(mixed.transpose(1, 2).reshape(count, length, size)))
            inner = functional.gelu(self.widen(self.norm2(x)), approximate="tanh")
            return x + drop(self.narrow(inner))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ids = nn.Parameter(torch.randn(count, size) * 0.02)
            self.bias = nn.Parameter(torch.zeros(count))
            self.text = nn.Linear(width, size, bias=False)
            self.positions = nn.Parameter(torch.randn(recipe.longest, size) * 0.02) if ordered else None
            self.blocks = nn.ModuleList(Block() for _ in range(recipe.blocks))
            self.norm = nn.LayerNorm(size)

        def items(self, posts: Any, text: Any) -> Any:
            return functional.embedding(posts, self.ids) + self.text(text[posts])

        def forward(self, x: Any) -> Any:
            if self.positions is not None:
                x = x + self.positions[-x.shape[1] :]
            x = dropped(x) if self.training else x
            for block in self.blocks:
                x = block(x)
            return self.norm(x)

        def loss(self, batch: Any, text: Any, rng: Any) -> Any:
            rows, places = torch.unique(batch, return_inverse=True)
            table = self.items(rows, text)
            states = self(functional.embedding(places[:, :-1], table)).reshape(-1, size)
            target = batch[:, 1:].reshape(-1)
            if not recipe.negatives or recipe.negatives >= count:
                everything = self.ids + self.text(text)
                return functional.cross_entropy(states @ everything.T + self.bias, target)
            drawn = torch.from_numpy(rng.choice(count, recipe.negatives, replace=False)).to(batch.device)
            right = (states * functional.embedding(places[:, 1:].reshape(-1), table)).sum(1) + self.bias[target]
            wrong = states @ self.items(drawn, text).T + self.bias[drawn]
            wrong = wrong.masked_fill(drawn[None, :] == target[:, None], float("-inf"))
            return (torch.logsumexp(torch.cat([right[:, None], wrong], dim=1), dim=1) - right).mean()

    return Model()


def _as_it_is(x: Any) -> Any:
    return x


def weights_of(model: Any) -> dict[str, Any]:
    """Its weights as the arrays of a `NextItem`, which computes the same in numpy."""

    def array(tensor: Any) -> Any:
        return tensor.detach().cpu().numpy().astype(np.float32).copy()

    found = {
        "ids": array(model.ids), "bias": array(model.bias), "text": array(model.text.weight.T),
        "norm": array(model.norm.weight), "shift": array(model.norm.bias),
    }  # fmt: skip
    if model.positions is not None:
        found["positions"] = array(model.positions)
    for number, block in enumerate(model.blocks):
        for name in ("attend_in", "attend_out", "widen", "narrow"):
            layer = getattr(block, name)
            found[f"{number}.{name}"] = array(layer.weight.T)
            found[f"{number}.{name}_shift"] = array(layer.bias)
        found[f"{number}.attend_shift"] = found.pop(f"{number}.attend_in_shift")
        for name in ("1", "2"):
            found[f"{number}.norm{name}"] = array(getattr(block, f"norm{name}").weight)
            found[f"{number}.shift{name}"] = array(getattr(block, f"norm{name}").bias)
    return found
