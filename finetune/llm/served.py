"""The model that vLLM serves: a name, file or role becomes a model in transformers' format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from whyfeed.agent.llm.vllm_adapters import adapter_name
from whyfeed.agent.registry import JUDGE, Registry
from whyfeed.finetune import training
from whyfeed.retrieval.errors import HomeError, ModelError


@dataclass(frozen=True, slots=True)
class Served:
    """`model` is what vLLM loads, `name` what it is called there, `base` what adapters know it by.

    `whole`: it is a judge with its adapter in its weights, and takes no other.
    """

    model: str
    name: str
    base: str
    whole: bool = False


def served_model(spec: str, registry: Registry) -> Served:
    """A name of the manifest, a GGUF file, a folder, `judge` (the home's live one, merged), or a name on the hub.

    GGUF files become a folder of the cache once, which takes the libraries of the extra `train`. HomeError where files
    are missing, ModelError for a judge that is not live or has no merged form.
    """
    if spec == JUDGE:
        return _judge(registry)
    folder, gguf = training.base_files(spec)
    if gguf is None and Path(spec).suffix == ".gguf":
        file = Path(spec).expanduser().absolute()
        if not file.is_file():
            raise HomeError(f"there is no file {spec!r}; name a GGUF file, a folder, or a model on the hub")
        folder, gguf, spec = str(file.parent), file.name, file.stem
    if gguf is None:
        place = Path(folder).expanduser()
        return Served(str(place.absolute()), place.name, place.name) if place.is_dir() else Served(folder, spec, spec)
    training.libraries("making a GGUF model into one that vLLM loads")
    return Served(str(training.dequantised(Path(folder, gguf))), spec, spec)


def _judge(registry: Registry) -> Served:
    folder = registry.live(JUDGE)
    if folder is None:
        why = registry.trouble(JUDGE) or "no judge is live in this home: whyfeed finetune llm --as judge"
        raise ModelError(f"there is no judge to serve; {why}")
    if not (folder / "merged").is_dir():
        base = json.loads((folder / "card.json").read_bytes())["base"]["name"]
        raise ModelError(f"the live judge is an adapter; serve its base, {base!r}, and it is loaded by itself")
    name = adapter_name(folder)
    return Served(str((folder / "merged").absolute()), name, name, whole=True)
