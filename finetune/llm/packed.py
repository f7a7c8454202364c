"""Several candidates after one shared prefix, packed into one sequence; each attends to the prefix and itself.

The positions of each candidate continue from the prefix as if it were alone, so its logits are those of the prompt
that serving sends for one post, and the prefix is computed once for all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whyfeed.agent.recommend.judge import around
from whyfeed.finetune.llm.judge_examples import LabelledPosts
from whyfeed.retrieval.errors import ModelError

YES, NO = "Yes", "No"  # as `Engine.judge` asks by default


@dataclass(frozen=True, slots=True)
class Packed:
    """`ids`, `positions`, `part` (L,): part 0 is the prefix, c the candidate c; `answers` (n,): where each one ends."""

    ids: Any
    positions: Any
    part: Any
    answers: Any


def pack(prefix: Sequence[int], candidates: Sequence[Sequence[int]]) -> Packed:
    """Token ids of a prefix and of what follows it in each prompt, as tensors. None of them may be empty."""
    import torch

    if not prefix or not candidates or not all(candidates):
        raise ValueError("prefix and candidates must hold tokens")
    ids, positions, part, answers = list(prefix), list(range(len(prefix))), [0] * len(prefix), []
    for number, candidate in enumerate(candidates, 1):
        ids += candidate
        positions += range(len(prefix), len(prefix) + len(candidate))
        part += [number] * len(candidate)
        answers.append(len(ids) - 1)
    return Packed(*(torch.tensor(each) for each in (ids, positions, part, answers)))


def mask(packed: Packed, before: int = 0) -> Any:
    """(1, 1, L, before + L) bool attention mask; all tokens attend to the `before` columns of virtual tokens."""
    import torch

    part, places = packed.part, torch.arange(len(packed.ids))
    seen = (part[None, :] == 0) | (part[None, :] == part[:, None])
    seen &= places[None, :] <= places[:, None]
    return torch.cat([torch.ones(len(places), before, dtype=torch.bool), seen], dim=1)[None, None]


def yes_minus_no(model: Any, packed: Packed, labels: tuple[int, int]) -> Any:
    """(n,) float32: logit of yes minus that of no after each candidate. `labels` are the token ids of the two.

    A model with virtual tokens (prefix tuning) is asked with its keys and values in front.
    """
    own: dict[str, Any] = {"use_cache": False}
    before = 0
    if (peft := getattr(model, "active_peft_config", None)) is not None and peft.is_prompt_learning:
        before = peft.num_virtual_tokens
        own = {"use_cache": True, "past_key_values": model.get_prompt(batch_size=1)}
        model = model.base_model
    device = model.device
    found = model(
        input_ids=packed.ids[None].to(device), position_ids=(packed.positions + before)[None].to(device),
        attention_mask=mask(packed, before).to(device), logits_to_keep=packed.answers.to(device), **own,
    ).logits[0]  # fmt: skip
    return found[:, labels[0]].float() - found[:, labels[1]].float()


class Prompts:
    """Prompts of the judge as token ids; prefix and post are tokenised separately, as in the embedded engine."""

    def __init__(self, tokenizer: Any, longest: int = 2048) -> None:
        self._tokenizer, self._longest = tokenizer, longest
        self._known: dict[str, list[int]] = {}
        # An opening token where the model has one; the engine adds it to the prefix alone.
        self._opening = [] if tokenizer.bos_token_id is None or not _opens(tokenizer) else [tokenizer.bos_token_id]
        ids = [self.ids(word) for word in (YES, NO)]
        if [len(each) for each in ids] != [1, 1]:
            raise ModelError(f"{YES!r} and {NO!r} must each be one token of the base; use another base")
        self.labels = ids[0][0], ids[1][0]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without an opening token."""
        if text not in self._known:
            self._known[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._known[text]

    def pack(self, shown: LabelledPosts) -> Packed:
        """One example as a packed sequence; the oldest lines of a history that is too long are dropped."""
        for oldest in range(len(shown.history) + 1):
            before, after = around(shown.history[oldest:])
            packed = pack(self._opening + self.ids(before), [self.ids(post + after) for post in shown.posts])
            if len(packed.ids) <= self._longest:
                return packed
        raise ValueError(f"posts of {shown.user!r} need more than {self._longest} tokens; show fewer at once")


def _opens(tokenizer: Any) -> bool:
    return bool(tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id])
