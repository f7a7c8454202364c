"""Requests to llama.cpp for the relative probability of two label tokens, in this process or at its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LIFT = 100.0  # logit bias of the labels, larger than any difference of logits


def label_options(labels: Sequence[int]) -> dict[str, Any]:
    """Sampling options for a request of one token that reduce the candidates to these two token ids.

    Both get the same bias, so their ratio of probabilities is that of the model.
    """
    return {
        "temperature": 1.0, "samplers": ["top_k"], "top_k": 2, "n_probs": 2, "post_sampling_probs": True,
        "logit_bias": [[label, _LIFT] for label in labels],
    }  # fmt: skip


def label_probability(answer: Mapping[str, Any], labels: Sequence[int]) -> float:
    """P(first label), of the two, from the answer to such a request.

    LookupError, ValueError or TypeError when the answer does not have both.
    """
    tops = answer["choices"][0]["logprobs"]["content"][0]["top_probs"]
    found = {int(top["id"]): float(top["prob"]) for top in tops}
    return found[labels[0]] / (found[labels[0]] + found[labels[1]])
