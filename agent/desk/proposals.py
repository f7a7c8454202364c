"""Actions that a customer asks for, found by rules in English and Chinese."""

# ruff: noqa: E501 - the tables of patterns are wide

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whyfeed.agent.desk.suggestion import Citation, Proposal
from whyfeed.agent.phrases import say
from whyfeed.retrieval.desk.types import DeskTurn, since_answer
from whyfeed.retrieval.language import sentences
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.privacy.vault import CHIP
from whyfeed.retrieval.words import content_words

_LONGEST = 500  # characters of an argument
_WINDOW = 50  # characters in which a denial stands before what it denies

# fmt: off
_CLAUSE = re.compile(r"[,;:，；：]|\bbut\b|但是?|而是", re.I)
_WANT = (r"(?:want|need|like|get|have|receive|request|requesting|demand|demanding|give|issue|process|send|claim|expect|asking for|ask for|prefer|please|just|can (?:i|you|we)|could (?:i|you|we)|would you|will you|may i)\b[^.?!]{0,40}?")
_ZH_WANT = r"(?:要|想|申请|请|给我|帮我|需要|可以|可不可以|能|要求|麻烦|希望|直接|还是)[^。！？，]{0,10}?"
_WISHES = {
    "refund": re.compile(rf"\b{_WANT}(?P<w>\brefund|\bmoney back|\breimburse)|^\W*(?:please )?(?P<v>refund (?:me|my|us|it|this|the)\b)|^\W*(?:a |full )*(?P<t>refund),? please|{_ZH_WANT}(?P<x>退款|退钱|退费|退货退款|全额退)|^(?:我)?(?P<y>退款|退钱)(?:吧|给我|！|!|。|$)|(?P<z>把钱退)", re.I),
    "replace": re.compile(rf"\b{_WANT}(?P<w>\breplacement|\breplace (?:it|this|that|the|my)\b|\bexchange (?:it|this|that|the|my)\b|\ban exchange\b|\bnew one\b)|^\W*(?:please )?(?P<v>(?:replace|exchange) (?:it|this|that|the|my)\b)|^\W*(?:a )?(?P<t>replacement),? please|{_ZH_WANT}(?P<x>换货|补发|换新|调换|更换|重新发|换一|换个)|^(?:我)?(?P<y>换货|补发)(?:吧|给我|！|!|。|$)", re.I),
}
# Asking how refunds work, or where a granted one is, is not asking for a refund.
_ABOUT = re.compile(r"\b(?:refund|replacement|exchange|return) (?:polic|status|process|rules?\b|terms|window|period|options?\b)|\b(?:how|when|where|what|why|which|whether|do you|status of|know if|wondering if)\b|(?:退款|退货|换货|补发)(?:的)?(?:政策|规则|流程|进度|多久|多长|什么时候|到账|到哪)|怎么|如何|多久|什么时候|为什么", re.I)
_NOT = re.compile(r"(?:n['’]t|\bnot|\bno|\bnever|\bwithout|\binstead of|\brather than|\bdont|\bno longer)\b[^.?!]{0,25}$|(?:不要|不用|不想|不需要|不必|不是|别|无需|取消|没有?)[^。！？]{0,5}$", re.I)
_NAMED = {
    "refund": re.compile(r"\brefund|money back|退款|退钱", re.I),
    "replace": re.compile(r"\breplace|\bexchange|换货|补发", re.I),
}
_DONE = {
    "refund": re.compile(r"\b(?:i(?:'ve| have)?|we(?:'ve| have)?|has been|have been|is|was) (?:now |just |already |been |successfully )*(?:refunded|(?:issued|processed|made|given)[^.?!]{0,20} refund)|\brefund[^.?!]{0,30}\b(?:has|was|is) (?:now |been )*(?:issued|processed|sent|made)|已经?(?:为您|帮您|给您)?(?:办理|申请|处理)?(?:了)?退款|退款已", re.I),
    "replace": re.compile(r"\b(?:sent|shipped|ordered|arranged|issued)[^.?!]{0,20} (?:replacement|new one)|\breplacement[^.?!]{0,30}\b(?:has been|was|is) (?:sent|shipped|ordered|arranged|on its way)|已经?(?:为您|帮您|给您)?(?:安排)?(?:了)?(?:换货|补发)", re.I),
}
_POLICY = {
    "refund": re.compile(r"\brefund|money back|\breimburs|退款|退费|退钱", re.I),
    "replace": re.compile(r"\breplace|\bexchange|换货|更换|补发|换新", re.I),
}
_DENIES = re.compile(r"\bnon-?refundable|\b(?:not|no|never|cannot|can't|won't|don't|doesn't|unable)\b[^.;]{0,30}(?:refund|replac|exchang|money back)|\b(?:not|cannot|can't) be\b|不(?:予|能|可|支持|接受|提供|会)[^。；]{0,10}(?:退|换|补发)|无法[^。；]{0,8}(?:退|换)", re.I)
_PERSON = re.compile(r"\b(?:speak|talk|chat|connect|transfer|escalate|put|pass|get|give|want|need)\b[^.?!]{0,30}?\b(?:a human|human being|real (?:human|person)|an? (?:actual |live |real )?(?:person|agent|operator)|human agent|representative|manager|supervisor)\b|\b(?:speak|talk) (?:to|with) (?:someone|somebody|a human|your boss)\b|^\W*(?:human|agent|representative|manager|supervisor)(?: please)?\W*$|转人工|转接人工|人工客服|要人工|^人工$|真人|(?:找|叫|让|要|跟|和)你们?(?:的)?(?:经理|主管|领导|负责人)|(?:经理|主管|领导|负责人)(?:来|出来|接)", re.I)
_LEGAL = re.compile(r"(?<!i'm )(?<!i’m )(?<!i am )\b(?:my|a|our) (?:lawyer|solicitor)\b|\b(?:my|an|our) attorney\b|\bsue (?:you|them|the|your|this)\b|\blegal (?:action|steps|proceedings)\b|\bto court\b|\bsmall claims\b|\bombudsman\b|\btrading standards\b|起诉|律师|法院|法庭|法律途径|消费者协会|消协|12315|打官司|告你们", re.I)
_COURTESY = re.compile(r"(?:(?P<end>(?:ok(?:ay)?,? )?(?:thanks?(?: you)?(?: (?:so|very) much| a lot| again)?(?: for (?:your|the|all)(?: \w+){1,3})?|cheers|(?:good)?bye(?: bye)?|take care|see you|that(?:'s| is| was| will be|'ll be) all(?: for (?:now|today))?|非?常?感?谢谢?(?:你|您|你们)?(?:了|啦)?|多谢|再见|拜拜|没(?:有)?(?:别的|其他)?(?:事|问题)了))|ok(?:ay)?|great|perfect|no|nope|yes|good|all good|awesome|wonderful|excellent|have a (?:nice|good|great|lovely) (?:day|one|evening|weekend)|you too|same to you|that (?:helps|helped|works|worked)|got it|i got it|i see|好的?|好吧|行|嗯+|知道了|明白了?|收到|祝.{1,8}|辛苦(?:了|啦)|没有了|不用了|可以了|解决了)", re.I)
_STILL = re.compile(r"\b(?:one moment|let me|get back to you|bear with me|i(?:'ll| will) (?:check|look|find|ask|see)|checking)\b|稍等|等一下|请等|我查|核实", re.I)
_MARK = re.compile(r"(?<=[.!?。！？])")
_ANYTHING = re.compile(r"\b(?:anything|something|else|other)\b|其他|别的|还有", re.I)
_MONEY = re.compile(r"(?:[$€£¥￥]|\b(?:USD|EUR|GBP|CNY|RMB)\s?)\s?(\d[\d,]*(?:\.\d+)?)|(\d[\d,]*(?:\.\d+)?)\s?(?:元|块|dollars|euros|pounds)", re.I)
_SUM = re.compile(r"[^\d\s-]{0,3}\s?(\d[\d,]*(?:\.\d+)?)\s?[^\d\s]{0,7}")
_AMOUNT_FIELDS = (("refund", "退款"), ("amount", "total", "金额", "总"), ("price", "价"))
_ITEM_FIELDS = ("item", "product", "商品", "产品")
# fmt: on


def propose(turns: Sequence[DeskTurn], articles: Sequence[Post], language: str) -> list[Proposal]:
    """Actions that the conversation asks for, for an operator to decide. `turns` are masked; `why` is in `language`.

    A refund or a replacement needs the customer's wish and an article about it (`articles`: the best first).
    Arguments are taken from the conversation, and are None where it does not say them or says two things.
    """
    wishes = _wishes(turns)
    found = []
    for name, (place, quote) in wishes.items():
        if policy := _policy(name, quote, articles):
            arguments: dict[str, Any] = {"order": _order(turns, place)}
            arguments |= {"amount": _amount(turns)} if name == "refund" else {"item": _item(turns)}
            said = Citation("conversation", str(place), quote)
            found.append(Proposal(name, arguments, say(f"desk.why.{name}", language), (policy, said)))
    if handed := _hand_over(turns, language):
        found.append(handed)
    if not wishes and not handed and (bye := _goodbye(turns)):
        found.append(Proposal("close", {}, say("desk.why.close", language), (bye,)))
    return found


def _wishes(turns: Sequence[DeskTurn]) -> dict[str, tuple[int, str]]:
    """Refund or replacement: the turn and the sentence in which it was last asked for, if it still stands."""
    wishes: dict[str, tuple[int, str]] = {}
    for place, turn in enumerate(turns):
        if turn.role == "agent":
            for name in [name for name in wishes if _DONE[name].search(turn.text)]:
                del wishes[name]
        if turn.role != "customer":
            continue
        asked: dict[str, tuple[int, str]] = {}
        for sentence in _sentences(turn.text):
            for clause in _CLAUSE.split(sentence):
                for name, named in _NAMED.items():
                    match = _WISHES[name].search(clause)
                    at = max(match.start(group) for group in match.re.groupindex) if match else -1
                    denied = next((one for one in named.finditer(clause) if _denied(clause, one.start())), None)
                    if match and not _denied(clause, at) and not _ABOUT.search(clause):
                        asked[name] = (place, sentence)
                    elif denied:
                        wishes.pop(name, None)
        # A new wish replaces an older one: first a refund, then rather a replacement.
        wishes = asked or wishes
    return wishes


def _policy(name: str, asked: str, articles: Sequence[Post]) -> Citation | None:
    """The sentence of the first article that grants it; if several do, the one nearest to what was asked."""
    wanted = set(content_words(asked))
    for article in articles:
        fit = [
            one
            for one in _sentences(article.text)
            if _POLICY[name].search(one) and not _DENIES.search(one) and one[-1] not in "?？"
        ]
        if fit:
            return Citation("article", article.id, max(fit, key=lambda one: len(wanted & set(content_words(one)))))
    return None


def _denied(text: str, place: int) -> bool:
    """Does what stands right before that place say no to it?"""
    return bool(_NOT.search(text, max(0, place - _WINDOW), place))


def _asks(text: str) -> bool:
    """Is there a question in it that is more than "anything else?"?"""
    return any(part[-1:] in ("?", "？") and not _ANYTHING.search(part) for part in _MARK.split(text))


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def _order(turns: Sequence[DeskTurn], place: int) -> str | None:
    """The order named in the turn of the wish, else the only one of the conversation."""
    for part in ([turns[place]], turns):
        chips = {chip[0] for turn in part for chip in CHIP.finditer(turn.text) if chip["kind"] == "order"}
        if chips:
            return chips.pop() if len(chips) == 1 else None
    return None


def _fields(turns: Sequence[DeskTurn]) -> Iterator[tuple[str, object]]:
    """The fields of what was looked up, one level of nesting flattened."""
    for turn in turns:
        for key, value in (turn.item or {}).items() if turn.role == "knowledge" else ():
            for inner, part in value.items() if isinstance(value, Mapping) else [(key, value)]:
                yield str(inner).lower(), part


def _amount(turns: Sequence[DeskTurn]) -> float | None:
    """The amount of money that was looked up; None when there are several."""
    fields = list(_fields(turns))
    for names in _AMOUNT_FIELDS:
        sums = {_sum(value) for key, value in fields if any(name in key for name in names)} - {None}
        if sums:
            return sums.pop() if len(sums) == 1 else None
    text = "\n".join(turn.text for turn in turns if turn.role == "knowledge")
    said = {_sum(match[1] or match[2]) for match in _MONEY.finditer(text)} - {None}
    return said.pop() if len(said) == 1 else None


def _sum(value: object) -> float | None:
    if isinstance(value, str) and (match := _SUM.fullmatch(value.strip())):
        value = float(match[1].replace(",", ""))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return float(value)


def _item(turns: Sequence[DeskTurn]) -> str | None:
    items = {
        value
        for key, value in _fields(turns)
        if isinstance(value, str) and key.removesuffix("_name") in _ITEM_FIELDS and 0 < len(value) <= _LONGEST
    }
    return items.pop() if len(items) == 1 else None


def _hand_over(turns: Sequence[DeskTurn], language: str) -> Proposal | None:
    first = len(turns) - len(since_answer(turns))
    for key, rule in (("legal", _LEGAL), ("person", _PERSON)):
        for place in range(first, len(turns)):
            for sentence in _sentences(turns[place].text) if turns[place].role == "customer" else ():
                match = rule.search(sentence)
                if match and not _denied(sentence, match.start()):
                    why = say(f"desk.why.{key}", language)
                    cited = Citation("conversation", str(place), sentence)
                    return Proposal("hand_over", {"reason": why}, why, (cited,))
    return None


def _goodbye(turns: Sequence[DeskTurn]) -> Citation | None:
    """The customer's goodbye, if it is all they say and the operator has asked nothing since."""
    last = since_answer(turns)
    answered = turns[len(turns) - len(last) - 1].text if len(last) < len(turns) else ""
    if not answered or _STILL.search(answered) or _asks(answered):
        return None
    ended = None
    for place in range(len(turns) - len(last), len(turns)):
        turn = turns[place]
        if turn.role != "customer" or not turn.text:
            continue
        text = CHIP.sub("", turn.text).replace("’", "'")
        for part in filter(None, (part.strip() for part in re.split(r"[.,!~;:，。！～；\n]|\band\b", text))):
            match = _COURTESY.fullmatch(part)
            if not match:
                return None
            ended = Citation("conversation", str(place), turn.text) if match["end"] else ended
    return ended
