"""Rules for bare answers to an operator's question, whose kind only the question tells: "4321" after "Your PIN?"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from whyfeed.retrieval.language import sentences
from whyfeed.retrieval.privacy.addresses import bare_address
from whyfeed.retrieval.privacy.names import GIVEN, NO_NAME_ZH, SURNAME, WORD, take_name
from whyfeed.retrieval.privacy.rules import DATE, END, HAN, TOKEN, Rule, Span, fold, spans

_ASKS = re.compile(
    r"[?]|吗|请|麻烦|提供|告诉|多少|什么"
    r"|\b(?:please|provide|tell|give|need|enter|confirm|share|may i|send|what)\b",
    re.I,
)
# Questions by the kind of the answer. "word" is the answer to a security question, "date" a date of birth.
_ASKED = {
    "word": r"maiden|\bpet\b|pet's|first school|security (?:question|answer)|password|母亲.{0,4}姓|宠物|密码|口令",
    "name": (
        r"(?:your|full|first|last|family|(?:host|customer|caller|guest|passenger|recipient)'?s?) (?:\w+ )?names?\b"
        r"|name of the (?:host|guest|passenger|customer|recipient|account holder)|who(?:m)? am i|what should i call"
        r"|(?:which|what) name\b|姓名|怎么称呼|如何称呼|贵姓|您?的名字|收件人|收货人|联系人"
    ),
    "secret": (
        r"\bpin\b|passcode|cvv|cvc|(?:verification|security|access|one[- ]time|enter the) code|the code\b|验证码|安全码"
    ),
    "card": r"card number|which card|卡号",
    "account": (
        r"account(?: number)?|member(?:ship)? (?:number|id)|customer (?:number|id)|\biban\b|账号|帐号|账户|会员号"
    ),
    "order": (
        r"(?:order|booking|reservation|confirmation|ticket|tracking|reference|case|invoice)'?s?"
        r" ?(?:number|id|code|no\b|reference|#)|订单|单号|预订号|编号"
    ),
    "date": r"date of birth|birth ?da(?:y|te)|\bdob\b|born|生日|出生",
    "identity": r"passport|social security|\bssn\b|licen[cs]e number|identity|\bid number|身份证|护照|证件",
    "address": (
        r"(?<!mail )(?<!ip )(?<!web )address|where do you live|where (?:should|shall|do) we (?:deliver|send|ship)"
        r"|(?<!邮箱)地址|住址|住在"
    ),
    "phone": r"phone|mobile|contact number|cell|number (?:to|can we) (?:call|reach)|call you back|电话|手机|联系方式",
}
_ASKED_RULES = {kind: re.compile(rule, re.I) for kind, rule in _ASKED.items()}

# Words before the answer itself.
_LEAD = re.compile(
    r"(?:[\s,.!:;-]|\b(?:yes|yeah|yep|sure|ok|okay|of course|certainly|alright|well|oh|uh+h?|um+|hmm|hi|hello|hey"
    r"|it's|its|it is|it was|it|is|was|that's|that is|that would be|i'm|im|i am|this is|here(?:'s)?"
    r"|(?:my|her|his|the|their|our) (?:\w+ )?(?:name|one)(?:'s| is| was)?"
    r"|(?:my|her|his) (?:mother|mom|pet|dog|cat)(?:'s)?|name'?s?|called|named|under|mr|mrs|ms"
    r"|the (?:host|guest|passenger|pet|dog|cat)|please use|for|by|i think|so|right|thanks|thank you)\b"
    r"|是的?|好的?|嗯|我叫|我是|叫|我姓|免贵姓|姓|你好|您好)*",
    re.I,
)
_AFTER_NAME = re.compile(
    r"\s?(?:[.,!?;)\n\0。]|$|-"
    r"|(?:and|from|here|but|speaking|calling|please|thanks|thank|short|is|the|i|with|for|my)\b)",
    re.I,
)
_SAID_NAME = re.compile(r"\b(?:named|called|name (?:is|was)|name's)\s(?=\w)")
_SAID_WORD = re.compile(r"\b(?:named|called|name (?:is|was)|name's)\s(?=\w)|\b(?:is|was)\s(?=[A-Z])")
_BARE_HAN = re.compile(
    r"(?!转|人工|经理|主管|投诉|你好|您好|再见|不知道|没有|谢谢|忘|不记得|可以|对的|当然|不用|不想|不方便)"
    rf"(?:{SURNAME}?[{HAN}]{{1,3}}|[{HAN}]{{1,6}}(?:·[{HAN}]{{1,8}})+)(?=[,。!;\s的]|$)"
)
# A password from the end of `_LEAD` to the end of the text, and one with letters and digits anywhere.
_BARE_SECRET = re.compile(r"(?![A-Za-z]+\s*$)[!-~]{4,64}(?=\s*$)")
_CODED_SECRET = re.compile(r"(?<![!-~])(?![!-~]*[$'])(?=[!-~]{0,20}\d)(?=[!-~]{0,20}[A-Za-z])[!-~]{6,64}(?<![.,;?])")
# Groups of digits with single letters between them; prices, times and percentages are excluded.
_CODES = re.compile(
    r"(?<!\d[.,:/])(?<![A-Za-z0-9_$€£#/-])#?(?:(?-i:[A-Z]{1,2})[ -])?[A-Za-z]{0,5}-?\d(?:[ -]?[A-Za-z]?\d){1,23}"
    rf"(?:-?[A-Za-z0-9]{{1,6}})?{END}(?![:%/]|[.,]\d|\s?(?:(?:am|pm|dollars|people)\b|元|点))",
    re.I,
)
_TOKENS = re.compile(rf"(?<!\d[.,:])(?<![A-Za-z0-9_$€£/-])#?(?=(?:[A-Za-z/-]{{0,8}}\d){{3}}){TOKEN}(?![.,]\d)")
_REFERENCE = re.compile(r"(?<![A-Za-z])[A-Z]{6}(?![A-Za-z])")  # an airline's booking reference without a digit
_BARE = {
    "date": Rule("identity", re.compile(rf"(?<!\d)(?:{DATE})", re.I)),
    "phone": Rule("phone", re.compile(rf"\+?\(?\d(?:[ .()-]{{0,2}}\d){{5,14}}{END}(?!:)")),
    "order": Rule("order", _REFERENCE),
}


def answers(plain: str, asked: str) -> Iterator[Span]:
    """Spans of a folded text that answer the operator's message `asked`, where that asks for personal data."""
    said = (fold(asked[start:end])[0] for start, end in sentences(asked))
    request = "\n".join(sentence for sentence in said if _ASKS.search(sentence))
    kinds = [kind for kind, rule in _ASKED_RULES.items() if rule.search(request)]
    for kind in kinds:
        if kind in ("name", "word"):
            yield from _bare_words(plain, "secret" if kind == "word" else "name", len(kinds) > 1)
        elif kind == "address":
            yield from bare_address(plain)
        elif kind in _BARE:
            yield from spans([_BARE[kind]], plain)
    coded = [kind for kind in kinds if kind in ("secret", "card", "account", "order", "identity")]
    # Customers who do not remember a birthday or a security word often offer a PIN instead.
    kind = coded[0] if coded else "secret" if {"word", "date"} & {*kinds} else ""
    least = {"order": 2}.get(kind, 3 if coded else 4)
    for _, start, end in spans([Rule(kind, _CODES)], plain) if kind else ():
        if sum(map(str.isdigit, plain[start:end])) >= least:
            yield kind, start, end
    if coded:
        yield from spans([Rule(kind, _CODED_SECRET if kind == "secret" else _TOKENS)], plain)


def _bare_words(plain: str, kind: str, capital: bool) -> Iterator[Span]:
    """A name, or the word that answers a security question.

    `capital`: the question asked for other data too, so a name must be capitalised.
    """
    if named := (_SAID_WORD if kind == "secret" else _SAID_NAME).search(plain):
        end = take_name(plain, named.end(), capital=True)
        if kind == "secret" or end == len(plain.rstrip(" .!")):
            yield kind, named.end(), end
    lead = _LEAD.match(plain)
    start = lead.end() if lead else 0
    if (han := _BARE_HAN.match(plain, start)) and not NO_NAME_ZH.search(han[0]):
        yield kind, start, han.end()
    if "\u4e00" <= plain[start : start + 1] <= "\u9fff":
        return
    end = take_name(plain, start, capital, most=4)
    word = WORD.match(plain, start)
    given = bool(word and word[0].lower() in GIVEN)
    end = word.end() if word and given and end == start else end
    if end > start and (given or _AFTER_NAME.match(plain, end)):
        yield kind, start, end
    elif kind == "secret" and (word := _BARE_SECRET.match(plain, start)):
        yield kind, start, word.end()
