"""Rules for numbers, codes, e-mail addresses and user names, found by their form or by the words around them."""

from __future__ import annotations

import contextlib
import re

from whyfeed.retrieval.privacy.rules import DATE, END, LINK, START, TOKEN, UNITS, WORD_LISTS, Rule, named

# --- Words for each kind of value

_SECRET = (
    r"pass ?(?:word|code|phrase)|pwd?|cvv2?|cvc2?"
    r"|(?:security|verification|access|one[- ]time|authori[sz]ation|login|clearance|confirmation pin|sms)"
    r" ?(?:code|password|pin)|otp|pin(?: ?(?:number|code))?"
)
_SECRET_ZH = "密码|验证码|校验码|动态码|安全码|口令|PIN码|取件码"
_ACCOUNT = (
    r"(?:bank |savings |checking |current |my |the )?(?:account|acct|a/c)|member(?:ship)?(?: card)?"
    r"|customer (?:id|number|no)|client (?:id|number|no)|loyalty(?: card)?|frequent flyer|policy|routing|sort code|iban"
)
_ACCOUNT_ZH = "账号|帐号|账户|帐户|会员号?|客户号"
_ORDER = (
    r"orders?|bookings?|reservations?|confirmation|tickets?|tracking|ref(?:erence)?|case|invoice|shipment|parcel|package"
    r"|purchase|return|refund|claim|pnr|rma"
)
_ORDER_ZH = "订单|运单|快递单?|物流单?|单号|工单|预订号?|预约号|票号|取票号|流水号|发票号"
_IDENTITY = (
    r"passports?|ssn|social security|(?:driver'?s?|driving) licen[cs]e|national insurance|nino|identity card|id card"
    r"|national id|tax id|citizen id"
)
_IDENTITY_ZH = "身份证号?|护照号?|证件号?|驾驶证号?"
_PHONE = r"phone|mobile|cell ?(?:phone)?|tel|telephone|whatsapp|landline|call me|text me|ring me|reach me|my number"
_PHONE_ZH = "电话|手机号?|联系方式|座机|致电"
# "order number 12", "order is 12", "order: 12", but not "order 12 pizzas".
_NUMBERED = (
    r"(?:\s{0,2}(?:number|no\b\.?|nr\b\.?|id\b|code|ref(?:erence)?\b|#)"
    r"|(?:\s(?:on|in)\s(?:my|the|your)\s\w{1,12})?\s{0,2}(?:is\b|says\b|should\sbe\b|:|=|#))"
)
# A code that needs no word such as "number" before it: at least five digits, or letters with at least two digits.
_LONG_TOKEN = (
    rf"(?=(?:[A-Za-z/_-]{{0,8}}\d){{5}}"
    rf"|(?-i:[A-Z0-9/-]{{0,4}}[A-Z])[A-Za-z0-9/-]*\d[A-Za-z0-9/-]*\d){TOKEN}"
    rf"|[a-z0-9]{{1,6}}-\d{{3,9}}-[a-z0-9]{{1,9}}{END}"
)
# A booking reference may be six capitals; the excluded words are common ones that customers write in capitals.
_CAPITALS = r"(?-i:(?!URGENT|PLEASE|CANCEL|STATUS|NUMBER|THANKS)[A-Z]{6}\b)"
_ID_CODE = r"(?=(?:[A-Za-z]{0,2} ?\d){4})[A-Za-z0-9](?:[ -]?[A-Za-z0-9]){4,19}(?![A-Za-z0-9])"
# A card of 16 digits in four groups, and a run of digits that may contain a card number.
_FOUR_FOURS = re.compile(r"(?<!\d[.,/: -])(?<!\d)\d{4}(?:[ -]\d{4}){3}(?![\d-]| \d)")
_RUN = re.compile(r"(?<!\d)(?<!\d[.,/:])\d(?:[ -]{0,2}+\d)*+(?![\d/:]|[.,]\d)")

# --- Functions for `Rule.meant`: the part of a match that is the value

_NO_PASSWORD = re.compile(r"(?:[a-z]+(?:ed|ing)|invalid|too|unable)[.,!?]*$", re.I)


def password(value: str) -> str:
    """A password without the punctuation after it; "" for words such as "wrong" that are no password."""
    value = value.rstrip(".,;?\"'")
    plain = value.rstrip("!")
    return "" if _NO_PASSWORD.match(value) or plain.lower() in WORD_LISTS["not_names"] else value


def _coded(value: str) -> str:
    """A password that has a digit, else "": after the bare word "password", an ordinary word may follow."""
    value = password(value)
    return value if any(map(str.isdigit, value)) else ""


def _iban(value: str) -> str:
    from stdnum import iban

    # The match may include the next words: drop words from its end until the checksum is valid.
    while value and not iban.is_valid(value):
        value = value.rpartition(" ")[0]
    return value


def _phone(number: str) -> str:
    """The number if libphonenumber accepts it, else "": with a country code any country, else China, the UK, the US."""
    import phonenumbers

    written = "+" + number[2:] if number.startswith("00") else number
    for region in (None,) if written.startswith("+") else ("CN", "GB", "US"):
        with contextlib.suppress(phonenumbers.NumberParseException):
            # "Possible" and not "valid": number ranges reserved for fiction are typed into forms too.
            if phonenumbers.is_possible_number(phonenumbers.parse(written, region)):
                return number
    return ""


def _card(run: str) -> str:
    """The part of a run of digits that is a card number by length, first digit and Luhn checksum; "" for none."""
    groups = list(re.finditer(r"\d+", run)) if len(run) >= 13 else []
    if not groups or len(groups) > 40:
        return ""  # too many groups for a card number, and too slow to try them all
    from stdnum import luhn

    for first, group in enumerate(groups):
        digits, best = "", 0
        for last in groups[first : first + 19]:
            digits += last[0]
            if 13 <= len(digits) <= 19 and digits[0] in "23456" and luhn.is_valid(digits):
                best = last.end()
        if best and not re.match(r"20\d{6}", run[group.start() :]):
            return run[group.start() : best]
    return ""


# --- Patterns of one kind each; their order is set at the end of the module

_EMAIL = re.compile(
    r"[A-Za-z0-9\u00c0-\u024f_%+-](?:[A-Za-z0-9\u00c0-\u024f._%+-]{0,63}+)@\s?"
    r"[A-Za-z0-9\u00c0-\u024f-]{1,63}+(?:\.[A-Za-z0-9\u00c0-\u024f-]{1,63}+){1,8}(?<=[A-Za-z\u00c0-\u024f])"
)
# "jane (at) host dot com"; without brackets it must end in a common top-level domain.
_SPELLED_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._-])[A-Za-z0-9_+-]{1,40}+(?:(?:\.|\s?[(\[]dot[)\]]\s?|\sdot\s)[A-Za-z0-9_+-]{1,40}+){0,3}"
    r"(?:\s?[(\[{<]\s?at\s?[)\]}>]\s?[A-Za-z0-9-]{1,40}+"
    r"(?:(?:\s?[(\[{<]\s?dot\s?[)\]}>]\s?|\sdot\s|\.)[A-Za-z0-9-]{1,40}+){1,3}"
    r"|\sat\s[A-Za-z0-9-]{1,40}+(?:(?:\s?[(\[]dot[)\]]\s?|\sdot\s)[A-Za-z0-9-]{1,40}+){0,2}"
    r"(?:\s?[(\[]dot[)\]]\s?|\sdot\s)(?:com|net|org|edu|gov|io|cn|uk|de|fr|co|me|info)(?![A-Za-z]))",
    re.I,
)
_PASSWORD = re.compile(
    r"(?:(?<![a-z])(?:pass ?(?:word|code|phrase)|pwd?)(?:\s{1,2}(?:is|was)\b|\s{0,2}[:=])"
    r"|(?:密码|口令)\s{0,2}(?:是|为|[:=]|[设改]成了?))\s{0,2}[\"'“”:]?([!-~]{3,64})",
    re.I,
)
# A value with a digit after a word for a secret, and before it: "tiger23 is my password".
_CODED_PASSWORD = named(_SECRET, r"(?=[!-~]{0,20}\d)[!-~]{4,64}", _SECRET_ZH)
_PASSWORD_BEFORE = re.compile(
    rf"(?<![!-~])((?=[!-~]{{0,20}}\d)[!-~]{{4,64}})\s(?:is|was|for|as)\s(?:my|the|our)\s(?:\w{{1,8}}\s)?(?:{_SECRET}){END}",
    re.I,
)
# A PIN in the next sentence: "You want my PIN? It's either 1234 or 4321".
_PIN_LATER = re.compile(
    r"(?<![a-z])pin(?![a-z])[^\d\n.!?$€£¥\0]{0,30}"
    r"(?:[.!]\s{1,2}(?:maybe\.\s)?(?:it's|its|it is|it was|i think it's)\s(?:either\s)?)?"
    r"(\d{3,8})(?![\d:])(?:\s(?:or|and)\s(\d{3,8})(?![\d:]))?",
    re.I,
)
# An access code; postal, area, discount and error codes are excluded.
_CODE = re.compile(
    r"(?<!zip )(?<!postal )(?<!area )(?<!promo )(?<!discount )(?<!country )(?<!error )(?<!post)(?<![a-z])code"
    r"(?:\s{1,2}(?:i got|i received|you sent(?: me)?))?(?:\s{1,2}(?:is|was|says|said))?\s{0,2}[:=]?\s{0,2}"
    rf"(\d{{4,8}}{END}(?!:)|\d{{3}}[ -]\d{{3}}{END}|(?=[A-Za-z]{{0,7}}\d)(?-i:[A-Z0-9]){{4,12}}{END})",
    re.I,
)
# "The code I got is tiger5526": letters and digits, chosen by a person.
_CODE_IS = re.compile(
    r"(?<!promo )(?<!discount )(?<!error )(?<![a-z])code(?:\s{1,2}(?:i got|i received|i set|you sent(?: me)?))?"
    r"\s{1,2}(?:is|was)\s([A-Za-z][!-~]{5,40})",
    re.I,
)
_CHINESE_IDENTITY = re.compile(
    r"(?<!\d)[1-9]\d{5}[ -]?(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])[ -]?\d{3}[\dXx](?!\d)"
)
_SSN = re.compile(r"(?<![\d-])\d{3}(?:-\d{2}-|\s\d{2}\s)\d{4}(?![\d-])")
# With other words in between: "correct the passport on the ticket to …".
_IDENTITY_NEAR = re.compile(rf"(?<![a-z])(?:{_IDENTITY})(?![a-z])[^\d\n.!?\0]{{1,40}}?{START}({_ID_CODE})", re.I)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}(?![A-Z0-9])", re.I)
_ORDER_NUMBERED = re.compile(
    rf"(?<![a-z])(?:{_ORDER})\s?(?:confirmation|reference|tracking|booking)?{_NUMBERED}{LINK}"
    rf"(\d{{3}}\s\d{{3}}\s\d{{3}}{END}|{TOKEN})(?:\s{{1,2}}(?:or|and)\s{{1,2}}({TOKEN}))?",
    re.I,
)
_ORDER_CHINESE = re.compile(rf"(?:{_ORDER_ZH}){LINK}({TOKEN})(?=.|$){UNITS}", re.S)
_BEFORE_ORDER_CHINESE = re.compile(rf"{START}((?=[A-Za-z-]{{0,4}}\d{{4}}){TOKEN})这个?(?:{_ORDER_ZH})")
_ORDER_PLAIN = re.compile(rf"(?<![a-z])(?:{_ORDER}),?\s({_LONG_TOKEN}|\d{{3}}\s\d{{3}}\s\d{{3}}{END}){UNITS}", re.I)
_ORDER_CAPITALS = re.compile(rf"(?<![a-z])(?:{_ORDER})\s?(?:{_NUMBERED}{LINK})?({_CAPITALS})", re.I)
_ORDER_MINE = re.compile(
    r"(?<![a-z])(?:my|the|this|that|our|an?|for|about|of|with|cancel|track|return|from)\s(?:\w{1,12}\s)?"
    rf"(?:{_ORDER})\s(?=[A-Za-z-]{{0,8}}\d{{3}})({TOKEN}){UNITS}",
    re.I,
)
_ORDER_DONE = re.compile(rf"(?<![a-z])(?:cancel|track|trace|where(?:'s| is))\s({_LONG_TOKEN}|{_CAPITALS}){UNITS}", re.I)
# Codes that are recognised by their form alone: those of shops, carriers and airlines, and mixed letters and digits.
_ORDER_FORM = re.compile(
    r"(?<![\w&#])#\s?[A-Z]{0,4}-?\d{4,20}(?:-[A-Z0-9]{1,12}){0,3}(?!\w)"
    r"|(?<![A-Za-z0-9-])(?:"
    r"(?:ORD|ORDER|INV|REF|TRK|BKG?|TKT|SO|PO|RMA|CASE|RES|CONF)[-#]?[A-Z]?\d{3,20}(?:-[A-Z0-9]{1,12}){0,3}"
    r"|[A-Z]{2,5}[-/]\d{2,12}[-/][A-Z0-9]{2,14}|[A-Z]{1,5}-\d{5,14}|1Z[0-9A-Z]{16}|[A-Z]{2}\d{9}[A-Z]{2}"
    r"|(?:SF|YT|JD|JDVB|JDV|ZTO|STO|JT)\d{10,15}|\d{3}-\d{7}-\d{7}|20\d{6}-\d{3,8}|[A-Z]-\d{3}/\d{2}"
    r"|[A-Z]{1,3}\d{6,12}|(?=[A-Z0-9]{0,8}[A-Z][A-Z0-9]{0,8}[A-Z])(?=[A-Z0-9]{0,8}\d[A-Z]{0,8}\d)[A-Z0-9]{6,9}"
    r")(?![A-Za-z0-9])"
)
_CARD_NAMED = named(
    r"(?:credit |debit |bank |gift |payment )?card", r"\d(?:[ -]{0,2}\d){11,18}(?![\w])", "银行卡号?|信用卡号?|卡号"
)
_CARD_END = re.compile(r"(?:ending|ends)\s(?:in|with)\s(\d{4})(?!\d)|尾号(?:是|为)?\s?(\d{4})(?!\d)", re.I)
_ACCOUNT_NAMED = named(
    _ACCOUNT,
    rf"(?=(?:[A-Za-z]{{0,4}}[ -]?\d){{1}})[A-Za-z]{{0,4}}-?\d(?:[ -]?\d){{3,23}}{END}(?!:){UNITS}",
    _ACCOUNT_ZH,
)
# User names on other services.
_USER_NAME = re.compile(
    r"(?:(?<![a-z])(?:user ?name|user id|login|wechat(?: id)?|skype)(?:\s(?:is|was)\b|\s?[:=])"
    r"|(?:微信号?|QQ号?|用户名)(?:是|为|[:= ])?)\s?(?:is\s)?([A-Za-z0-9][A-Za-z0-9._-]{3,39})",
    re.I,
)
_BORN = re.compile(
    r"(?:\bborn(?:\s(?:on|in))?|\bdate of birth|\bd\.?o\.?b\b\.?|\bbirth ?(?:day|date)(?=\s?(?:is|was|as|of|:|=|on|'s))"
    rf"|出生年月日?|出生日期|出生|生日|生于){LINK}(?:the\s)?({DATE})",
    re.I,
)
_BORN_CHINESE = re.compile(rf"({DATE})\s?(?:出生|生的|生日)", re.I)
_PHONE_NAMED = named(_PHONE, rf"\+?\(?\d(?:[ .()-]{{0,2}}\d){{5,14}}{END}(?!:)", _PHONE_ZH)
_PHONE_FORM = re.compile(
    r"(?<![A-Za-z0-9_+])(?:\+|00)\d{1,3}[ .-]?\(?\d(?:[ .()-]{0,2}\d){5,13}(?!\d)"  # international
    r"|(?<![\d+-])(?:\+?86[ -]?)?1[3-9]\d[ -]{0,2}\d{4}[ -]{0,2}\d{4}(?!\d)"  # Chinese mobile
    r"|(?<![\d+-])(?:\+?1[ .-]?)?(?:\(\d{3}\)\s?|\d{3}[ .-])\d{3}[ .-]?\d{4}(?![\d-])"  # American
    r"|(?<![\d+-])\(?0\d{2,4}\)?[ -]{0,2}\d{3,4}[ -]?\d{3,4}(?:-\d{1,5})?(?![\d-])"  # British, Chinese landline
)
_LONG = re.compile(r"(?<!\d[.,-])(?<!\d)(?<!\d[/:])(?!\d{1,3}0+(?!\d))\d{9,}(?![\d/:-]|[.,]\d)")


def _before(words: str) -> re.Pattern[str]:
    """A code before its name: "85731890 is my account number"."""
    return re.compile(rf"(?<![\w$€£])({TOKEN})\s{{1,2}}(?:is|was|for|as)\s(?:my|the|our)\s(?:{words})(?![a-z])", re.I)


# --- Groups of rules, the most precise rules first

SURE = (
    Rule("email", _EMAIL, "@"),
    Rule("email", _SPELLED_EMAIL, "at"),
    Rule("secret", _PASSWORD, "", password),
)
USER_NAME = Rule("account", _USER_NAME)
NUMBERS = (
    Rule("secret", named(_SECRET, rf"\d(?:[ -]?\d){{2,9}}{END}(?!:)", _SECRET_ZH)),
    Rule("secret", _PIN_LATER, "pin"),
    Rule("secret", _CODE, "code"),
    Rule("secret", _CODE_IS, "code", _coded),
    Rule("secret", _CODED_PASSWORD, "", _coded),
    Rule("secret", _PASSWORD_BEFORE, " ", _coded),
    Rule("identity", _CHINESE_IDENTITY),
    Rule("identity", _SSN),
    Rule("identity", named(_IDENTITY, _ID_CODE.replace("{4}", "{1}", 1), _IDENTITY_ZH)),
    Rule("identity", _IDENTITY_NEAR),
    Rule("account", _IBAN, "", _iban),
    Rule("order", _ORDER_NUMBERED),
    Rule("order", _ORDER_CHINESE),
    Rule("order", _BEFORE_ORDER_CHINESE, "这"),
    Rule("card", _RUN, "", _card),
    Rule("card", _CARD_NAMED),
    Rule("card", _FOUR_FOURS),  # without a checksum: a digit may be mistyped
    Rule("account", _ACCOUNT_NAMED),
    Rule("secret", _before(_SECRET), " "),
    Rule("account", _before(_ACCOUNT), " "),
    Rule("order", _before(_ORDER), " "),
    Rule("identity", _BORN),
    Rule("identity", _BORN_CHINESE, "生"),
    Rule("phone", _PHONE_NAMED),
    Rule("phone", _PHONE_FORM, "", _phone),
    Rule("card", _CARD_END),
    Rule("order", _ORDER_MINE),
    Rule("order", _ORDER_PLAIN, " "),
    Rule("order", _ORDER_DONE, " "),
    Rule("order", _ORDER_FORM),
    USER_NAME,
)
CAPITALS = Rule("order", _ORDER_CAPITALS)
LONG_NUMBER = Rule("account", _LONG)
