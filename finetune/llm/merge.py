"""Export of a tuned model: a GGUF file for the embedded engine, a Hugging Face folder for vLLM.

The GGUF file is that of the base model with replaced weights, so tokeniser, chat template and other metadata are kept.
Tensors that the training did not change are copied byte by byte.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.errors import HomeError, ModelError

# Whether llama.cpp stores queries and keys in another order than transformers (the rotary halves interleaved).
_INTERLEAVED = {"llama": True, "qwen2": False, "qwen3": False}


def write_gguf(model: Any, base: Path, target: Path) -> None:
    """Write the weights of a transformers model into a copy of its base's GGUF file; changed tensors in F16.

    The model may have fewer blocks than the base. Raises ModelError for an architecture with an unknown tensor layout,
    HomeError when files cannot be read or written.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(base)
    except (OSError, ValueError) as exc:
        raise HomeError(f"cannot read the GGUF file {str(base)!r} ({exc}); pull the base again") from exc
    architecture = str(reader.fields["general.architecture"].contents())
    if architecture not in _INTERLEAVED:
        raise ModelError(f"a {architecture} cannot be written as GGUF here; convert the merged folder with llama.cpp")
    blocks = int(model.config.num_hidden_layers)
    tensors = [tensor for tensor in reader.tensors if _block(tensor.name) < blocks]
    changed = _changed(model, tensors, architecture)
    writer = gguf.GGUFWriter(target, architecture)
    try:
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue  # GGUFWriter writes these itself
            value, kind = field.contents(), field.types[0]
            if field.name == f"{architecture}.block_count":
                value = blocks
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, kind, sub_type=inner)
        for tensor in tensors:
            if (new := changed.get(tensor.name)) is not None:
                writer.add_tensor_info(tensor.name, new.shape, new.dtype, new.nbytes)
            else:
                raw = None if tensor.data.dtype in (np.float16, np.float32) else tensor.tensor_type
                writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            new = changed.get(tensor.name)
            writer.write_tensor_data(tensor.data if new is None else new)
    except OSError as exc:
        raise HomeError(f"cannot write {str(target)!r} ({exc.strerror or exc}); free some space and try again") from exc
    finally:
        writer.close()
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _changed(model: Any, tensors: list[Any], architecture: str) -> dict[str, npt.NDArray[Any]]:
    """New values of the GGUF tensors that differ from the base: in F32 where the base has F32, else in F16."""
    import gguf

    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, int(model.config.num_hidden_layers))
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    known = {tensor.name: tensor for tensor in tensors}
    found: dict[str, npt.NDArray[Any]] = {}
    for name, weight in model.state_dict().items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        tensor = known.get(place or "")
        if tensor is None:
            continue  # the output layer of a model that shares it with its embedding
        value = weight.detach().float().cpu().numpy()
        part = tensor.name.split(".")[-2]
        if part in heads and _INTERLEAVED[architecture]:
            value = _interleaved(value, heads[part])
        wanted = np.float32 if tensor.data.dtype == np.float32 else np.float16
        before = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(value.shape)
        # A difference that is only rounding to float16 is not a change.
        if not np.array_equal(value.astype(wanted), before.astype(wanted)):
            found[tensor.name] = value.astype(wanted)
    return found


def _interleaved(value: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of queries or keys from halves (transformers) to pairs (llama.cpp)."""
    shape = value.shape
    return np.ascontiguousarray(value.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape))


def _block(name: str) -> int:
    """The number of the block that a GGUF tensor belongs to, -1 for none."""
    return int(name.split(".")[1]) if name.startswith("blk.") else -1
