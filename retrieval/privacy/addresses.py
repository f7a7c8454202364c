"""Rules for postal addresses: English, some continental European, and Chinese."""

from __future__ import annotations

import re
from collections.abc import Iterator

from whyfeed.retrieval.privacy.rules import HAN, Rule, Span, spans

CAPITALISED = r"[A-Z\u00c0-\u00de][a-z\u00df-\u024f]+(?:['-][A-Z]?[a-z\u00df-\u024f]+|[A-Z][a-z]+)*"
_WAY = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Boulevard|Blvd|Drive|Dr|Court|Ct|Place|Pl|Terrace|Ter|Way|Square|Sq|Close"
    r"|Crescent|Parkway|Pkwy|Circle|Cir|Highway|Hwy|Gardens|Grove|Mews|Row|Hill|Walk|Trail)"
)
# Postcodes of the UK, Canada and the US, the last with and without the state.
_POSTCODE = (
    r"(?:[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}"
    r"|(?:[A-Z]{2}\s)?[A-Z]\d[A-Z]\s\d[A-Z]\d"
    r"|[A-Z]{2}\s\d{5}(?:-\d{4})?|\d{5}(?:-\d{4})?)"
)
_FLAT = r"(?:(?:Flat|Apt\.?|Apartment|Unit|Suite)\s[\w-]{1,6},?\s)?"
_HOUSE = r"(?<![\w.,$€£/-])\d{1,5}[A-Za-z]?(?:-\d{1,5})?\s"
# "5 blocks down the road" is a direction and not an address.
_NOT_FAR = r"(?!(?:\w+\s)?(?:blocks?|minutes?|miles?|hours?|on|of|the|to|from|down|at|and|in|for)\s)"
_NAMED_WAY = (
    rf"(?:(?:(?:{CAPITALISED}\.?|[NSEW]\.?|\d{{1,3}}(?:st|nd|rd|th))\s){{1,4}}{_WAY}\b(?:\.(?=[, ]))?"
    r"(?:\s[NSEW]{1,2}\b)?"
    rf"|{_NOT_FAR}(?:[a-z]+\s){{1,2}}(?:street|avenue|road|lane|boulevard)\b)"
)
_DOOR = r"(?:,?\s(?:(?:Apt|apt|Apartment|Suite|Unit|unit|Flat|Floor)\b\.?\s?|#\s?)[\w-]{1,6}\b)?"
_TOWNS = rf"(?:,\s{{0,2}}(?!(?:Please|Thanks|I|My|The|And|It|We)\b){CAPITALISED}(?:\s{CAPITALISED}){{0,3}}){{0,3}}"
_STATE = rf"(?:,?\s{_POSTCODE}(?!\w)|,\s[A-Z]{{2}}\b)?"
# In lower case: a postcode, or a town and a postcode, at the end of an address.
_SMALL = (
    r"(?:(?:,\s[a-z. ]{2,20})?,?\s"
    r"(?:[a-z]{1,2}\d[a-z\d]?\s\d[a-z]{2}|[a-z]{2}\s(?:\d{5}(?:-\d{4})?|[a-z]\d[a-z]\s\d[a-z]\d))\b)?"
)
_CITY = rf",\s\d{{4,5}}\s(?:{CAPITALISED}|[a-z]{{3,20}})"
_ENGLISH = re.compile(
    rf"{_FLAT}{_HOUSE}{_NAMED_WAY}{_DOOR}{_TOWNS}{_STATE}{_SMALL}"
    rf"|\b[Pp]\.?\s?[Oo]\.?\s(?:Box|BOX|box)\s\d{{1,6}}{_TOWNS}{_STATE}"
    r"|\b[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}\b"
)
# In lower case an address needs a house number and a word for a street.
_LOWER = re.compile(
    r"(?:(?:flat|apt|unit)\s\w{1,5},?\s)?(?<![\w.,$€£/-])\d{1,5}[a-z]?\s"
    rf"{_NOT_FAR}(?:(?:[a-z]+\.?|\d{{1,3}}(?:st|nd|rd|th))\s){{1,3}}"
    r"(?:(?:street|avenue|ave|road|rd|lane|boulevard|blvd)\b|(?:st|drive|place|terrace|close|grove|court)\b(?=,|\s#|\sapt))"
    r"(?:\s[nsew]\b)?"
    r"(?:,?\s(?:(?:apt|unit)\s|#)\w{1,5})?(?:,\s(?!please|thanks|i\b|my\b|the\b|and\b)[a-z]{3,}(?:\s[a-z]{3,})?){0,2}"
    + _SMALL
)
# "Hauptstraße 12, 10115 Berlin", "Calle Mayor 3", "14 rue de Rivoli, 75004 Paris"
_CONTINENTAL = re.compile(
    r"(?:\b[^\W\d_]{2,30}(?:stra(?:ß|ss)e|str\.|gasse|platz|allee|straat|gatan|vej)"
    r"|\b(?-i:Calle|Via|Avenida|Plaza|Piazza|Rua|ul\.)(?:\s[^\W\d_]{2,20}){1,3}),?"
    rf"\s\d{{1,4}}[a-z]?\b(?:{_CITY})?"
    r"|(?<![\w.,/-])\d{1,4},?\s(?:bis\s)?(?:rue|avenue|boulevard|quai|chemin|impasse|allée)\s(?:de\s|du\s|des\s|la\s|l')*"
    rf"[^\W\d_]{{2,20}}(?:-[^\W\d_]{{2,20}})*(?:\s{CAPITALISED})*(?:{_CITY})?",
    re.I,
)
# After "I live at" or "deliver it to", a house number followed by words is enough.
_SAID = re.compile(
    r"(?:\bi live at|\baddress(?: is|:)|\b(?:deliver|ship|send)(?: it| this| them)? to:?|\bpick me up (?:from|at))"
    r"\s(\d{1,5}[a-z]?\s(?!(?:am|pm|people|days?|minutes?|hours?)\b)[a-z][^\n.,!?;\0]{3,60})",
    re.I,
)
ADDRESSES = (
    Rule("address", _SAID, " "),
    Rule("address", _ENGLISH, " "),
    Rule("address", _LOWER, " "),
    Rule("address", _CONTINENTAL, " "),
)

# From the word for a street on: "…路88号3单元502室". Numbers of metro lines, exits, gates and shops are excluded.
_NUMBER_ZH = r"号(?!线|出口|口|店|航站|厅)"
_WAY_ZH = re.compile(
    r"(?:[路街道巷弄村里园段]|胡同|小区|花园|公寓|大厦|新村|家园)"
    rf"(?:[^\W\d_a-zA-Z到在是至从]{{0,4}}?\d{{1,5}}(?:-\d{{1,5}})?{_NUMBER_ZH}(?:院|楼)?)?"
    rf"(?:[{HAN}]{{0,8}}?[A-Za-z]?\d{{1,5}}\s?(?:号楼|栋|幢|座|单元|楼|层|室|户|{_NUMBER_ZH}|#)){{0,5}}"
    r"(?:\d{2,5}(?!\d|元|块|人))?"
)
_LEAD_ZH = re.compile(r"地址|[是在到至从住给于我家寄送叫的了,。;:!?、\s\0(\"]")
# An answer to "where do you live?": a number and words, or a Chinese place without a number.
_BARE = re.compile(
    r"(?<![\w$])(?!\d+\s?(?:am|pm|people|days?|minutes?|hours?|dollars)\b)(\d{1,5}[A-Za-z]?,?\s+[A-Za-z][^\n.!?;\0]{3,100})",
    re.I,
)
_BARE_ZH = re.compile(
    r"(?:^|[,。\s])(?:我(?:的|家)?)?(?:收货)?(?:地址|住址)?(?:是|在|住在?|寄到|送到)?"
    rf"([{HAN}\dA-Za-z-]{{1,40}}?[省市区县镇乡村路街号楼室栋][{HAN}\dA-Za-z-]{{0,40}})"
)


def addresses_zh(plain: str) -> Iterator[Span]:
    """Chinese addresses that have a number."""
    for match in _WAY_ZH.finditer(plain):
        if not re.search(r"\d号|\d[^\d]{1,6}\d", match[0]):
            continue
        # Names of provinces, cities and streets follow no pattern: the address starts after the last introducing word.
        start = match.start()
        while start and match.start() - start < 40 and not _LEAD_ZH.match(plain[start - 1]):
            start -= 1
        start += 2 if plain.startswith("地址", start) else 0
        if start < match.start():
            yield "address", start, match.end()


def bare_address(plain: str) -> Iterator[Span]:
    """Addresses in the answer to a question for one, where looser patterns apply too."""
    yield from addresses_zh(plain)
    yield from spans(ADDRESSES, plain)
    if match := _BARE.search(plain) or _BARE_ZH.search(plain):
        yield "address", *match.span(1)
