"""What every training of a language model here shares: loading the base, checkpoints, and atomic result folders.

The examples and the dropout of a step depend on the seed and the step's number alone. A run that was killed therefore
resumes from its last checkpoint and ends with the same bits as an undisturbed one on the same CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from whyfeed.agent.llm.weights import WEIGHTS, cache_folder, check, unpacked
from whyfeed.agent.registry import Registry
from whyfeed.finetune.gate import Outcome
from whyfeed.retrieval.errors import HomeError, ModelError
from whyfeed.retrieval.files import beside, new_folder, write_whole
from whyfeed.retrieval.progress import Progress

CHECKPOINT_EVERY = 20  # steps
_WARM_UP = 0.05  # of the steps
_LIBRARIES = ("torch", "transformers", "peft", "accelerate")  # the last one reads a GGUF for transformers


@dataclass(frozen=True, slots=True)
class Watch:
    """Who watches a training: `progress` is told of each step, and `cancel` stops it at the next one."""

    progress: Progress
    cancel: threading.Event

    @classmethod
    def of(cls, progress: Progress | None, cancel: threading.Event | None) -> Watch:
        """What was given; without it nobody is told, and nothing stops the training."""
        return cls(progress or (lambda *_: None), cancel or threading.Event())


# ---- the base


def libraries(what: str, names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Versions of these libraries and of whyfeed, by name. ModelError, naming `what`, when one is not installed."""
    if missing := [name for name in names if importlib.util.find_spec(name.replace("-", "_")) is None]:
        raise ModelError(f"{what} needs {', '.join(missing)}, not installed here; pip install 'whyfeed[train]'")
    return {name: version(name) for name in (*names, "whyfeed")}


def base_files(base: str | Path, gguf: str | None = None) -> tuple[str, str | None]:
    """What transformers loads: a folder or a name on the hub, and the name of the GGUF file in it, or None.

    HomeError when the folder or the file is not there, WeightsError when whyfeed's own weights are not.
    """
    for weights in WEIGHTS:
        if base == weights.name and gguf is None and weights.file.endswith(".gguf"):
            return str(check(weights).parent), weights.file
        if base == weights.name and gguf is None and weights.folder is not None:
            return str(unpacked(weights)), None
    here = Path(base)
    if gguf is not None and not (here / gguf).is_file():
        raise HomeError(f"there is no file {gguf!r} in {str(base)!r}; name the base's folder and its GGUF file")
    if isinstance(base, Path) and not here.is_dir():
        raise HomeError(f"there is no folder {str(base)!r}; name the folder of the base model")
    return str(base), gguf


def file_states(folder: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a base's files: a checkpoint must not be resumed with another base."""
    here = Path(folder)
    files = sorted(path for path in here.iterdir() if path.suffix in (".safetensors", ".gguf", ".json", ".jinja")) \
        if here.is_dir() else []  # fmt: skip
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def load(folder: str, gguf: str | None, **options: Any) -> tuple[Any, Any]:
    """Tokeniser and model in float32, on the GPU where there is one.

    `options` go to transformers' `from_pretrained`. HomeError when the base cannot be read.
    """
    import torch

    tokenizer, model = _from(folder if gguf is None else str(dequantised(Path(folder, gguf))), **options)
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu")


def _from(folder: str, **options: Any) -> tuple[Any, Any]:
    import torch
    import transformers

    said: Any = transformers.utils.logging
    said.disable_progress_bar()  # the caller reports progress itself
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, **{key: value for key, value in options.items() if key == "gguf_file"}
        )
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        first = (str(exc).splitlines() or [""])[0]
        raise HomeError(f"cannot load the base model {folder!r} ({first}); check the folder, or pull it again") from exc
    return tokenizer, model


def dequantised(file: Path) -> Path:
    """The folder of a GGUF's model in transformers' own format, cached because reading a GGUF takes half a minute.

    It is made again when the file's size or time has changed. HomeError when the file or the cache cannot be used.
    """
    target = cache_folder() / f"{file.stem}-{digest(str(file.resolve()))[:8]}"
    try:
        stat = file.stat()
        seal = f"{stat.st_size} {stat.st_mtime_ns}\n"
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(beside(target, "lock")):
            with contextlib.suppress(OSError):
                if (target / "of").read_text(encoding="utf-8") == seal:
                    return target
            tokenizer, model = _from(str(file.parent), gguf_file=file.name)
            with new_folder(target) as new:
                write_folder(model, tokenizer, new, half=False)
                (new / "of").write_text(seal, encoding="utf-8")
    except OSError as exc:
        raise HomeError(
            f"cannot read {str(file)!r} into {str(target.parent)!r} ({exc.strerror or exc}); check both"
        ) from exc
    return target


def write_folder(model: Any, tokenizer: Any, folder: Path, half: bool = True) -> None:
    """Write a model as vLLM and transformers load it, with tokeniser and chat template; `half`: in float16."""
    import torch
    import transformers

    # A model that was read from GGUF still has that as its quantisation, and could not be saved with it.
    said = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    config = type(model.config).from_dict(said)
    kind = torch.float16 if half else torch.float32
    config.dtype = kind
    with torch.device("meta"):
        copy: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=kind)  # type: ignore[no-untyped-call]
    state = {name: weight.detach().to("cpu", kind) for name, weight in model.state_dict().items()}
    copy.load_state_dict(state, assign=True, strict=False)
    copy.tie_weights()
    try:
        copy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as exc:
        raise HomeError(f"cannot write {str(folder)!r} ({exc.strerror or exc}); free some space and try again") from exc


# ---- steps


def batch_places(step: int, count: int, batch: int, seed: int) -> list[int]:
    """Indices of a step's examples: a new order in each epoch, whose last batch may be smaller."""
    epoch, place = divmod(step, -(-count // batch))
    found = np.random.default_rng([seed, epoch]).permutation(count)
    return [int(each) for each in found[place * batch : (place + 1) * batch]]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random state set by the seed inside the block; the caller's state is restored after it."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def begin_step(optimiser: Any, step: int, total: float, lr: float, seed: int) -> None:
    """Set the learning rate (linear warm-up, then linear decay to 0) and the step's own random state for dropout.

    `total` is how many steps there are, `lr` the highest rate.
    """
    import torch

    torch.manual_seed(seed * 1_000_003 + step + 1)
    share = min(1.0, (step + 1) / max(1.0, _WARM_UP * total)) * max(0.0, 1 - step / total)
    for group in optimiser.param_groups:
        group["lr"] = lr * share


def end_step(weights: Sequence[Any], optimiser: Any, then: Callable[[], None] | None = None) -> None:
    """Clip the gradients to norm 1 and update the weights; `then` is called before the gradients are cleared."""
    import torch

    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
    if then is not None:
        then()
    optimiser.zero_grad()


@dataclass
class Spent:
    """How far a training is: steps, minutes of wall and processor time, and the loss of each step."""

    steps: int = 0
    minutes: float = 0.0
    cpu_minutes: float = 0.0
    losses: list[float] = field(default_factory=list)


def run_steps(
    weights: Sequence[Any], checkpoint: Checkpoint, settings: Mapping[str, Any], backward: Callable[[int], float],
    watch: Watch,
) -> tuple[bool, Spent]:  # fmt: skip
    """AdamW (Loshchilov and Hutter 2019) over all steps that remain; whether it reached the end, and what was spent.

    `settings` hold steps, lr, seed and minutes (None: no limit); `backward` computes the gradients of a step and
    returns its loss.
    """
    import torch

    total, limit = int(settings["steps"]), float(settings["minutes"] or math.inf)
    optimiser = torch.optim.AdamW(weights, lr=settings["lr"], weight_decay=0.01)
    done, notes, _ = checkpoint.resume(weights, optimiser)
    spent = Spent(**notes) if done else Spent()
    while spent.steps < total and spent.minutes < limit:
        if watch.cancel.is_set():
            checkpoint.keep(weights, optimiser, spent.steps, asdict(spent))
            return False, spent
        watch.progress("train", spent.steps, total)
        begun, worked = time.perf_counter(), time.process_time()
        # With a time limit the rate decays with the clock.
        left = 1 - max(spent.steps / total, spent.minutes / limit)
        lr = settings["lr"] * left / (1 - spent.steps / total)
        begin_step(optimiser, spent.steps, total, lr, settings["seed"])
        spent.losses.append(round(backward(spent.steps), 5))
        end_step(weights, optimiser)
        spent.steps += 1
        spent.minutes += (time.perf_counter() - begun) / 60
        spent.cpu_minutes += (time.process_time() - worked) / 60
        if spent.steps % CHECKPOINT_EVERY == 0 or spent.steps == total:
            checkpoint.keep(weights, optimiser, spent.steps, asdict(spent))
    watch.progress("train", spent.steps, spent.steps)
    return True, spent


class Checkpoint:
    """Weights and optimiser of a training that may be killed. `digest` identifies everything it depends on."""

    def __init__(self, out: Path, digest: str) -> None:
        self._path, self._digest = beside(out, "checkpoint"), digest

    def keep(
        self, weights: Sequence[Any], optimiser: Any, step: int, notes: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write the state after `step` steps; `notes` are JSON values and `more` tensors to keep with it."""
        from safetensors.torch import save

        tensors = {f"weight.{place}": weight.detach().contiguous() for place, weight in enumerate(weights)}
        for place, state in optimiser.state_dict()["state"].items():
            tensors |= {f"state.{place}.{name}": value.contiguous() for name, value in state.items()}
        tensors |= {f"more.{name}": value.contiguous() for name, value in (more or {}).items()}
        about = {"digest": self._digest, "step": str(step), "notes": json.dumps(notes or {})}
        write_whole(self._path, save(tensors, metadata=about))

    def resume(self, weights: Sequence[Any], optimiser: Any) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Restore the last checkpoint of the same training: its steps, notes and `more`; 0 and empty without one."""
        import torch
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._path), framework="pt") as file:
                about = file.metadata() or {}
                if about.get("digest") != self._digest:
                    return 0, {}, {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except (OSError, SafetensorError):
            return 0, {}, {}
        state: dict[int, dict[str, Any]] = {}
        more: dict[str, Any] = {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                kind, place = name.split(".", 1)
                if kind == "weight":
                    weights[int(place)].copy_(tensor)
                elif kind == "more":
                    more[place] = tensor
                else:
                    number, field = place.split(".")
                    state.setdefault(int(number), {})[field] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        return int(about["step"]), json.loads(about["notes"]), more

    def drop(self) -> None:
        """Delete the checkpoint, once the result is in place."""
        self._path.unlink(missing_ok=True)


# ---- files


def digest(text: str) -> str:
    """SHA-256 of a text in hexadecimal; lone surrogates are allowed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """A lock: one training at a time per folder. Restores the old folder if a killed run left it half swapped.

    HomeError when another process holds it, or the disk refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(beside(out, "lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise HomeError(f"another process trains into {str(out)!r}; wait for it, or choose another folder") from None
    except OSError as exc:
        raise HomeError(f"cannot write to {str(out.parent)!r} ({exc.strerror or exc}); check that folder") from exc
    try:
        if not out.exists() and beside(out, "old").exists():
            beside(out, "old").rename(out)
        yield
    finally:
        lock.release()


def register_finished(registry: Registry, name: str, out: Path) -> None:
    """Move a finished model into the registry, also one that a killed run or an older whyfeed left in `out`."""
    try:
        card = json.loads((out / "card.json").read_bytes())
        live = card.get("gate", card)["live"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    registry.add_folder(name, out, card, live=live is True)


def train_for_home(home: Path, name: str, train: Callable[[Path, Path | None], Outcome]) -> Outcome:
    """Train a new version of a home's model: `train` gets the folder to fill and that of the live version, or None.

    The version goes live if the gate's decision on its card says so.
    """
    registry, out = Registry(home), home / "adapters" / name
    register_finished(registry, name, out)  # what a killed training had finished
    outcome = train(out, registry.live(name))
    register_finished(registry, name, out)
    return outcome


def write_adapter(folder: Path, model: Any) -> None:
    """Write the adapter of a PEFT model in the files that PEFT and vLLM read; same weights, same bytes."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    # The embedding is not trained, and asking for it may look the base up on the hub.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_whole(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    config = model.peft_config["default"].to_dict()
    if isinstance(config.get("target_modules"), set):
        config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    write_whole(folder / "adapter_config.json", json.dumps(config, indent=1, default=_plain).encode())


def _plain(value: Any) -> Any:
    """Sets and enum values of a configuration as JSON values."""
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))
