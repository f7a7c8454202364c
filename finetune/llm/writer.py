"""Train the writer on the replies of this desk's operators: a LoRA adapter (Hu et al. 2021).

The loss covers the tokens of the answer only, not those of the conversation before it. The adapter is of the plain kind
that vLLM loads: no DoRA, no bias, no fully trained modules, and a rank that vLLM accepts by default.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from whyfeed.agent.llm.engine import checked_messages, defuse
from whyfeed.finetune import training
from whyfeed.finetune.config import MAX_RANK, TrainingConfig
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.training import CHECKPOINT_EVERY, Checkpoint
from whyfeed.retrieval.desk.types import PLACEHOLDER, DeskConversation, DeskTurn, SavedReply
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.files import new_folder, write_whole
from whyfeed.retrieval.language import detect_language
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.words import HAN

Render = Callable[[Sequence[DeskTurn], str], list[Mapping[str, str]]]  # turns before the answer, language

MODEL = "writer"
_TAKEN = 0.25  # largest share of all pairs that are saved replies sent unchanged
_HELD_OUT = 0.1  # share of the conversations
_TESTED = 400  # largest number of held-out answers that are measured
_TURNS = 6  # turns in the default prompt
_DROPOUT = 0.05
_ROOM_OF_ANSWER = 0.75  # share of max_length


@dataclass(frozen=True, slots=True)
class Pair:
    """The prompt (chat messages) that the writer would get, and the answer that the operator sent."""

    messages: tuple[Mapping[str, str], ...]
    answer: str
    conversation: str


# ---- training data


def pairs(
    conversations: Iterable[DeskConversation], replies: Mapping[str, SavedReply], render: Render | None = None
) -> list[Pair]:
    """The longer answers that operators wrote or edited, and a limited number of saved replies sent unchanged.

    Of the saved replies the least frequent so far are taken first, so that no greeting is learned a thousand times.
    """
    render = render or ask
    written: list[tuple[int, Pair]] = []
    taken: list[tuple[int, str, int, Pair]] = []
    times: Counter[str] = Counter()
    number = 0
    for conversation in conversations:
        for place, turn in enumerate(conversation.turns):
            before = conversation.turns[:place]
            if turn.role != "agent" or not any(each.role == "customer" and each.text for each in before):
                continue
            if not _long_enough(turn.text):
                continue
            language = "zh" if (conversation.language or detect_language(turn.text, "en")).startswith("zh") else "en"
            pair = Pair(tuple(render(before, language)), turn.text, conversation.id)
            number += 1
            if turn.reply and _as_saved(turn.text, replies.get(turn.reply)):
                times[turn.reply] += 1
                taken.append((times[turn.reply], training.digest(f"{conversation.id}/{place}"), number, pair))
            else:
                written.append((number, pair))
    most = int(len(written) * _TAKEN / (1 - _TAKEN))
    written += [(number, pair) for _, _, number, pair in sorted(taken, key=lambda each: each[:3])[:most]]
    return [pair for _, pair in sorted(written, key=lambda each: each[0])]


def ask(turns: Sequence[DeskTurn], language: str) -> list[Mapping[str, str]]:
    """A default prompt: the instruction and the last turns, one per line."""
    lines = []
    for turn in turns[-_TURNS:]:
        found = "; ".join(f"{key}: {value}" for key, value in (turn.item or {}).items())
        if said := " ".join((turn.text or found).split()):
            lines.append(f"{turn.role}: {said}")
    system = "写出客服的下一条回复。" if language == "zh" else "Write the agent's next reply."
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def _long_enough(text: str) -> bool:
    """At least four words, or six Chinese characters; "ok, thanks" teaches nothing."""
    return len(text.split()) >= 4 or len(HAN.findall(text)) >= 6


def _as_saved(text: str, saved: SavedReply | None) -> bool:
    """Whether the text is the saved reply with its placeholders filled; true when the saved reply is gone."""
    if saved is None:
        return True
    first, *middle = (" ".join(part.split()).lower() for part in PLACEHOLDER.split(saved.text)[::2])
    said = " ".join(text.split()).lower()
    if not middle:
        return said == first
    if not said.startswith(first):
        return False
    place, last = len(first), middle.pop()
    for part in middle:
        place = said.find(part, place) + len(part)
        if place < len(part):
            return False
    return said.endswith(last) and place <= len(said) - len(last)


def split(found: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Nine tenths for training and one tenth for evaluation, by conversation; a single one is for training."""
    names = sorted({pair.conversation for pair in found}, key=lambda name: training.digest(f"{seed}/{name}"))
    held = set(names[: max(1, round(_HELD_OUT * len(names)))]) if len(names) > 1 else set()
    train = [pair for pair in found if pair.conversation not in held]
    return train, [pair for pair in found if pair.conversation in held]


# ---- training


class WriterConfig(TrainingConfig):
    """Settings of the writer's training; `base` is an instruct model."""

    gguf: Annotated[str | None, Field(description="Name of a GGUF file in the folder `base`.")] = None
    method: Annotated[Literal["lora"], Field(description="The kind of adapter.")] = "lora"
    rank: Annotated[int, Field(ge=1, le=MAX_RANK, description="Of the adapter.")] = 8
    alpha: Annotated[int, Field(ge=1, description="The adapter is scaled by alpha / rank.")] = 16
    epochs: Annotated[int, Field(ge=1, description="How often each pair is read; `steps` goes before it.")] = 1
    batch: Annotated[int, Field(ge=1, description="Pairs that one step learns from.")] = 8
    lr: Annotated[float, Field(gt=0, description="The highest learning rate, at the end of the warm-up.")] = 2e-4
    max_length: Annotated[int, Field(ge=8, description="Tokens of prompt and answer together.")] = 512


def train(
    pairs: Sequence[Pair], out: Path, config: WriterConfig, *, progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Outcome:  # fmt: skip
    """Train an adapter for the base model and write it, with its card, to the folder `out` in one step.

    The same call after a kill or a `cancel` resumes the training. The gate compares the log-likelihood per token of
    held-out answers with that of the base model. Raises ValueError for no pairs, ModelError when the extra `train` is
    not installed or the base is not a chat model, HomeError for weights or disk.
    """
    if not pairs:
        raise ValueError("there are no pairs to learn from: no agent has written or edited an answer yet")
    libraries = training.libraries("training the writer")
    folder, gguf = training.base_files(config.base, config.gguf)
    learn, held = split(pairs, config.seed)
    total = config.steps or config.epochs * -(-len(learn) // config.batch)
    settings = {
        "method": config.method, "rank": config.rank, "alpha": config.alpha, "batch": config.batch, "lr": config.lr,
        "max_length": config.max_length, "dropout": _DROPOUT, "seed": config.seed, "steps": total,
    }  # fmt: skip
    described: dict[str, Any] = {
        "base": {"name": config.base_name, "gguf": gguf}, "settings": settings,
        "pairs": len(pairs), "conversations": len({pair.conversation for pair in pairs}),
        "split": {"train": len(learn), "held_out": len(held)}, "versions": libraries,
    }  # fmt: skip
    digest = training.digest(json.dumps([described, training.file_states(folder), [asdict(pair) for pair in pairs]]))
    with training.exclusive(out):
        run = _Run(folder, gguf, described, digest, out, training.Watch.of(progress, cancel))
        return run.train(learn, held)


def train_home(home: Path, pairs: Sequence[Pair], config: WriterConfig, *, progress: Progress | None = None) -> Outcome:
    """`train` for a home: the adapter becomes a version of the model `MODEL`, live if it beats the base."""
    return training.train_for_home(home, MODEL, lambda out, _: train(pairs, out, config, progress=progress))


class _Run:
    """One training run: the model with its adapter, and the paths of its checkpoint and its result."""

    def __init__(
        self, folder: str, gguf: str | None, card: dict[str, Any], digest: str, out: Path, watch: training.Watch
    ) -> None:
        self._card, self._out = card, out
        self._progress, self._cancel = watch.progress, watch.cancel
        self._settings: dict[str, Any] = card["settings"]
        self._checkpoint = Checkpoint(out, digest)
        self._tokenizer, self._model = training.load(folder, gguf)
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"the base {folder!r} has no chat template; use an instruct model")

    def train(self, learn: Sequence[Pair], held: Sequence[Pair]) -> Outcome:
        """Run the remaining steps, measure, and write the result."""
        import torch

        settings, total = self._settings, int(self._settings["steps"])
        # Encoded first, so that text which cannot be encoded fails now and not after hours.
        max_length = int(settings["max_length"])
        examples = [encode(self._tokenizer, pair, max_length) for pair in learn]
        tested = held[:_TESTED]
        held_examples = [encode(self._tokenizer, pair, max_length) for pair in tested]
        with training.seeded(settings["seed"]):
            self._model = _with_adapter(self._model, settings, self._card["base"]["name"])
            weights = [weight for weight in self._model.parameters() if weight.requires_grad]
            optimiser = torch.optim.AdamW(weights, lr=settings["lr"], weight_decay=0.0)
            done, _, _ = self._checkpoint.resume(weights, optimiser)
            self._model.train()
            for step in range(done, total):
                if self._cancel.is_set():
                    return self._stopped(weights, optimiser, step)
                self._progress("train", step, total)
                places = training.batch_places(step, len(examples), settings["batch"], settings["seed"])
                self._step(step, [examples[place] for place in places], weights, optimiser)
                if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == total:
                    self._checkpoint.keep(weights, optimiser, step + 1)
            self._progress("train", total, total)
            self._model.eval()
            differences = []
            for place, example in enumerate(held_examples):
                if self._cancel.is_set():
                    return self._stopped(weights, optimiser, total)
                self._progress("test", place, len(tested))
                differences.append(self._compare(example))
            self._progress("test", len(tested), len(tested))
        return self._write(tested, np.array(differences, dtype=np.float64).reshape(-1, 2))

    def _step(self, step: int, examples: Sequence[tuple[list[int], list[int]]], weights: Any, optimiser: Any) -> None:
        settings = self._settings
        training.begin_step(optimiser, step, settings["steps"], settings["lr"], settings["seed"])
        tokens = sum(len(answer) for _, answer in examples)
        for prompt, answer in examples:  # one by one: no padding to compute, and the loss is the same
            (-log_likelihood(self._model, prompt, answer).sum() / tokens).backward()
        training.end_step(weights, optimiser)

    def _compare(self, example: tuple[list[int], list[int]]) -> tuple[float, float]:
        """Mean log-likelihood of an answer's tokens without and with the adapter."""
        import torch

        with torch.no_grad():
            after = float(log_likelihood(self._model, *example).mean())
            with self._model.disable_adapter():
                return float(log_likelihood(self._model, *example).mean()), after

    def _stopped(self, weights: Sequence[Any], optimiser: Any, step: int) -> Outcome:
        total = int(self._settings["steps"])
        if step:
            self._checkpoint.keep(weights, optimiser, step)
        return Outcome(False, f"stopped after step {step} of {total}: run again to go on", {
            "step": step, "steps": total,
        })  # fmt: skip

    def _write(self, tested: Sequence[Pair], measured: Any) -> Outcome:
        """Decide the gate and write adapter, configuration and card in one step."""
        names = [pair.conversation for pair in tested]
        before, after = measured.T
        decision = decide(
            before, after, names, metric="log-likelihood a token", names=("the base", "the adapter"),
            seed=int(self._settings["seed"]),
        )  # fmt: skip
        card = {
            **self._card, "tested": {"answers": len(tested), "conversations": len(set(names))},
            "gate": decision.to_json(),
        }  # fmt: skip
        if names:
            card["log_likelihood"] = {"base": float(before.mean()), "adapter": float(after.mean())}
        with new_folder(self._out) as folder:
            training.write_adapter(folder, self._model)
            write_whole(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        self._checkpoint.drop()
        return Outcome(decision.live, decision.why, card)


def encode(tokenizer: Any, pair: Pair, max_length: int) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as a server makes them, and of the answer with its end token.

    A prompt that is too long loses its oldest tokens; an answer longer than three quarters of `max_length` is cut at
    its end.
    """
    messages = checked_messages(pair.messages)
    answer = defuse(pair.answer)
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    # Some templates add more before an answer in a generation prompt than in a finished conversation.
    end = whole[len(prompt) :].rstrip("\n") if whole.startswith(prompt) else answer + (tokenizer.eos_token or "")
    # Tokenised separately, as the prompt is when the writer is used: no token may span the border.
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said = tokenizer(end, add_special_tokens=False)["input_ids"][: int(_ROOM_OF_ANSWER * max_length)]
    if not asked or not said:
        raise ModelError("the base's tokeniser makes nothing of a prompt or an answer; use an instruct model")
    return asked[-(max_length - len(said)) :], said


def log_likelihood(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Any:
    """Log-probability of each token of the answer given the prompt and the answer so far, as a tensor."""
    import torch

    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=model.device)
    # Logits at these positions only: those of a whole prompt over a large vocabulary take gigabytes.
    logits = model(input_ids=ids, logits_to_keep=places, use_cache=False).logits[0].float()
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def _with_adapter(model: Any, settings: Mapping[str, Any], name: str) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM", r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=settings["dropout"],
        target_modules="all-linear", bias="none",
    )  # fmt: skip
    adapted: Any = get_peft_model(model, config)
    config.base_model_name_or_path = name  # not the path on this machine
    return adapted
