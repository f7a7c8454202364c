"""Generated conversations with planted personal data and traps, and the accuracy of masking on them.

    python -m benchmarks.planted [--seed N] [--show N]

The customers' sentences are in planted.toml; this file generates the values, in the forms that people write. Prints the
share of planted values that is masked, by kind, and the share of ordinary sentences that is left unchanged.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import re
import string
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn
from whyfeed.retrieval.privacy.vault import CHIP, Vault

Trap = Literal["none", "refund", "injection", "other_order", "no_answer", "policy"]
_SHARES: dict[Trap, float] = {"no_answer": 0.2, "refund": 0.12, "injection": 0.1, "other_order": 0.1, "policy": 0.06}
_GENERIC = frozenset(
    "desk mail example street road avenue lane drive apartment flat city north south east west".split()
)


@dataclass(frozen=True, slots=True)
class Planted:
    """A waiting conversation, and the (kind, raw value) pairs in the customer's turns."""

    conversation: DeskConversation
    values: tuple[tuple[str, str], ...]
    trap: Trap
    note: str = ""


def planted(seed: int = 0, n: int = 300) -> list[Planted]:
    """`n` conversations, two thirds English and the rest Chinese; reproducible by the seed."""
    rng = random.Random(seed)
    traps: list[Trap] = [trap for trap, share in _SHARES.items() for _ in range(round(n * share))]
    traps += ["none"] * (n - len(traps))
    rng.shuffle(traps)
    writers = {language: _Writer(rng, language) for language in ("en", "zh")}
    return [writers["zh" if at % 3 == 2 else "en"].conversation(f"planted-{at}", trap) for at, trap in enumerate(traps)]


def ordinary(seed: int = 0, n: int = 500) -> list[str]:
    """`n` different sentences of customers without personal data, two thirds English and the rest Chinese."""
    rng = random.Random(seed)
    found = dict[str, None]()
    while len(found) < n:
        language = "zh" if len(found) % 3 == 2 else "en"
        found[_fill(rng, rng.choice(_lines("ordinary", language)))] = None
    return list(found)


def survives(raw: str, kind: str, shown: str) -> bool:
    """Whether a part of a value is left in a text: of a name one word, of anything else four characters.

    Separators and words that identify nobody ("street") are ignored; a shorter value must be left as a whole.
    """
    shown = unicodedata.normalize("NFKC", CHIP.sub("\n", shown))
    raw = unicodedata.normalize("NFKC", raw)
    if kind == "name":
        words = [
            word for word in re.split(r"[\s·.]+", raw) if len(word) > 1 and word.lower() not in ("van", "der", "de")
        ]
        return any(re.search(rf"(?<![a-zA-Z]){re.escape(word)}(?![a-zA-Z])", shown) for word in words)
    pieces = [piece.lower() for piece in re.findall(r"\w+", raw) if piece.lower() not in _GENERIC]
    together = "".join(pieces)
    parts = {together[at : at + 4] for at in range(len(together) - 3)}
    parts = {part for part in parts if re.search(r"[\d\u4e00-\u9fff]", part)}
    compact = re.sub(r"(?<=\w)[\s\-./()_]+(?=\w)", "", shown.lower())
    words = [piece for piece in pieces if len(piece) > 3 or len(together) < 4]
    return any(part in compact for part in parts) or any(
        re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", shown.lower()) for word in words if word.isascii()
    )


class _Writer:
    """Writes conversations in one language; all wordings of a kind are used before one is repeated."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self._rng = rng
        self._language = language
        self._left: dict[tuple[str, ...], list[str]] = {}

    def conversation(self, id: str, trap: Trap) -> Planted:
        """A request, a few pieces of personal data (volunteered or asked for), and the trap at the end."""
        rng = self._rng
        values = list[tuple[str, str]]()
        turns = list[DeskTurn]()
        if rng.random() < 0.4:
            turns.append(DeskTurn("agent", self._next("agent")))
        turns.append(DeskTurn("customer", self._next("traps", "none")))
        for kind in rng.sample(sorted(self._kinds()), rng.choice((1, 1, 2, 2, 3))):
            raw = _VALUES[kind](rng, self._language)
            values.append((kind, raw))
            if rng.random() < 0.4 and self._language in _texts()["asked"][kind]:
                turns.append(DeskTurn("agent", self._next("asked", kind)))
                turns.append(DeskTurn("customer", self._next("answers").replace("{v}", raw)))
            else:
                turns.append(DeskTurn("agent", self._next("agent")))
                turns.append(DeskTurn("customer", self._next("said", kind).replace("{v}", raw)))
        if rng.random() < 0.25 or trap == "policy":
            article = trap == "policy"
            text = self._next("policy") if article else ""
            item = {"article": text} if article else {"name": "Grand Hotel", "rating": 4, "rooms": 12}
            turns.append(DeskTurn("knowledge", text, item=item, query={"topic": "refunds" if article else "hotels"}))
        if trap != "none" or turns[-1].role != "customer":
            turns.append(DeskTurn("agent", self._next("agent")))
            text = self._next("traps", trap)
            if "{o}" in text:
                raw = _order(rng, self._language)
                values.append(("order", raw))
                text = text.replace("{o}", raw)
            turns.append(DeskTurn("customer", text))
        note = ", ".join(kind for kind, _ in values)
        return Planted(DeskConversation(id, tuple(turns), self._language, "waiting"), tuple(values), trap, note)

    def _kinds(self) -> Iterator[str]:
        return (kind for kind in _VALUES if self._language in _texts()["said"][kind])

    def _next(self, *place: str) -> str:
        if not self._left.get(place):
            self._left[place] = list(_lines(*place, self._language))
            self._rng.shuffle(self._left[place])
        return self._left[place].pop().replace("\\n", "\n")


@functools.cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _lines(*place: str) -> list[str]:
    text: Any = _texts()
    for key in place:
        text = text[key]
    return [line for line in text.split("\n") if line]


def _fill(rng: random.Random, template: str) -> str:
    def slot(name: re.Match[str]) -> str:
        text = _texts()["slots"][name[1]]
        return str(rng.choice(text.split("|" if "|" in text else " ")))

    return re.sub(r"\{(\w+)\}", slot, template)


# --- Values


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _form(rng: random.Random, *forms: str) -> str:
    """One of the forms; in it "_" is a digit, "^" a digit from 2 to 9, "@" a capital letter."""
    kinds = {"_": string.digits, "^": "23456789", "@": "ABCDEFGHJKLMNPQRSTUVWXYZ"}
    return "".join(rng.choice(kinds.get(char, char)) for char in rng.choice(forms))


def _wide(rng: random.Random, text: str, language: str) -> str:
    """The text; in one of seven Chinese texts with the full-width characters of an input method."""
    if language == "en" or rng.random() > 0.15:
        return text
    return "".join(chr(ord(char) + 0xFEE0) if "0" <= char <= "9" else char for char in text)


_FIRST = """Alice Priyanka Chukwuemeka Siobhán José Søren Aisha Mehmet Ingrid Wei Thandiwe Kofi Zofia Björn Hiroshi
Fatima Dmitri Leilani Olga Rajesh Yusuf Margaret Daniel Tomasz Nia Anneliese Giulia Mateo Hyejin Noor Emily Xiaoming
Connor Latoya Aleksandr Camille Tariq Brigitte Sofia Ikaika""".split()
_LAST = """Venkataraman Okafor O'Connor Álvarez Kjær Rahman Yılmaz Lindqvist Zhang Dlamini Mensah Kowalska Svensson
Tanaka Haddad Petrov Kahale Ivanova Patel al-Farsi Whitfield Brzezinski Müller Rossi Fernández-Ruiz Park Siddiqui
Thompson Nguyen McAllister Dubois Katz Papadopoulos Achterberg Johnson Chandrasekhar Osei Nakamura""".split()
_ZH_LAST = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎"
    "余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段钱汤尹黎易常武乔贺赖龚文"
)
_ZH_FIRST = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰建国志梓轩浩宇欣怡子涵雨桐思"
    "远嘉琪一诺晨曦佳慧鹏飞海燕春梅永康俊豪雅婷文博"
)


def _name(rng: random.Random, language: str) -> str:
    if language == "zh":
        if rng.random() < 0.08:
            return rng.choice(["玛丽亚·冈萨雷斯", "阿卜杜拉·买买提", "古丽娜尔·艾山", "约翰·史密斯"])
        surname = rng.choice([*_ZH_LAST, "欧阳", "司马", "诸葛"])
        return surname + "".join(rng.sample(_ZH_FIRST, rng.choice((1, 2, 2))))
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    middle = f"{rng.choice('ABDJKLMRST')}. " if rng.random() < 0.1 else ""
    name = rng.choice((f"{first} {middle}{last}",) * 6 + (first, first, f"{first} van der Berg", f"{last.title()}"))
    return name.lower() if rng.random() < 0.08 else name


def _email(rng: random.Random, language: str) -> str:
    plain = unicodedata.normalize("NFKD", f"{rng.choice(_FIRST)}.{rng.choice(_LAST)}")
    first, last = re.sub(r"[^A-Za-z.]", "", plain).lower().split(".")
    local = rng.choice(
        (f"{first}.{last}", f"{first}{rng.randint(1, 99)}", f"{first[0]}{last}", f"{first}_{last}", f"{last}+desk")
    )
    domain = rng.choice(
        ("gmail.com", "outlook.com", "qq.com", "163.com", "web.de", "btinternet.co.uk", "acme-tools.io")
    )
    if rng.random() < 0.06 and language == "en":
        return f"{local} at {domain.replace('.', ' dot ')}"
    address = f"{local}@{domain}"
    if language == "zh" and rng.random() < 0.15:
        return address.replace("@", "＠")
    return address.upper() if rng.random() < 0.06 else address


_PHONES = {
    "en": """(^1^) ^1^-____|^1^-^0^-____|^1^.^4^.____|^1^^^^____|+1 ^1^ ^3^ ____|+1^0^^^^____|1-^1^-^2^-____
07711 ______|07911______|+44 7^__ ______|020 7^__ ____|0161 ^__ ____|+49 30 ^______|+33 6 ^_ __ __ __|+91 98___ _____
+61 412 ___ ___|+971 50 ^__ ____|+81 90-____-____|0033 6 ^_ __ __ __|+353 86 ^__ ____""",
    "zh": """138________|135________|138 ____ ____|139-____-____|+86 138 ____ ____|0086-138________|186________
010-6_______|010 6___ ____|021-5_______|0755-2_______|(010)6_______""",
}


def _phone(rng: random.Random, language: str) -> str:
    return _wide(rng, _form(rng, *re.split(r"[|\n]", _PHONES[language])), language)


def _luhn(body: str) -> str:
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(body)))
    return body + str(-total % 10)


def _card(rng: random.Random, language: str) -> str:
    prefix, length = rng.choice((("4", 16), ("5" + str(rng.randint(1, 5)), 16), ("37", 15), ("62", 16), ("62", 19)))
    card = _luhn(prefix + _digits(rng, length - len(prefix) - 1))
    cuts = (4, 6, 5) if length == 15 else (4, 4, 4, 4, 3)
    groups, at = list[str](), 0
    for cut in cuts:
        groups.append(card[at : at + cut])
        at += cut
    return _wide(rng, rng.choice((card, " ".join(groups).strip(), "-".join(filter(None, groups)))), language)


def _iban(rng: random.Random, language: str) -> str:
    country, body = rng.choice(
        (("GB", "@@@@" + "_" * 14), ("DE", "_" * 18), ("NL", "@@@@" + "_" * 10), ("AT", "_" * 16))
    )
    body = _form(rng, body)
    number = "".join(str(int(char, 36)) for char in body + country + "00")
    iban = f"{country}{98 - int(number) % 97:02d}{body}"
    spaced = " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))
    return rng.choice((iban, spaced, spaced, spaced.lower()))


def _account(rng: random.Random, language: str) -> str:
    forms = ("^_______", "^_________", "^___________", "^___-____-__", "^__ ___ ___", "^_-__-__ ________", "@^_______")
    return _wide(rng, _form(rng, *forms), language)


def _identity(rng: random.Random, language: str) -> str:
    region = rng.choice(("110105", "310104", "440305", "510107", "320106", "420102"))
    body = f"{region}{rng.randint(1950, 2004)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{_digits(rng, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]
    number = body + check
    spaced = f"{number[:6]} {number[6:14]} {number[14:]}"
    return _wide(rng, rng.choice((number, number, number.lower(), spaced)), language)


def _ssn(rng: random.Random, language: str) -> str:
    area, group, serial = rng.randint(100, 665), rng.randint(10, 99), rng.randint(1000, 9999)
    return rng.choice((f"{area}-{group}-{serial}",) * 3 + (f"{area} {group} {serial}", f"{area}{group}{serial}"))


def _passport(rng: random.Random, language: str) -> str:
    if language == "zh":
        return _form(rng, "E^_______", "E@_______", "G^_______", "EB ___ ____")
    return _form(rng, "^________", "@^______", "C__@__@__", "@@______", "@^_______", "@@ ___ ____", "^_@@_____")


def _order(rng: random.Random, language: str) -> str:
    forms = """#^____ A-^____ ORD-2024-______ ^____ ^_____ ^______ ^__-_______-_______ 2024031_-___ @@_____ #@^___
    INV/2024/____ ^___________ @@-____-@@ ^____-@ BK-_____ ^@^@_@ R^______ W-^__/24 @@@^__ @@@@@@""".split()
    forms = [*forms, "^__ ___ ___"]
    zh_forms = (
        "202403____________ @@__________ @@2024_____ E202401^_-__ ^_______ @@-____-____ @^_____ 202403____".split()
    )
    code = _form(rng, *(forms if language == "en" else zh_forms))
    if language == "en" and rng.random() < 0.08:
        return code.lower()
    return _wide(rng, code, language)


def _address(rng: random.Random, language: str) -> str:
    number, pick = rng.randint(1, 240), rng.choice
    if language == "zh":
        city = pick(
            (
                "北京市朝阳区",
                "上海市浦东新区",
                "广东省深圳市南山区",
                "成都市武侯区",
                "杭州西湖区",
                "海淀区",
                "江苏省苏州市",
            )
        )
        road = pick(
            (
                "建国路",
                "张杨路",
                "科技园南路",
                "人民南路四段",
                "文三路",
                "中关村大街",
                "幸福里小区",
                "解放东街",
                "梅园新村",
            )
        )
        rest = pick((f"{number}号", f"{number}号院{rng.randint(2, 9)}号楼", f"{number}号{rng.randint(2, 9)}栋302室"))
        door = pick(("", "", f"{rng.randint(1, 5)}单元{rng.randint(1, 18)}01", f"{rng.randint(2, 20)}层"))
        return _wide(rng, city + road + rest + ("" if rest.endswith("室") else door), language)
    us = pick(
        ("Springfield, IL 62704", "Pittsburgh, PA 15213", "Reno NV 89501", "Brooklyn, NY 11215-3022", "Austin, TX")
    )
    uk = pick(("London NW1 6XE", "Leeds LS6 2AB", "Bristol", "Edinburgh EH3 9DR", "Manchester, M14 5SX"))
    way = pick(("Maple Street", "Oak Ave", "Willow Creek Rd", "Pine Blvd", "St. James Place", "5th Avenue", "W Elm St"))
    road = pick(("Camden Road", "High Street", "Rosemary Lane", "Abbey Close", "Victoria Terrace", "Mill Grove"))
    flat = pick(("", "", ", Apt 4B", " #12", ", Unit 7", " apt 301"))
    address = pick(
        (f"{number} {way}{flat}, {us}",) * 4
        + (f"{number} {road}, {uk}",) * 3
        + (f"Flat {rng.randint(1, 20)}, {number} {road}, {uk}", f"{number}B {road}", f"{number} {way}")
        + (f"P.O. Box {_digits(rng, 4)}, {us}", f"Hauptstraße {number}, {_digits(rng, 5)} Berlin")
        + (f"{number} rue de Rivoli, 75004 Paris", f"{number} Queen St W, Toronto, ON M5H 2M5")
    )
    return address.lower() if rng.random() < 0.08 else address


def _secret(rng: random.Random, language: str) -> str:
    word = rng.choice(("Sunflower", "tiger", "Passw0rd", "liverpool", "MyDog", "qwerty"))
    forms = (_digits(rng, 4), _digits(rng, 4), _digits(rng, 6), _digits(rng, 6), f"{word}{rng.randint(10, 99)}!")
    return rng.choice((*forms, f"{word}{rng.randint(100, 9999)}", _form(rng, "___ ___", "@_@_@_")))


_MONTHS = "January February March April May June July August September October November December".split()


def _birth(rng: random.Random, language: str) -> str:
    day, at, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1940, 2006)
    if language == "zh":
        forms = (f"{year}年{at}月{day}日", f"{year}年{at}月{day}号", f"{year}.{at}.{day}", f"{year}-{at:02d}-{day:02d}")
        return _wide(rng, rng.choice((*forms, f"{year}{at:02d}{day:02d}", f"{year}/{at}/{day}")), language)
    month = _MONTHS[at - 1]
    forms = (f"{day} {month} {year}", f"{month} {day}, {year}", f"{month} {day}th {year}", f"{day:02d}/{at:02d}/{year}")
    more = (
        f"{year}-{at:02d}-{day:02d}",
        f"{day}.{at}.{year}",
        f"{at}/{day}/{year % 100:02d}",
        f"{day} {month[:3]} {year}",
    )
    return rng.choice((*forms, *more, f"the {day}th of {month} {year}", f"{month[:3].lower()} {day} {year}"))


_VALUES: dict[str, Callable[[random.Random, str], str]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "account": _account,
    "identity": _identity,
    "ssn": _ssn,
    "passport": _passport,
    "order": _order,
    "address": _address,
    "name": _name,
    "secret": _secret,
    "birth": _birth,
}


# --- Measurement


def left_over(found: Planted) -> tuple[list[tuple[str, str]], str]:
    """The values of which a part is left in the customer's turns after masking, and these masked turns."""
    vault, asked, shown = Vault(), "", list[str]()
    for turn in found.conversation.turns:
        if turn.role == "agent":
            asked = turn.text
        elif turn.role == "customer":
            shown.append(vault.mask(turn.text, asked))
    text = "\n".join(shown)
    return [(kind, raw) for kind, raw in found.values if survives(raw, kind, text)], text


def share(part: int, whole: int) -> str:
    """A percentage with its 95 % Wilson interval."""
    if not whole:
        return "-"
    rate, z = part / whole, 1.96
    middle = (rate + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * math.sqrt(rate * (1 - rate) / whole + z * z / (4 * whole * whole)) / (1 + z * z / whole)
    return f"{rate:6.1%} [{max(0.0, middle - half):.1%}, {min(1.0, middle + half):.1%}] of {whole}"


def _report(found: Sequence[Planted], plain: Sequence[str], show: int) -> None:
    whole: Counter[str] = Counter(kind for each in found for kind, _ in each.values)
    missed: Counter[str] = Counter()
    lines = list[str]()
    for each in found:
        left, text = left_over(each)
        missed.update(kind for kind, _ in left)
        lines += [f"{kind} {raw!r}: {text!r}" for kind, raw in left]
    for kind in whole:
        print(f"recall, {kind:9}{share(whole[kind] - missed[kind], whole[kind])}")
    print(f"recall, all      {share(whole.total() - missed.total(), whole.total())}")
    touched = [(text, masked) for text in plain if (masked := Vault().mask(text)) != text]
    print(f"precision        {share(len(plain) - len(touched), len(plain))}")
    print("traps:", ", ".join(f"{trap} {sum(each.trap == trap for each in found)}" for trap in get_args(Trap)))
    for line in [*lines[:show], *(f"{text!r} became {masked!r}" for text, masked in touched[:show])]:
        print(" ", line)


def main() -> None:
    """Print how much planted data is masked, and how many ordinary sentences are changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="number of missed values to print")
    options = parser.parse_args()
    _report(planted(options.seed), ordinary(options.seed), options.show)


if __name__ == "__main__":
    main()
