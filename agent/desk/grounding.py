"""What a suggested reply may say: each sentence needs evidence that supports it, and cites it, or it is dropped.

The checks compare words. Numbers, names and chips must be known in this conversation or in an article. The other
words must occur in one piece of evidence, which must not say the opposite. A promise needs an article or a look-up
that makes the same promise; a customer's words never support one.
"""

# ruff: noqa: E501 - the tables of words and rules are wide

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from whyfeed.agent.desk.lookups import facts_of, looked_up
from whyfeed.agent.desk.specifics import Specific, affirmed, specifics, stems
from whyfeed.agent.desk.suggestion import Citation, Sentence
from whyfeed.agent.reasons.checks import plain
from whyfeed.retrieval.desk.store import Case
from whyfeed.retrieval.desk.types import PLACEHOLDER, DeskTurn, SavedReply
from whyfeed.retrieval.language import sentences, stem
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.words import HAN, STOPWORDS, words

Kind = Literal["courtesy", "question", "fact", "promise"]
COVERED = 0.6  # share of a sentence's content words that must occur in the evidence
QUOTE = 160  # characters of a citation's quote

# Families of promises, and the words that make each.
_FAMILIES = {
    "refund": r"refund|(?:your|the) money\b|money[- ]back|money (?:will be )?returned|reimburs|退款|退钱|退费|退还|返还|退回|退票费|包退|全额退",
    "compensation": r"compensat|make (?:it|this) up to you|赔偿|补偿|赔付|赔给|理赔",
    "discount": r"discount|\b\d+ (?:\w+ )?off\b|coupon|voucher|promo(?:tion| code)|half[- ]price|% off|percent off|优惠|打折|折扣|代金券|立减|满减|\d折|[一二三四五六七八九]折",
    "free": r"not be (?:charged|billed)|won['’]t be (?:charged|billed)|won['’]t charge|not charge you|(?:cancel|drop|remov|lift)\w* (?:the|your|that|this) (?:\w+ )?(?:fee|charge)|\bon me\b|(?:不用|不需要?|无需|不必)(?:付|支付|缴|给钱|花钱)|(?:for|is|are|be|it's|that's) free(?!\s\w+ (?:at|on|then))|free of charge|(?:no|without) (?:\w+ )?(?:charge|cost|fee)s?\b|free (?:\w+ )?"
    r"(?:replacement|upgrade|delivery|shipping|return|night|ticket|breakfast|parking|cancellation|exchange|month|trial|gift|meal)"
    r"|complimentary|waiv|on (?:us|the house)\b|免费|免收|免除|减免|包邮|免单|不收|赠送|白送",
    "replacement": r"replacement|(?:send|give|get|ship|provide) (?:you )?(?:a new|another) (?:one|card|item|product|unit)|we(?:'ll| will)? replace|换新|包换|补发|重新发|换货",
    "credit": r"(?:store|account|shop|full) credit|credit(?:ed)? (?:you|your|it|the amount|back)|到账|入账|返现",
    "guarantee": r"guarantee|\bpromise|\bassure you|\bdefinitely\b|保证|承诺|确保|一定(?:会|能|可以|给|帮)|肯定(?:会|能|给)",
    "deadline": r"\b(?:within|in|under|no later than|after|up to|at most|about) (?:the next )?(?:about |around |approximately )?(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|few|couple of|half an)"
    r"(?:[- –to]+\d+)? (?:more )?(?:business |working |work )?(?:minute|min|hour|day|week|month|year)s?\b"
    r"|\bby (?:tomorrow|tonight|monday|tuesday|wednesday|thursday|friday|saturday|sunday|next week|the end of)|\bsame[- ]day\b|\bimmediately\b|\bright away\b"
    r"|(?<![\d一二两三四五六七八九十半几])[\d一二两三四五六七八九十半几]++\s?个?(?:工作日|小时|分钟|天|日|周|星期|月)(?:之)?(?:以?内|左右|后)|(?:今天|明天|今晚|本周|下周|月底)(?:之?内|之?前|前|就)|马上|立刻|立即",
    "commitment": r"\b(?:we|i|they|you)(?:'ll| will| shall| am going to| are going to|'re going to|'m going to) (?:\w+ ){0,2}?"
    r"(?:pay|ship|deliver|transfer|deduct|extend|upgrade|expedite|return|receive|charge you|cover|arrange for)\b|(?:会|将|给)(?:您|你)?(?:免|赔|退|补|寄|发货|转账|支付|延长|升级)",
}  # fmt: skip
_PROMISE = {name: re.compile(rule, re.IGNORECASE) for name, rule in _FAMILIES.items()}
# A deadline counts as a promise only beside these words.
_CONDITION = re.compile(
    r"\b(?:if|unless|only|except|provided|as long as|subject to|depending|may|might|must|before|until)\b"
    r"|如果|若|除非|仅|只有|只能|须|需|必须|视|前提|除外|可能|(?<!目)(?<!提)前(?![台往面进来]|\w{0,2}台)",
    re.IGNORECASE,
)
_NOT = re.compile(
    r"\b(?:not|no|never|cannot|none|without|neither|nor|nothing|nobody|unable|fail(?:ed|s)?|declin(?:ed|es?)|den(?:y|ied)"
    r"|reject(?:ed|s)?|refus(?:ed?|es)|false|longer)\b|n['’]t\b|\b(?:un(?=[abcdefhlnoprsuvw]\w{5})|non-?(?=\w{5})|in(?=(?:valid|eligible|correct|active|sufficient|complete)\b)|im(?=possible))"
    r"|[不没未勿非]|无(?!论|锡)|拒绝|失败|暂停|停止",
    re.IGNORECASE,
)
_NO_NOT = re.compile(
    r"\bno (?:problem|worries|matter|doubt|later|more than|need)\b|\bnot only\b|\bdo(?:n['’]t| not) (?:hesitate|worry)\b|\bwhy not\b|\bunder\w*|\buntil\b|\bunfortunately\b|\bunless\b|\buniver\w+|\bunion\w*|\bunder"
    r"|\bunit\w*|\bunique\w*|不过|不好意思|不客气|不错|不仅|不但|没问题|没关系|未来|非常|不用谢|不用客气|是不是|有没有|能不能|可不可以|要不要|差不多|对不起|不少|不同",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;，；、]\s*|(?<!\s)\s++(?:but|however|although|though|while|whereas)\s+|但是?|不过|而且?(?=[^且])",
    re.IGNORECASE,
)
_PRICED = re.compile(r"price|cost|fee|fare|amount|balance|charge|rate|[$€£¥]|[价费元款]|门票|消费", re.IGNORECASE)
_PART = re.compile(rf"{_CLAUSE.pattern}|(?<!\s)\s++and\s+", re.IGNORECASE)
_SUBORDINATE = re.compile(
    r"\s*(?:when|if|to|for|before|after|in order|once|while|as|since|because|or|and (?:when|if))\b", re.IGNORECASE
)
_SUBJECT = re.compile(
    r"\W*(?i:(?:and|but|so|ok|okay|alright|great|sorry|right|then|yes|no|well)\b\W*)*"
    r"(?:(?i:i|we|you|it|they|he|she|there|this|that|the|your|our|my|all|each|every)\b|[A-Z]\w+|[\[{])"
)
_ASSENT = re.compile(
    r"(?:\W|\b(?i:sure|of course|absolutely|certainly|definitely|no problem|ok|okay|alright|all right|right|thing|great|perfect|good|fine)\b|好的?|没问题|当然|行|可以)+"
)
_COMMITS = re.compile(
    r"\b(?:we|i|they|you|it|he|she)(?:['’]ll| will| can| could| have| has|['’]ve| are going| is going| am going)\b"
    r"(?! (?:be (?:happy|glad|right with|with you)|help|assist|check|look|see|find out|understand|imagine|(?:certainly |gladly )?help|do (?:my|our) best|a (?:great|nice|good|wonderful|lovely)))",
    re.IGNORECASE,
)
_ASKS_EN = re.compile(
    r"^(?:(?:and|or|so|but|then|also|please|ok|okay|great|alright|right|sure|well|now|sorry|hello|hi|just to confirm|thank you|thanks)[,!. ]+)*"
    r"(?:what|who|whom|whose|which|where|when|why|how|(?:at|on|in|for|to|from|under|by|with|about) (?:what|which|whom|whose|how)"
    r"|do|does|did|is|are|was|were|can|could|may|might|will|would|shall|should|have|has|had|isn['’]t|don['’]t|any(?:thing)?|need)\b",
    re.IGNORECASE,
)
_ASKS_ZH = re.compile(
    r"[吗呢]\s*[?？。！]?$|什么|怎么|哪|多少|几(?=[个位点天号人间])|是否|请问|能不能|可不可以|要不要|是不是|有没有|需不需要|如何|谁"
)
_REQUEST = re.compile(
    r"^(?:\W|\b(?:and|right|ok|okay|sure|thanks|great|alright|now)\b)*(?:could|can|would|may|will) (?:you|i)\b"
    r"|\bplease (?:provide|give|tell|enter|send|confirm|share|state|describe|let (?:me|us) know|check|specify|choose|have)"
    r"|^(?:\W|\b(?:right|and|ok|okay)\b)*(?:your|and your) [\w ]{2,30}please\W*$"
    r"|(?:请|麻烦)您?(?:先)?(?:提供|告诉|告知|说明|输入|发送|确认一下|描述|补充|选择|稍等一下并提供)",
    re.IGNORECASE,
)
_WONDERS = re.compile(
    r"\b(?:what|when|where|which|why|how (?:did|do|was|is|were)|(?:did|have|has|had) (?:you|your|it|the)|are you (?:asking|calling|writing|talking)|is (?:this|it) about)\b"
    r"|什么时候|哪|为什么|怎么|是否已|有没有(?:收到|申请)",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"thank(?:s| you)|you(?:'re| are) (?:very |most )?welcome|my pleasure|good ?bye|bye|good (?:morning|afternoon|evening|day|night)"
    r"|hello|hi\b|hey\b|dear|welcome|sorry|apologi[sz]e|apologies|excuse me|pardon|understand|appreciate|glad|happy to help|pleasure"
    r"|let me|one moment|just a (?:moment|second|minute|sec)|moment|hold on|bear with|please wait|have a (?:\w+ )?(?:day|time|one|evening|weekend|trip|stay|flight|night)|take care|enjoy"
    r"|ok(?:ay)?|sure|great|alright|all right|certainly|of course|absolutely|no problem|no worries|perfect|excellent|fantastic|wonderful|got it|noted|right|understood|hope"
    r"|您好|你好|谢谢|感谢|多谢|不客气|不用谢|不用客气|客气|再见|抱歉|对不起|不好意思|请稍等|稍等|稍候|好的|没问题|没关系|祝您?|欢迎|理解|明白|愉快|应该的|很高兴|嗯|我(?:来)?(?:帮您|为您)?(?:看|查)(?:一下|看)?",
    re.IGNORECASE,
)
_COURTEOUS = frozenset(
    """thank thanks welcome pleasure goodbye bye good morning afternoon evening day night hello hi hey dear sorry
    apologize apologise apologies excuse pardon understand appreciate glad happy help moment second minute hold bear
    wait please great nice lovely wonderful time weekend trip stay flight care enjoy ok okay sure alright right
    certainly course absolutely problem worries perfect excellent fantastic got noted understood hope frustrating
    frustration annoying upsetting inconvenience trouble caused cause confusion delay patience waiting contacting
    contact reaching reach look looking check checking see find feel free questions question anything else
    assist assistance support here there let message sincerely really truly very much kind words hear sounds like must
    difficult situation experience experienced concern concerns best moment 
    您好 你好 谢谢 感谢 非常 多谢 不客气 客气 不用 再见 抱歉 对不起 不好意思 请 稍等 稍候 一下 好的 好 没问题 没关系 祝 祝您 欢迎
    理解 明白 愉快 应该 很 高兴 十分 嗯 我 您 你 为 帮 查 看 看看 查询 再次 光临 下次 咨询 来电 联系 支持 耐心 等待 服务 带来 不便
    给 造成 深 感 万分 心情 旅途 生活 玩得 开心 天 一天 乐意 随时 有 问题 还 其他 太 了 哦 哈 呀 的 地 得 吧 啊 呢 工作 这 是 我们 就 能 到 帮到 帮助
    入住 用餐 游玩 旅行 马上 先""".split()
)
# Words that change what a sentence states: the evidence must have them too.
_DECISIVE = frozenset(
    """book cancel confirm refund ship deliver approve reject decline submit block unblock lock unlock open close
    available pay charge send receive deny complete fail activate deactivate expire include allow require accept
    reserve schedule reschedule change update transfer waive extend return free offer verify authenticate register
    delete remove add accommodate cheap expensive moderate full empty
    取消 预订 预定 预约 订好 确认 退款 退 发货 送达 批准 通过 拒绝 提交 冻结 解冻 解锁 开通 关闭 支付 扣款 收到 完成 成功 失败 免费 营业
    需要 可以 允许 包括 提供 支持 更改 修改 延长 退回 有效 过期 满""".split()
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that may support a sentence; with `grants` it may support a promise too."""

    citation: Citation
    text: str
    grants: bool


def split(text: str, language: str) -> list[str]:
    """Sentences in order, stripped; an English line that goes on in small letters belongs to the one before."""
    return [text[start:end] for start, end in sentences(text, wrapped=language != "zh")]


def classify(sentence: str) -> Kind:
    """The kind of a sentence. A question that makes a promise, or states something first, is not a question."""
    asking = is_question(sentence)
    found = promises(sentence)
    if found and not (asking and _WONDERS.search(sentence) and not specifics(sentence, names=False)):
        return "promise"
    if asking:
        if any(_states(part) for part in _CLAUSE.split(sentence)) or specifics(sentence):
            return "fact"
        return "question"
    return "fact" if _says(sentence) else "courtesy"


def is_question(sentence: str) -> bool:
    """Is it a question, by question mark and form, or as "please tell me …"?"""
    last = _CLAUSE.split(sentence.strip())[-1]
    if HAN.search(sentence):
        return bool(re.search(r"[?？]\s*$", sentence) or _ASKS_ZH.search(sentence) or _REQUEST.search(sentence))
    if _REQUEST.search(sentence) or _REQUEST.search(last):
        return True
    return sentence.rstrip("\"')” ").endswith(("?", "？")) and bool(
        _ASKS_EN.search(last.strip())
        or _ASKS_EN.search(sentence.strip())
        or re.search(r"\b(?:what|which|when|how)\b", last)
    )


def promises(text: str) -> frozenset[str]:
    """The families of promises that a text makes or denies: refund, discount, deadline …"""
    return frozenset(name for name, rule in _PROMISE.items() if rule.search(text))


def evidence_of(
    turns: Sequence[DeskTurn], cases: Sequence[Case], articles: Sequence[Post], reply: SavedReply | None
) -> list[Evidence]:
    """What may be cited: look-ups and articles (which grant promises), the saved reply and past cases (which do not)."""
    found = [
        Evidence(Citation("knowledge", str(place)), "\n".join(facts_of(turns[place].item or {})), True)
        for place in looked_up(turns)
    ]
    found += [Evidence(Citation("article", post.id), f"{post.title}\n{post.text}".strip(), True) for post in articles]
    if reply is not None:
        found.append(Evidence(Citation("reply", reply.id), reply.text, False))
    found += [Evidence(Citation("case", case.id), case.text, False) for case in cases if case.text]
    return found


def ground(text: str, evidence: Sequence[Evidence], turns: Sequence[DeskTurn], language: str) -> tuple[Sentence, ...]:
    """The sentences that are supported, each with its citations; the others are dropped.

    A promise must be supported by evidence that grants. A fact needs one piece of evidence for its words; its
    numbers, names and chips must be in an article, a look-up, a saved reply or this conversation, never only in
    another customer's case. Open placeholders need no support.
    """
    proofs = [_Proof(item) for item in evidence if item.text]
    spoken = [_Proof(item) for item in _conversation(turns)]
    asked = next((turn.text for turn in reversed(turns) if turn.role == "customer" and turn.text), "")
    wanted = promises(asked)
    kept = []
    for piece in split(text, language):
        if not plain(piece) and not PLACEHOLDER.search(piece):
            continue
        kind = classify(piece)
        claim = _Claim(piece)
        citations: tuple[Citation, ...] | None = ()
        if kind == "promise":
            citations = _granted(claim, proofs, spoken)
        elif kind == "fact":
            citations = _borne(claim, proofs, spoken)
        if kind == "courtesy" and wanted and _ASSENT.fullmatch(piece):
            citations = None  # "Sure!" in reply to "refund me" is a promise too
        if citations is not None:
            kept.append(Sentence(piece, "question" if kind == "fact" and claim.asks else kind, citations))
    return tuple(kept)


# ---- inside ----


class _Clause:
    """One clause: the stems of its content words, and whether it is negated."""

    def __init__(self, text: str) -> None:
        self.stems = stems(text)
        self.negative = bool(_NOT.search(_NO_NOT.sub(" ", text)))


class _Claim(_Clause):
    """A sentence to be supported. Its words do not include open placeholders and specifics."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.specifics = specifics(text)
        self.promises = promises(text)
        self.asks = bool(re.search(r"[?？]\s*$", text)) or is_question(text)
        masked = list(text)
        for specific in self.specifics:
            masked[specific.start : specific.end] = " " * (specific.end - specific.start)
        self.frame = PLACEHOLDER.sub(" ", "".join(masked))
        self.content = stems(self.frame) - _COURTEOUS_STEMS
        if self.asks:  # only what a question states needs support
            self.content &= stems(" ".join(part for part in _CLAUSE.split(text) if _states(part)))
        parts = [stems(part) & self.content for part in _PART.split(self.frame)]
        self.parts = [part for part in parts if part]
        self.clauses = [clause for part in _CLAUSE.split(self.frame) if (clause := _Clause(part)).stems]


class _Proof:
    """Evidence prepared for comparison: its sentences, without those that address a model."""

    def __init__(self, evidence: Evidence) -> None:
        self.citation = evidence.citation
        self.grants = evidence.grants
        lines = evidence.text.split("\n") if evidence.citation.type == "knowledge" else split(evidence.text, "")
        self.sentences = [piece for piece in lines if plain(piece) or PLACEHOLDER.search(piece)]
        self.text = " ".join(self.sentences)
        # Of its parts, each read once however many values are looked for.
        self._units_of: dict[str, dict[str, set[str]]] = {}
        self._folded_of: dict[str, str] = {}

    @cached_property
    def stems(self) -> frozenset[str]:
        return stems(self.text)

    @cached_property
    def clauses(self) -> list[_Clause]:
        pieces = [piece for line in self.sentences for piece in split(line, "")]
        return [_Clause(part) for piece in pieces for part in _CLAUSE.split(piece) if part]

    def covers(self, claim: _Claim, text: str | None = None) -> bool:
        """Does it have most of the claim's words, all deciding ones, and half of each clause's?"""
        known = self.stems if text is None else stems(text)
        if (claim.content & _DECISIVE_STEMS) - known or any(2 * len(part & known) < len(part) for part in claim.parts):
            return False
        return len(claim.content & known) >= COVERED * len(claim.content)

    def agrees(self, claim: _Claim) -> bool:
        """Are the clauses on the same subject negated alike?"""
        for clause in claim.clauses:
            overlaps = [len(clause.stems & other.stems) for other in self.clauses]
            best = max(overlaps, default=0)
            if best and any(
                other.negative != clause.negative
                for other, overlap in zip(self.clauses, overlaps, strict=True)
                if overlap == best
            ):
                return False
        return True

    def has(self, specific: Specific, within: str | None = None, exact: bool = False) -> bool:
        """Is the specific in the text, or in the part `within`? With `exact` the unit must match too."""
        text = self.text if within is None else within
        if specific.kind == "number":
            # In a look-up the key says what a number counts, so it may lack its unit.
            if exact and self.citation.type == "knowledge":
                text = " ".join(line for line in self.sentences if _counts(line, specific.unit))
            bare = self.citation.type == "knowledge" and specific.unit not in ("am", "pm", "percent")
            units = self._units(text).get(specific.value, set())
            return bool(units) and (not specific.unit or specific.unit in units or (bare and "" in units))
        if specific.kind == "date":
            return specific.value in self._units(text)
        pattern = rf"(?<![A-Za-z0-9]){re.escape(specific.value)}(?![A-Za-z0-9])"
        return bool(re.search(pattern, self._folded(text)))

    def _units(self, text: str) -> Mapping[str, set[str]]:
        """By value of each number and date of a part, the units with which it is said."""
        if text not in self._units_of:
            units = self._units_of[text] = {}
            for each in specifics(text, names=False):
                units.setdefault(each.value, set()).add(each.unit)
        return self._units_of[text]

    def _folded(self, text: str) -> str:
        if text not in self._folded_of:
            self._folded_of[text] = " ".join(text.casefold().split())
        return self._folded_of[text]

    def cite(self, claim: _Claim, specific: Iterable[Specific] = ()) -> Citation:
        """A citation that quotes the sentence nearest to the claim."""
        specific = list(specific)
        if self.citation.type == "knowledge" and specific:
            lines = [line for line in self.sentences if any(self.has(s, line) for s in specific)]
            return Citation(self.citation.type, self.citation.id, "; ".join(lines)[:QUOTE])
        wanted = claim.stems | frozenset().union(*(stems(s.value) | {s.value} for s in specific))

        def score(piece: str) -> int:
            return len(stems(piece) & wanted) + sum(2 * self.has(s, piece) for s in specific)

        quote = max(self.sentences, key=score, default="")
        return Citation(self.citation.type, self.citation.id, quote[:QUOTE])


def _borne(claim: _Claim, proofs: Sequence[_Proof], spoken: Sequence[_Proof]) -> tuple[Citation, ...] | None:
    """The citations of a fact, or None."""
    known = [proof for proof in proofs if proof.citation.type != "case"]
    pure = claim.asks and not any(_states(part) for part in _CLAUSE.split(claim.text))
    if pure or not claim.content:  # of a question only the values are checked; "{instruction}." has no words to check
        values = _found(claim, claim.specifics, known, spoken)
        if values or PLACEHOLDER.search(claim.text):
            return values
        # "Take your time!" has almost no content words: the same sentence elsewhere supports it.
        said = " ".join(claim.text.split())
        same = next((proof for proof in proofs if said in map(str.strip, proof.sentences)), None)
        return None if same is None or claim.specifics else (same.cite(claim),)
    for proof in proofs:
        if not proof.covers(claim) or not proof.agrees(claim):
            continue
        if proof.citation.type == "article":
            nearest = max(proof.sentences, key=lambda piece: len(stems(piece) & claim.content), default="")
            if _loses_condition(nearest, claim):
                continue
        rest = [s for s in claim.specifics if proof.citation.type == "case" or not proof.has(s)]
        values = _found(claim, rest, known, spoken)
        if values is None:
            continue
        used = [other for other in proofs if other.citation.type == "case" and other.covers(claim)]
        beside = tuple(other.cite(claim) for other in used[:1] if proof.citation.type == "reply")
        inside = [s for s in claim.specifics if s not in rest]
        return tuple(dict.fromkeys((proof.cite(claim, inside), *beside, *values)))
    return None


def _granted(claim: _Claim, proofs: Sequence[_Proof], spoken: Sequence[_Proof]) -> tuple[Citation, ...] | None:
    """The citations of a promise, or None: one sentence of an article or one look-up makes the same promise."""
    known = [proof for proof in proofs if proof.citation.type != "case"]
    frames = [proof for proof in known if proof.citation.type == "reply" and proof.covers(claim)]
    numbers = [s for s in claim.specifics if s.kind in ("number", "date")]
    others = [s for s in claim.specifics if s not in numbers]
    for proof in proofs:
        if not proof.grants:
            continue
        lookup = proof.citation.type == "knowledge"
        for piece in [proof.text] if lookup else proof.sentences:
            made = promises(piece)
            timed = lookup and all(proof.has(s, piece, exact=True) for s in numbers) and bool(numbers)
            if claim.promises - made - ({"deadline", "commitment"} if timed else frozenset()):
                continue
            if not all(proof.has(s, piece, exact=True) for s in numbers):
                continue
            if not lookup and (_loses_condition(piece, claim) or _loses_number(piece, claim)):
                continue
            if not (proof.covers(claim, piece) or frames) or not proof.agrees(claim):
                continue
            values = _found(claim, others, known, spoken)
            if values is not None:
                quoted = proof.cite(claim, numbers)
                return tuple(dict.fromkeys((quoted, *(frame.cite(claim) for frame in frames[:1]), *values)))
    return None


def _found(
    claim: _Claim, wanted: Sequence[Specific], known: Sequence[_Proof], spoken: Sequence[_Proof]
) -> tuple[Citation, ...] | None:
    """A citation for each specific, or None when one is not found."""
    citations = []
    for specific in wanted:
        # A price that only the customer names is not known to be right.
        told = () if specific.unit in ("money", "percent", "off") else spoken
        source = next((proof for proof in (*known, *told) if proof.has(specific)), None)
        if source is None:
            return None
        citations.append(source.cite(claim, [specific]))
    return tuple(dict.fromkeys(citations))


def _conversation(turns: Sequence[DeskTurn]) -> list[Evidence]:
    """What was said in this conversation and what the operator searched with, the newest first."""
    return [
        Evidence(
            Citation("conversation", str(place)), "\n".join([turn.text, *facts_of(turn.query or {})]).strip(), False
        )
        for place, turn in reversed(list(enumerate(turns)))
        if turn.role != "knowledge" and (turn.text or turn.query)
    ]


def _counts(line: str, unit: str) -> bool:
    """Can the number on a look-up's line be of that unit, as in "minutes till pickup: 25"?"""
    if unit in ("", "am", "pm", "clock"):
        return True
    if unit == "money":
        return bool(_PRICED.search(line))
    return unit in line or any(s.unit == unit for s in specifics(line, names=False))


def _states(part: str) -> bool:
    """Is this clause of a question a statement of its own: "the room is free, shall I book it?"."""
    if not part or _SUBORDINATE.match(part) or is_question(part if HAN.search(part) else f"{part.rstrip('? ')}?"):
        return False
    return _says(part) and (bool(HAN.search(part)) or bool(_SUBJECT.match(part)))


def _loses_number(piece: str, claim: _Claim) -> bool:
    """Does the article name an amount or a time (a deadline, a fee) that the claim leaves out?"""
    said = {(s.value, s.unit) for s in claim.specifics}
    return any(s.unit and (s.value, s.unit) not in said for s in specifics(piece, names=False))


def _loses_condition(piece: str, claim: _Claim) -> bool:
    """Does the sentence of an article say "only if …" where the claim does not?"""
    for part in _CLAUSE.split(piece):
        if part and (found := _CONDITION.search(part)):
            condition = stems(part if HAN.search(part) else part[found.start() :])
            if 2 * len(condition & claim.stems) < len(condition):
                return True
    return False


def _says(text: str) -> bool:
    """Does it state anything beyond courtesy?"""
    found = [s for s in specifics(text) if s.kind != "name" or not _COURTESY.fullmatch(s.value)]
    if found or PLACEHOLDER.search(text):
        return True
    rest = _COURTESY.sub(" ", text) if HAN.search(text) else text
    left = {word for word in words(rest) if word not in STOPWORDS and len(word) > (1 if word.isascii() else 0)}
    if any(word not in _COURTEOUS and stem(affirmed(word)) not in _COURTEOUS_STEMS for word in left):
        return True
    if _COMMITS.search(text):
        return True
    # A bare "Yes." states whatever was asked.
    return bool(
        re.search(
            r"^\W*(?:yes|yeah|yep|no|nope|it (?:is|does|can)|you can|是的?|可以|能|行|对|会)\b", text, re.IGNORECASE
        )
    )


_COURTEOUS_STEMS = frozenset(stem(affirmed(word)) for word in _COURTEOUS)
_DECISIVE_STEMS = frozenset(stem(affirmed(word)) for word in _DECISIVE)
