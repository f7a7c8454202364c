"""A GGUF file cut after some of its layers, with weights that were trained since."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_OF_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def write_cut(source: Path, target: Path, depth: int, state: Mapping[str, Any] | None = None) -> None:
    """Write the first `depth` layers of an F16 Llama to a file that llama.cpp and `agent.encoder` load.

    `state` holds weights to put in place, "LAYER.NAME.weight" as transformers calls them. The last norm only scales
    each state to length 1 per number, with no weights: what is left of it belongs to layers that are gone.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    heads = {
        "attn_q": int(reader.fields["llama.attention.head_count"].contents()),
        "attn_k": int(reader.fields["llama.attention.head_count_kv"].contents()),
    }
    writer = gguf.GGUFWriter(target, "llama")
    try:
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue  # the writer writes these itself
            value, kind = field.contents(), field.types[0]
            if field.name == "llama.block_count":
                value = depth
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, kind, sub_type=inner)
        for tensor in reader.tensors:
            data = np.asarray(tensor.data)
            found = _OF_LAYER.fullmatch(tensor.name)
            if found and int(found[1]) >= depth:
                continue
            if found and (new := (state or {}).get(f"{found[1]}.{_NAMES[found[2]]}.weight")) is not None:
                if found[2] in heads:  # llama.cpp lets neighbours turn together, transformers halves
                    new = new.reshape(heads[found[2]], 2, -1, new.shape[1]).swapaxes(1, 2).reshape(new.shape)
                data = np.ascontiguousarray(new, dtype=data.dtype)
            if tensor.name == "output_norm.weight":
                data = np.ones_like(data)
            writer.add_tensor(tensor.name, data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    with target.open("rb") as file:
        os.fsync(file.fileno())
