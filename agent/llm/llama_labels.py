"""How llama.cpp weighs two tokens against each other, in this process and behind its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LIFT = 100.0  # above all logits


def weighing(labels: Sequence[int]) -> dict[str, Any]:
    """What a request for one token asks so that only these two are left, as likely as they are beside each other."""
    return {
        "temperature": 1.0, "samplers": ["top_k"], "top_k": 2, "n_probs": 2, "post_sampling_probs": True,
        "logit_bias": [[label, _LIFT] for label in labels],
    }  # fmt: skip


def share(answer: Mapping[str, Any], labels: Sequence[int]) -> float:
    """P(first) of the two in such an answer. LookupError, ValueError or TypeError when it is none."""
    tops = answer["choices"][0]["logprobs"]["content"][0]["top_probs"]
    found = {int(top["id"]): float(top["prob"]) for top in tops}
    return found[labels[0]] / (found[labels[0]] + found[labels[1]])
