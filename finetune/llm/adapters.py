"""The kinds of adapters that a judge can be trained as, from PEFT (Mangrulkar et al. 2022) where it has them.

LoRA (Hu et al. 2021), DoRA (Liu et al. 2024), AdaLoRA (Zhang et al. 2023), IA3 (Liu et al. 2022) and prefix tuning
(Li and Liang 2021) are PEFT's. PEFT has no bottleneck adapters, so those of Houlsby et al. (2019) are here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from whyfeed.finetune.training import write_adapter
from whyfeed.retrieval.errors import HomeError, ModelError
from whyfeed.retrieval.files import write_whole

Method = Literal["lora", "dora", "adalora", "ia3", "prefix", "adapter"]
METHODS: tuple[Method, ...] = get_args(Method)
MERGED = ("lora", "dora", "adalora", "ia3")  # can be merged into the weights; the others cannot
# Learning rates: what suits the methods differs by an order of magnitude.
RATES: Mapping[str, float] = {
    "lora": 1e-3, "dora": 1e-3, "adalora": 3e-3, "ia3": 1e-2, "prefix": 1e-2, "adapter": 1e-3,
}  # fmt: skip
_ENDS = (".o_proj", ".down_proj")  # what leaves attention and the feed-forward net, of Llama and its kin
_ORTHOGONAL = 0.1  # how strongly AdaLoRA's factors are held orthogonal


def layers_of(model: Any) -> Any:
    """The list of a causal model's blocks; ModelError for models that are built otherwise."""
    found = getattr(getattr(model, model.base_model_prefix, None), "layers", None)
    if found is None:
        raise ModelError(
            f"a {model.config.model_type} has no list of layers to cut or choose from; use a Llama or Qwen"
        )
    return found


def keep_first_blocks(model: Any, layers: int) -> None:
    """Keep the first `layers` blocks of a model, before its last norm and head. ValueError if it has fewer."""
    blocks = layers_of(model)
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"cut must be between 1 and {len(blocks)}, the layers of the base, not {layers}")
    del blocks[layers:]
    model.config.num_hidden_layers = layers


def add_adapter(model: Any, method: str, rank: int, steps: int, layers: int | None, name: str) -> Any:
    """The model, frozen, with a fresh adapter of that method on its last `layers` blocks (None: on all).

    `rank` is the rank of LoRA's kin, the virtual tokens of a prefix, the width of a bottleneck; IA3 has none. `steps`
    is how long AdaLoRA has to find the ranks. `name` of the base stands in the adapter's configuration.
    """
    import peft

    blocks = layers_of(model)
    count = len(blocks)
    if layers is not None and not 1 <= layers <= count:
        raise ValueError(f"layers must be between 1 and {count}, the layers there are, not {layers}")
    first = count - (layers or count)
    if method == "adapter":
        return _add_bottlenecks(model, rank, first)
    plain: dict[str, Any] = {"lora_alpha": 2 * rank, "target_modules": _linears(blocks[0]), "bias": "none"}
    if first:
        plain["layers_to_transform"] = list(range(first, count))
    config: Any
    if method in ("lora", "dora"):
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, use_dora=method == "dora", **plain)
    elif method == "adalora":
        # The ranks are fixed for the last third of the steps.
        config = peft.AdaLoraConfig(
            task_type="CAUSAL_LM", init_r=rank + (rank + 1) // 2, target_r=rank, tinit=steps // 10,
            tfinal=steps // 3, deltaT=max(1, steps // 100), total_step=steps, **plain,
        )  # fmt: skip
    elif method == "ia3":
        numbers = "|".join(map(str, range(first, count)))
        named = rf".*\.({numbers})\..*\.(k_proj|v_proj|down_proj)"
        config = peft.IA3Config(
            task_type="CAUSAL_LM", target_modules=named, feedforward_modules=named.replace("k_proj|v_proj|", "")
        )
    elif method == "prefix":
        if first:
            raise ValueError("a prefix is read by all layers; leave layers out, or choose another method")
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=rank)
    else:
        raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
    adapted: Any = peft.get_peft_model(model, config)
    config.base_model_name_or_path = name  # rather than a path of this machine
    return adapted


def save_adapter(folder: Path, model: Any) -> None:
    """Write the adapter and its configuration; same weights, same bytes."""
    if not hasattr(model, "bottlenecks"):
        if hasattr(model.base_model, "rankallocator"):
            # PEFT cuts the ranks out by this and does not find them again; what was given up is 0 in the weights.
            model.peft_config["default"].rank_pattern = None
        write_adapter(folder, model)
        return
    from safetensors.torch import save as packed

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.bottlenecks.state_dict().items()}
    write_whole(folder / "adapter_model.safetensors", packed(tensors, metadata={"format": "pt"}))
    first, *_ = (tensor for name, tensor in tensors.items() if name.endswith("0.weight"))
    described = {"peft_type": "BOTTLENECK", "width": first.shape[0], "modules": list(model.bottlenecks)}
    write_whole(folder / "adapter_config.json", json.dumps(described, indent=1).encode())


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter of a folder, in eval mode. HomeError when the folder holds none that fits."""
    try:
        described = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if described["peft_type"] != "BOTTLENECK":
            import peft

            return peft.PeftModel.from_pretrained(model, str(folder)).eval()
        from safetensors.torch import load_file

        first = min(_layer_of(name) for name in described["modules"])
        _add_bottlenecks(model, int(described["width"]), first)
        model.bottlenecks.load_state_dict(load_file(str(folder / "adapter_model.safetensors")))
        return model.eval()
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        first_line = (str(exc).splitlines() or [""])[0]
        raise HomeError(f"cannot load the adapter in {str(folder)!r} ({first_line}); train it again") from exc


def merge_adapter(model: Any, method: str) -> Any:
    """The base with the adapter in its weights; ValueError for what cannot be merged. The model given is used up."""
    if method not in MERGED:
        raise ValueError(f"a {method} stays beside the weights; only {', '.join(MERGED)} can be merged")
    return model.merge_and_unload()


def _linears(block: Any) -> list[str]:
    import torch

    named = block.named_modules()
    return sorted(name.split(".")[-1] for name, module in named if isinstance(module, torch.nn.Linear))


# ---- AdaLoRA: its regulariser, and its state beside the weights


def orthogonality_penalty(model: Any) -> Any:
    """AdaLoRA's loss for factors that are not orthogonal (weighted mean Frobenius norm); 0 for other methods."""
    import torch

    if getattr(getattr(model, "base_model", None), "rankallocator", None) is None:
        return 0.0
    gaps = []
    for name, weight in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            square = weight @ weight.T if "lora_A" in name else weight.T @ weight
            gaps.append(torch.linalg.norm(square - torch.eye(len(square), device=weight.device)))
    return _ORTHOGONAL * torch.stack(gaps).mean()


def reallocate_ranks(model: Any, step: int) -> None:
    """AdaLoRA: reallocate ranks by importance, after a step and before its gradients are cleared."""
    if hasattr(getattr(model, "base_model", None), "rankallocator"):
        model.base_model.update_and_allocate(step)


def adalora_state(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """AdaLoRA's state for a checkpoint: tensors, and the ranks so far; empty for other methods."""
    allocator = getattr(getattr(model, "base_model", None), "rankallocator", None)
    if allocator is None:
        return {}, {}
    tensors = {
        f"{kind} {name}": value for kind in _IMPORTANCE for name, value in getattr(allocator, kind).items()
    }  # fmt: skip
    return tensors, {"ranks": model.peft_config["default"].rank_pattern}


def restore_adalora_state(model: Any, tensors: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Restore what `adalora_state` returned."""
    allocator = getattr(getattr(model, "base_model", None), "rankallocator", None)
    if allocator is None:
        return
    for key, value in tensors.items():
        kind, name = key.split(" ", 1)
        getattr(allocator, kind)[name] = value
    model.peft_config["default"].rank_pattern = notes.get("ranks")


_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


# ---- bottlenecks


def _add_bottlenecks(model: Any, width: int, first: int) -> Any:
    """A net with one narrow layer behind attention and feed-forward net of each block from `first` on, added to it."""
    import torch

    for weight in model.parameters():
        weight.requires_grad_(False)
    added = torch.nn.ModuleDict()
    for name, module in list(model.named_modules()):
        if name.endswith(_ENDS) and _layer_of(name) >= first:
            down, up = torch.nn.Linear(module.out_features, width), torch.nn.Linear(width, module.out_features)
            torch.nn.init.normal_(down.weight, std=0.02)
            torch.nn.init.zeros_(up.weight)  # changes nothing at first
            torch.nn.init.zeros_(up.bias)
            block = torch.nn.Sequential(down, torch.nn.GELU(), up).to(model.device)
            added[name.replace(".", " ")] = block
            module.register_forward_hook(lambda _module, _given, out, block=block: out + block(out))
    if not added:
        raise ModelError(f"a {model.config.model_type} has no modules {' or '.join(_ENDS)}; choose another method")
    model.bottlenecks = added
    return model


def _layer_of(name: str) -> int:
    return next(int(part) for part in name.replace(".", " ").split() if part.isdigit())
