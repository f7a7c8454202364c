"""Loads the home's live LoRA adapter into a running vLLM server, and keeps it up to date with the registry.

The name of an adapter has its version, so cached documents of one version are never used for another. Adapters are
checked before they are sent, because vLLM answers only HTTP 500 to most kinds that it does not support.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from whyfeed.agent.llm.http_client import http_client
from whyfeed.agent.registry import JUDGE, Registry
from whyfeed.retrieval.errors import ModelError, one_line

# The modules of Llama-like models that vLLM supports LoRA on.
_MODULES = frozenset("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj embed_tokens lm_head".split())
_HEADER = 100_000_000  # bytes; the largest header of a safetensors file


def adapter_name(folder: Path) -> str:
    """The name at a server of the adapter in a version's folder of the registry, such as judge-v3."""
    return f"{folder.parent.name}-v{folder.name}"


def refusal(folder: Path, base: str, rank: int) -> str:
    """Why a vLLM server of `base` cannot serve the adapter in a folder, in one line; "" when it can.

    `rank` is the largest rank that the server was started for. vLLM would load an adapter that was trained on another
    base, or on its first layers only, without an error and answer nonsense.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        kind = str(config.get("peft_type", "")).upper()
        if kind != "LORA" or config.get("use_dora"):
            return f"vLLM serves no {'DoRA' if config.get('use_dora') else kind or 'such adapter'}; serve it merged"
        ranks = [int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())]
        if max(ranks) > rank:
            return f"its rank is {max(ranks)} and the server takes {rank}; start the server with --rank {max(ranks)}"
        if config.get("bias", "none") != "none" or config.get("modules_to_save"):
            return "vLLM serves no biases and no whole modules beside LoRA; serve it merged"
        modules = config["target_modules"]
        unknown = set([modules] if isinstance(modules, str) else modules) - _MODULES
        if unknown:
            return f"vLLM knows no LoRA on {', '.join(sorted(unknown))}; serve it merged"
        if (trained := str(config.get("base_model_name_or_path") or "")) and trained != base:
            return f"it was trained on {trained!r} and the server has {base!r}; serve that base"
        if (cut := _cut(folder)) is not None:
            return f"it was trained on the first {cut} layers of its base; serve it merged"
        return _tensors(folder / "adapter_model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        return f"its files cannot be read ({exc}); train it again"


def _cut(folder: Path) -> int | None:
    """The number of layers of the base that the adapter was trained on; None for all of them or when unknown."""
    try:
        cut = json.loads((folder / "card.json").read_bytes())["settings"]["cut"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if cut is None else int(cut)


def _tensors(file: Path) -> str:
    """What is wrong with the tensor names of a safetensors file, "" for nothing; only the header is read."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > _HEADER:
            raise ValueError(f"{file.name} is no file of tensors")
        header: Mapping[str, Any] = json.loads(opened.read(length))
    odd = [
        name
        for name in header
        if name != "__metadata__"
        and not name.endswith(("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B"))
    ]
    return f"it holds {odd[0]!r}, which is no LoRA weight; serve it merged" if odd else ""


class Adapters:
    """Keeps the home's live judge loaded in a running server.

    `base` is the server's base model, by the name in the adapters' configuration. `say` is called with a line for each
    adapter that was loaded, unloaded or refused.
    """

    def __init__(
        self, registry: Registry, url: str, base: str, rank: int, key: str = "", say: Callable[[str], None] = print
    ) -> None:
        self._registry, self._url, self._base, self._rank, self._key, self._say = registry, url, base, rank, key, say
        self._loaded = ""
        self._stamp: object = ()  # differs from every stamp of a registry

    def restarted(self) -> None:
        """Call after a restart of the server, which then has no adapter; loads the live one."""
        self._loaded, self._stamp = "", ()
        self.sync()

    def sync(self) -> None:
        """Load the judge that is live now and unload the one before; cheap when nothing has changed."""
        stamp = self._registry.stamp(JUDGE)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        folder = self._registry.live(JUDGE)
        name = "" if folder is None else adapter_name(folder)
        if folder is not None and name != self._loaded:
            if why := refusal(folder, self._base, self._rank):
                self._say(f"{name} is not loaded: {why}")
                name = ""
            else:
                try:
                    self._post("load_lora_adapter", {"lora_name": name, "lora_path": str(folder.absolute())})
                except ModelError as exc:
                    self._say(f"{name} is not loaded: {exc}")
                    name = ""
                else:
                    self._say(f"{name} is loaded")
        if self._loaded and self._loaded != name:
            try:
                self._post("unload_lora_adapter", {"lora_name": self._loaded})
            except ModelError as exc:
                self._say(f"{self._loaded} is not unloaded: {exc}")
        self._loaded = name

    def _post(self, route: str, body: Mapping[str, Any]) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with http_client(120) as client:
                answer = client.post(f"{self._url}/v1/{route}", json=dict(body), headers=headers)
        except httpx.HTTPError as exc:
            raise ModelError(f"the server does not answer ({one_line(exc)}); look at its log") from exc
        if not answer.is_success:
            said = " ".join(answer.text.split())[:300]
            raise ModelError(f"the server answers HTTP {answer.status_code}: {said}")
