"""Train the LLM judge: P(engage | reader, post) is the sigmoid of a causal model's logit of yes minus that of no.

The loss is binary cross-entropy on that logit, over posts packed after one history (`finetune.llm.packed`), with the
prompt that serving sends (`agent.recommend.judge`). The base is frozen; an adapter is trained on all or on the last of
its blocks. The base may be cut to its first blocks, so that a CPU can train it. The card holds the results.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from whyfeed.agent.registry import JUDGE
from whyfeed.finetune import training
from whyfeed.finetune.config import MAX_RANK, ClickDataConfig
from whyfeed.finetune.evaluation.metrics import (
    calibrated,
    equal_mass,
    log_losses,
    user_aucs,
    weighted_auc,
    weighted_ece,
)
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.llm import adapters, merge
from whyfeed.finetune.llm.judge_examples import LabelledPosts
from whyfeed.finetune.llm.packed import Prompts, yes_minus_no
from whyfeed.finetune.training import CHECKPOINT_EVERY, Checkpoint
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.errors import DataError, HomeError, ModelError
from whyfeed.retrieval.files import beside, new_folder, write_whole
from whyfeed.retrieval.progress import Progress

_HELD_OUT = 0.2  # of the moments, the last by time
_ON_THE_WAY = 400  # held-out posts that the curve is measured on
_BF16 = ("avx512_bf16", "amx_bf16")

Values = npt.NDArray[np.float64]
Report = Literal["tensorboard", "wandb"]
Say = Callable[[dict[str, float], int], None]  # numbers by name, after so many steps


def split(found: Sequence[LabelledPosts]) -> tuple[list[LabelledPosts], list[LabelledPosts]]:
    """Training examples, and the last fifth by time to measure on. DataError for fewer than two."""
    if len(found) < 2:
        raise DataError(f"{len(found)} moments cannot be split; more acts with a time are needed")
    ordered = sorted(found, key=lambda shown: shown.time)
    at = min(len(ordered) - 1, round((1 - _HELD_OUT) * len(ordered)))
    moment = ordered[at].time
    # Examples of the same moment stay on one side, unless all are of one moment.
    at = next((place for place, shown in enumerate(ordered) if shown.time == moment and place), at)
    return ordered[:at], ordered[at:]


class JudgeConfig(ClickDataConfig):
    """Settings of the judge's training; `lr` None: what suits the method."""

    gguf: Annotated[str | None, Field(description="Name of a GGUF file in the folder `base`.")] = None
    method: Annotated[adapters.Method, Field(description="The kind of adapter.")] = "lora"
    rank: Annotated[int, Field(ge=1, le=MAX_RANK, description="Size of the adapter, see `adapters.add_adapter`.")] = 16
    cut: Annotated[int | None, Field(ge=1, description="Keep the base's first blocks only; None: all.")] = None
    layers: Annotated[int | None, Field(ge=1, description="Train the last of these blocks only; None: all.")] = None
    eval_every: Annotated[int | None, Field(ge=1, description="Steps between two measurements on the way.")] = None
    report: Annotated[Report | None, Field(description="Where the numbers of each step go.")] = None
    serve: Annotated[bool, Field(description="Also write the merged files that engines load.")] = True


def train_home(
    home: Path,
    learn: Sequence[LabelledPosts],
    held: Sequence[LabelledPosts],
    config: JudgeConfig,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """`train` for a home: the judge becomes a version of its model `JUDGE`, live where it beats the live one."""
    return training.train_for_home(
        home, JUDGE, lambda out, live: train(learn, held, out, config, in_place=live, progress=progress)
    )


def train(
    learn: Sequence[LabelledPosts], held: Sequence[LabelledPosts], out: Path, config: JudgeConfig, *,
    in_place: Path | None = None, progress: Progress | None = None, cancel: threading.Event | None = None,
) -> Outcome:  # fmt: skip
    """Train a judge and put adapter, card and what serves into the folder `out`, whole or not at all.

    The same call after a kill or a `cancel` goes on where it stopped, and ends with the same adapter to the bit (not
    with `minutes`: a clock decides). The gate compares AUC per user with the judge in the folder `in_place`, or with
    the untuned base. ValueError for a `cut` or `layers` that the base does not have, DataError for no examples,
    ModelError for libraries or a base that cannot be used, HomeError for weights or disk.
    """
    if not learn or not held:
        raise DataError("there is nothing to learn from, or nothing to measure on; more interactions are needed")
    versions = training.libraries("training the judge")
    base = training.base_files(config.base, config.gguf)
    settings = {
        "method": config.method, "rank": config.rank, "cut": config.cut, "layers": config.layers,
        "batch": config.batch, "lr": config.lr or adapters.RATES[config.method], "seed": config.seed,
        "steps": config.total_steps(len(learn)), "minutes": config.minutes, "eval_every": config.eval_every,
    }  # fmt: skip
    tested = sample_users(held, config.most_tested)
    card: dict[str, Any] = {
        "kind": "judge", "base": {"name": config.base_name, "gguf": base[1]},
        **describe_examples(config.data, learn, held, tested),
        "settings": settings, "seed": config.seed, "epsilon": None, "versions": versions,
    }  # fmt: skip
    digest = digest_of(card, base[0], learn, tested)
    with training.exclusive(out), _reporting(config.report, out, settings) as say:
        run = _Run(base, config, card, digest, out, say, training.Watch.of(progress, cancel))
        return run.train(learn, tested, in_place)


def describe_examples(
    data: str, learn: Sequence[LabelledPosts], held: Sequence[LabelledPosts], tested: Sequence[LabelledPosts]
) -> dict[str, Any]:  # fmt: skip
    """What a card says of the examples."""
    split = {
        "by": "time",
        "train": count_examples(learn),
        "held_out": count_examples(held),
        "tested": count_examples(tested),
    }
    return {"data": {"name": data, **count_examples([*learn, *held])}, "split": split}


def digest_of(
    card: dict[str, Any], folder: str, learn: Sequence[LabelledPosts], tested: Sequence[LabelledPosts]
) -> str:
    """SHA-256 of everything a training depends on, which tells whether a checkpoint belongs to it."""
    examples = [[asdict(each) for each in part] for part in (learn, tested)]
    return training.digest(json.dumps([card, training.file_states(folder), examples]))


class _Run:
    """One training: the model with its adapter, and where its checkpoint and its result go."""

    def __init__(
        self, base: tuple[str, str | None], config: JudgeConfig, card: dict[str, Any], digest: str, out: Path,
        say: Say, watch: training.Watch,
    ) -> None:  # fmt: skip
        self._base, self._gguf = base
        self._config, self._card, self._digest = config, card, digest
        self._settings: dict[str, Any] = card["settings"]
        self._out, self._say = out, say
        self._progress, self._cancel = watch.progress, watch.cancel
        self._checkpoint = Checkpoint(out, digest)
        self._tokenizer, self._model = training.load(*base)
        if (blocks := self._settings["cut"]) is not None:
            adapters.keep_first_blocks(self._model, blocks)
        self._prompts = Prompts(self._tokenizer)

    def train(self, learn: Sequence[LabelledPosts], tested: Sequence[LabelledPosts], in_place: Path | None) -> Outcome:
        """Go through the steps that are not done yet, measure, and write the result."""
        import torch

        settings, total = self._settings, int(self._settings["steps"])
        with training.seeded(settings["seed"]):
            self._model.requires_grad_(False)
            untuned = self._asked(tested, "before")
            rival = None if in_place is None else TunedJudge(in_place).logits(tested)
            self._model = adapters.add_adapter(
                self._model, settings["method"], settings["rank"], total, settings["layers"], self._card["base"]["name"]
            )
            weights = [weight for weight in self._model.parameters() if weight.requires_grad]
            optimiser = torch.optim.AdamW(weights, lr=settings["lr"], weight_decay=0.0)
            done, notes, more = self._checkpoint.resume(weights, optimiser)
            adapters.restore_adalora_state(self._model, more, notes)
            curve = list(notes.get("curve", []))
            seconds, cpu = float(notes.get("seconds", 0.0)), float(notes.get("cpu", 0.0))
            on_the_way = sample_users(tested, _ON_THE_WAY)

            def keep(step: int) -> None:
                tensors, ranks = adapters.adalora_state(self._model)
                known = {"curve": curve, "seconds": seconds, "cpu": cpu, **ranks}
                self._checkpoint.keep(weights, optimiser, step, known, tensors)

            step, limit = done, 60 * settings["minutes"] if settings["minutes"] else float("inf")
            while step < total and seconds < limit:
                if self._cancel.is_set():
                    keep(step)
                    return self._stopped(step)
                self._progress("train", step, total)
                places = training.batch_places(step, len(learn), settings["batch"], settings["seed"])
                begun, worked = time.perf_counter(), time.process_time()
                loss = self._step(
                    step, max(step / total, seconds / limit), [learn[at] for at in places], weights, optimiser
                )
                seconds += time.perf_counter() - begun
                cpu += time.process_time() - worked
                step += 1
                self._say({"loss": loss, "minutes": seconds / 60}, step)
                if settings["eval_every"] and step % settings["eval_every"] == 0:
                    found = click_metrics(on_the_way, self._asked(on_the_way, "on the way"))
                    self._say(found, step)
                    spent = {"minutes": round(seconds / 60, 2), "cpu_minutes": round(cpu / 60, 2)}
                    curve.append({"step": step, **spent, "loss": round(loss, 4), **found})
                    keep(step)
                elif step % CHECKPOINT_EVERY == 0 or step == total:
                    keep(step)
            self._progress("train", step, step)
            tuned = self._asked(tested, "after")
            if self._cancel.is_set():
                keep(step)
                return self._stopped(step)
        self._card |= {
            "steps": step,
            "minutes": round(seconds / 60, 2),
            "cpu_minutes": round(cpu / 60, 2),
            "curve": curve,
        }
        return self._write(tested, untuned, rival, tuned)

    def _step(self, step: int, share: float, groups: Sequence[LabelledPosts], weights: Any, optimiser: Any) -> float:
        """One step on groups; `share` of the training is done. Returns the mean loss of a post."""
        import torch

        settings = self._settings
        total = int(settings["steps"])
        # Where a clock ends the training its rate goes down with the clock.
        training.begin_step(optimiser, step, total, settings["lr"] * (1 - share) / (1 - step / total), settings["seed"])
        self._model.train()
        posts, loss = sum(len(group.labels) for group in groups), 0.0
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=_fast_bf16()):
            for group in groups:  # one by one: no padding to compute, and the loss is the same
                logits = yes_minus_no(self._model, self._prompts.pack(group), self._prompts.labels)
                labels = torch.tensor(group.labels, dtype=torch.float32, device=logits.device)
                part = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / posts
                part.backward()  # type: ignore[no-untyped-call]
                loss += float(part.detach())
        if settings["method"] == "adalora":
            adapters.orthogonality_penalty(self._model).backward()
        training.end_step(weights, optimiser, lambda: adapters.reallocate_ranks(self._model, step))
        return loss

    def _asked(self, tested: Sequence[LabelledPosts], what: str) -> Values:
        """(posts,) logits of what was held out; the rest stays 0 when the training is stopped."""
        import torch

        self._model.eval()
        found = np.zeros(sum(len(shown.labels) for shown in tested))
        at = 0
        with torch.no_grad():
            for number, shown in enumerate(tested):
                if self._cancel.is_set():
                    break
                self._progress(f"test {what}", number, len(tested))
                logits = yes_minus_no(self._model, self._prompts.pack(shown), self._prompts.labels)
                found[at : at + len(shown.labels)] = logits.cpu().numpy()
                at += len(shown.labels)
        self._progress(f"test {what}", len(tested), len(tested))
        return found

    def _stopped(self, step: int) -> Outcome:
        total = int(self._settings["steps"])
        why = f"stopped after step {step} of {total}: run again to go on"
        return Outcome(False, why, {"step": step, "steps": total})

    def _write(self, tested: Sequence[LabelledPosts], untuned: Values, rival: Values | None, tuned: Values) -> Outcome:
        """Decide, and put adapter, card and what serves into place together."""
        labels, users = labels_of(tested)
        plain = np.array([value for shown in tested for value in shown.plain])
        card = self._card
        card["calibration"], gap = _calibrated(labels, tuned, users, card["seed"])
        card["metrics"] = {
            "untuned": click_metrics(tested, untuned), "judge": {**click_metrics(tested, tuned), "ece calibrated": gap},
        }  # fmt: skip
        if len(plain) == len(labels):
            card["metrics"][self._config.plain] = auc_metrics(labels, plain, users)
        owners, before = user_aucs(labels, (untuned if rival is None else rival).astype(np.float32), users)
        _, after = user_aucs(labels, tuned.astype(np.float32), users)
        place = "the untuned base" if rival is None else "the judge in place"
        decision = decide(before, after, owners, metric="AUC a user", names=(place, "the judge"), seed=card["seed"])
        card["gate"] = decision.to_json()
        with new_folder(self._out) as folder:
            adapters.save_adapter(folder, self._model)
            if self._config.serve:
                card["serves"] = self._write_merged(folder)
            write_whole(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        self._checkpoint.drop()
        return Outcome(decision.live, decision.why, card)

    def _write_merged(self, folder: Path) -> dict[str, str]:
        """A GGUF file for the embedded engine, a merged folder where vLLM refuses the adapter; what serves where."""
        method, whole = self._settings["method"], self._settings["cut"] is None
        found = {"transformers": "adapter"}
        if method == "lora" and whole:
            found["vllm"] = "adapter"
        if method in adapters.MERGED:
            model = adapters.merge_adapter(self._model, method)
            if "vllm" not in found:
                training.write_folder(model, self._tokenizer, folder / "merged")
                found["vllm"] = "merged"
            if self._gguf is not None:
                # Judgements are kept under the file's name: another training must have another.
                name = f"judge-{self._digest[:8]}.gguf"
                with contextlib.suppress(ModelError):  # an architecture that is not known there has the folder
                    merge.write_gguf(model, Path(self._base) / self._gguf, folder / name)
                    found["embedded"] = name
        return found


# ---- a trained judge


class TunedJudge:
    """A trained judge in transformers, by the folder that `train` made; all methods. For tests and measurements."""

    def __init__(self, folder: Path, base: str | Path | None = None, gguf: str | None = None) -> None:
        try:
            self.card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise HomeError(f"{str(folder)!r} holds no judge ({exc}); train one: whyfeed finetune llm") from exc
        training.libraries("a judge in transformers")
        files = training.base_files(base or self.card["base"]["name"], gguf)
        tokenizer, self._model = training.load(*files)
        if (blocks := self.card["settings"]["cut"]) is not None:
            adapters.keep_first_blocks(self._model, blocks)
        self._model = adapters.load_adapter(self._model, folder)
        self._prompts = Prompts(tokenizer)

    def logits(self, rows: Sequence[LabelledPosts]) -> Values:
        """(posts,) logit of yes less that of no, of all rows in their order; its sigmoid is P(yes)."""
        import torch

        with torch.no_grad():
            found = [yes_minus_no(self._model, self._prompts.pack(row), self._prompts.labels) for row in rows]
            return np.asarray(torch.cat(found).cpu().numpy(), dtype=np.float64)


# ---- inside


def click_metrics(tested: Sequence[LabelledPosts], logits: Values) -> dict[str, float]:
    """AUC, AUC per user, log loss and expected calibration error of logits (posts,) on what was held out."""
    labels, users = labels_of(tested)
    chances = 1 / (1 + np.exp(-logits))
    bins = equal_mass(chances, np.arange(len(labels), dtype=np.uint64))
    return {
        **auc_metrics(labels, logits, users), "logloss": round(float(log_losses(labels, chances).mean()), 4),
        "ece": round(float(weighted_ece(labels, chances, bins, np.ones((1, len(labels))))[0]), 4),
    }  # fmt: skip


def _calibrated(labels: Rows, logits: Values, users: Rows, seed: int) -> tuple[dict[str, float], float]:
    """Slope and intercept that make of a logit the share that engages (Platt 1999), and the calibration error left.

    The error is measured on users that the two numbers were not fitted on: each half by those of the other.
    """

    def fitted(rows: npt.NDArray[np.bool_]) -> tuple[float, float]:
        slope, intercept = calibrated(labels[rows], logits[rows].astype(np.float32))
        # A negative slope is not used: scores that order posts the wrong way are ignored instead.
        return (slope, intercept) if slope > 0 else calibrated(labels[rows], np.zeros(int(rows.sum()), np.float32))

    half = np.random.default_rng(seed).random(int(users.max()) + 1)[users] < 0.5
    chances = np.empty(len(labels))
    for learn in (half, ~half):
        slope, intercept = fitted(learn)
        chances[~learn] = 1 / (1 + np.exp(-(slope * logits[~learn] + intercept)))
    bins = equal_mass(chances, np.arange(len(labels), dtype=np.uint64))
    gap = float(weighted_ece(labels, chances, bins, np.ones((1, len(labels))))[0])
    slope, intercept = fitted(np.ones(len(labels), dtype=bool))
    return {"slope": round(slope, 6), "intercept": round(intercept, 6)}, round(gap, 4)


def auc_metrics(labels: Rows, scores: Values, users: Rows) -> dict[str, float]:
    """AUC and AUC per user; .5 where there is one class alone."""
    floats = scores.astype(np.float32)
    whole = float(weighted_auc(labels, floats, np.ones((1, len(labels))))[0])
    _, own = user_aucs(labels, floats, users)
    return {
        "auc": 0.5 if np.isnan(whole) else round(whole, 4), "uauc": round(float(own.mean()), 4) if len(own) else 0.5,
    }  # fmt: skip


def labels_of(tested: Sequence[LabelledPosts]) -> tuple[Rows, Rows]:
    """(posts,) labels, and the number of each post's user."""
    numbers: dict[str, int] = {}
    users = [numbers.setdefault(shown.user, len(numbers)) for shown in tested for _ in shown.labels]
    return np.array([label for shown in tested for label in shown.labels]), np.array(users)


def sample_users(held: Sequence[LabelledPosts], most: int) -> list[LabelledPosts]:
    """Groups of up to so many posts, whole users, drawn by their names alone."""
    found: list[LabelledPosts] = []
    count = 0
    of_user: dict[str, list[LabelledPosts]] = {}
    for shown in held:
        of_user.setdefault(shown.user, []).append(shown)
    for user in sorted(of_user, key=training.digest):
        if count >= most:
            break
        found += of_user[user]
        count += sum(len(shown.labels) for shown in of_user[user])
    return found


def count_examples(groups: Sequence[LabelledPosts]) -> dict[str, int]:
    """What a card says of a part of the data."""
    return {
        "users": len({shown.user for shown in groups}), "groups": len(groups),
        "posts": sum(len(shown.labels) for shown in groups), "engaged": sum(sum(shown.labels) for shown in groups),
    }  # fmt: skip


def _fast_bf16() -> bool:
    """Whether half precision saves time: on a GPU, and on processors with instructions for it."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(f" {flag}" in flags for flag in _BF16)


@contextlib.contextmanager
def _reporting(name: Report | None, out: Path, settings: dict[str, Any]) -> Iterator[Say]:
    """Where the numbers of each step go; nowhere by default. ModelError when the library is not there."""
    if name is None:
        yield lambda numbers, step: None
        return
    try:
        if name == "wandb":
            import wandb  # type: ignore[import-not-found,unused-ignore]

            run = wandb.init(project="whyfeed", name=out.name, config=settings, dir=str(out.parent))
            yield lambda numbers, step: run.log(numbers, step=step)
            run.finish()
            return
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModelError(f"--report {name} needs {name}, not installed here; pip install {name}") from None
    with SummaryWriter(str(beside(out, "tensorboard"))) as writer:

        def scalars(numbers: dict[str, float], step: int) -> None:
            for key, value in numbers.items():
                writer.add_scalar(key, value, step)

        yield scalars
