"""Personal data in messages: found, replaced by chips such as "[email 1]", and put back into what is really sent.

Values that can be checked (cards, IBANs, identity and phone numbers) are checked with python-stdnum and
phonenumbers; the rest is found by how people name it ("my PIN is …", "订单号…") or by what was asked just before.
"""

# ruff: noqa: E501 - the tables of words and rules are wide

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from retrieval.words import STOPWORDS

KINDS = ("email", "phone", "card", "account", "identity", "order", "address", "name", "secret")
CHIP = re.compile(rf"\[(?P<kind>{'|'.join(KINDS)}) (?P<number>[1-9][0-9]{{0,5}})\]")
_NEVER_PUBLIC = frozenset({"email", "card", "identity"})  # in this form they are nobody's public data


@dataclass(frozen=True, slots=True)
class Found:
    """A span of personal data: `start` and `end` count characters of the original text, half-open."""

    kind: str
    start: int
    end: int


# --- Words and rules: tables, a rule to a line
# fmt: off
# (kind, letters without which there is no match, rule, how much of a match is meant: None for all)
Rule = tuple[str, str, re.Pattern[str], Callable[[str], str] | None]
Span = tuple[str, int, int]
_GIVEN = frozenset("""aaron abby abigail adam adrian aisha alan albert alejandro alex alexander alexandra alexis alice alicia alison allison amanda amber amelia amir amy ana andre andrea andrew andy angel angela angelica anita ann anna anne annie anthony antonio april aria arthur ashley audrey austin ava barbara beatrice
    becky ben benjamin bernard beth bethany betty beverly bill billy bob bobby bonnie brad bradley brandon brenda brian brianna brooke bruce bryan caleb cameron carl carla carlos carmen carol caroline carolyn carrie catherine cathy chad charles charlie charlotte chelsea cheryl chloe chris christian
    christina christine christopher cindy claire clara claudia colin connor craig crystal cynthia daisy dan daniel daniela danielle danny dave david dawn dean deborah debra denise dennis derek diana diane diego dmitri dominic donald donna dora doris dorothy doug douglas dylan eddie edgar edith edward
    eileen elaine eleanor elena eli elijah elizabeth ella ellen emily emma eric erica erik erin ethan eugene eva evan evelyn faith fatima felix fernando fiona florence frances francis frank fred frederick gabriel gary gavin gemma george gerald gina giovanni gloria grace graham grant greg gregory hailey
    hannah harold harry harvey hassan heather hector helen henry holly hope howard hugh hugo ian ibrahim irene iris isaac isabel isabella isabelle ivan ivy jack jackson jacob jake james jamie jane janet janice jared jasmine jason jay jean jeff jeffrey jenna jennifer jenny jeremy jerry jesse jessica jill
    jim jimmy joan joanna joe joel johanna john johnny jonathan jordan jorge jose joseph josh joshua joy joyce juan judith judy julia julian julie juliet june justin karen karl katarina kate katherine kathleen kathryn kathy katie kayla keith kelly ken kenneth kevin kim kimberly kyle laura lauren laurie
    lawrence leah lee leo leon leonard leslie liam lily linda lisa logan lola lori louis louise lucas lucia lucy luis luke lydia lynn madison marcus margaret maria marie marilyn mario mark martha martin marvin mary mason mathew matt matthew maureen max may maya megan melanie melissa mia michael michelle
    miguel mike mildred miranda mohamed mohammed molly monica morgan muhammad nadia nancy naomi natalie natasha nathan neil nicholas nick nicole nina noah nora norman oliver olivia omar oscar owen pablo pamela patricia patrick paul paula pedro peggy penny peter phil philip phillip phoebe priya rachel
    rafael raj ralph ramon randy raul ray raymond rebecca renee ricardo richard rick ricky rita rob robert roberto robin rodney roger ronald ronnie rosa rosalind rose rosemary roy russell ruth ryan sabrina sally sam samantha samuel sandra santiago sara sarah scott sean sebastian sergio shane shannon
    sharon shaun shawn sheila sherry shirley simon sofia sonia sophia sophie stacy stanley stefan stella stephanie stephen steve steven stuart summer susan suzanne sydney sylvia tamara tammy tanya tara taylor ted teresa terry theodore theresa thomas tiffany tim timothy tina todd tom tommy toni tony
    tracy travis trevor tyler valerie vanessa vera veronica victor victoria vincent violet virginia vivian walter wanda wayne wendy will william winston xavier yolanda yusuf yvonne zachary zoe""".split())
# Given names that are also words, places or brands: alone in the middle of a text they are not taken for a name.
_AMBIGUOUS = frozenset("""allison amber angel antonio april aria art austin bill brooke carol chad charlotte chelsea christian craig crystal daisy dawn dean diego domingo don faith florence frances frank gene grace graham grant harvey holly hope iris ivy jack jackson jay jean jimmy jordan jose joy june kelly kim lee leo lily
    lincoln logan lola louis luis madison mark mary mason max may morgan murray pat penny ray rich rob robin rose rosemary santiago summer sydney taylor ted tim todd victor victoria violet virginia will winston""".split())
_SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石" "廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕季裴霍涂成苗谷盛曲翁冉骆蓝游辛靳管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤阳穆农卓古吉缪简芦麦褚娄窦戚岑景党宫费卜冷晏席卫柏宗瞿桂佟臧闵苟邬边卞姬师仇栾隋商刁沙荣巫寇桑郎甄丛仲虞敖巩佘池麻苑迟邝"
_SURNAME = f"(?:欧阳|司马|上官|诸葛|司徒|东方|皇甫|夏侯|尉迟|[{_SURNAMES}])"
# Words that are no name even where a name is expected: "I'm Sorry", "my name is not important".
_NO_NAME = (STOPWORDS - {"may", "will"}) | frozenset("""able absolutely access account actually afraid again agent ago ah aha alright always amazing american anonymous another anyone anything august available away awesome awful bad book booked booking bored boss bot british btw busy bye call calling can't canadian cancel cannot captain card certain
    certainly chinese code com confidential confused considering cool correct course currently customer date day dear december depends didn't doctor doesn't don't done dont dr english everyone exactly excellent excited fantastic february finally fine first flight folks following forget forgot forgotten
    free french friday friend friends full german glad god gone good goodbye gosh got great guess guys ha hang happy haven't he's headed hello help here hey hi hmm hold home hope hopefully hotel human hungry hurry i'd i'll i'm i've idk im important incorrect indian inside interested introduced
    irrelevant isn't it's italian jan january japanese jeez joking july june kidding knew last late later leaving let's listed located lol looking lost lots mad madam manager march maybe miss missing misspelled monday mr mrs ms nah name named need needed never nevermind new next nice nobody none nope
    nothing november number obviously october oh ok okay old order our outside over password perfect pin pizza planning pleased plus position possible possibly private probably question quite rank ready reservation right room sad same saturday secret security september serious service settled she's shop
    sick simply sir sirs someone something sorry spanish speaking spelled spelling start staying still stop store stuck sunday support sure surprised team terrible test thank thanks that's there's thinking thursday tired today tomorrow tonight totally traveling travelling trivia tuesday tv uh um unable
    unavailable unhappy unimportant unknown unsure upset urgent useless user vegan venue geez omg boy man dude lady very wait waiting want weather wednesday weird welcome well what's whatever where's who's won't wondering worried wow wrong yea yeah yep yesterday you're yup""".split())
# After a capitalised pair these say that it names a place: "Allison Park", "Jordan Street".
_PLACES = frozenset("""airlines airport apartment apartments ave avenue bank bar beach blvd boulevard bridge cafe camino center centre church city clinic club college county court dr drive garden gardens hall heights hill hills hospital hotel inn island lake lane library mall museum park place plaza rd real restaurant
    river road school square st station street theater theatre tower town university venue venues""".split())
_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = r"(?:\d{1,4}\s?[/.-]\s?\d{1,2}\s?[/.-]\s?\d{1,4}|\d{1,2}\s\d{1,2}\s\d{4}|\d{1,2}(?:st|nd|rd|th)?(?:\s(?:of|day of))?[\s-]" + _MONTH + r"(?:,?[\s-]\d{2,4})?|" + _MONTH + r"\s\d{1,2}(?:st|nd|rd|th)?(?:,?\s\d{2,4})?(?!\d)" + r"|\d{4}\s?年(?:\s?\d{1,2}\s?月(?:\s?\d{1,2}\s?[日号]?)?)?|\d{1,2}\s?月\s?\d{1,2}\s?[日号]?|\d{8}|\d{6}|(?:19|20)\d\d)(?!\d)"
_LINK = r"(?:\s{0,3}(?:(?:numbers?|num|no|nr|id|code|ref|reference|is|was|are|it's|its|either|should|would|be|called|of" r"|the|maybe|probably|here|i|think|set|to|on|at)\b\.?|'s\b|号码?|编号|码|是|为|叫|[=:#(\"',-])){0,6}\s{0,3}#?"
_DIGITS = r"\d(?:[ -]{0,2}\d){%d,%d}(?![\w])"
_TOKEN = r"(?=[A-Za-z-]{0,8}\d)[A-Za-z0-9]{1,24}(?:[-_/][A-Za-z0-9]{1,24}){0,4}(?![A-Za-z0-9:%])"
_OR = r"(?:\s{1,2}(?:or|and|还是|或)\s{1,2}(%s))?"
_NUMBERED = r"(?:\s{0,2}(?:number|no\b\.?|nr\b\.?|id\b|code|ref(?:erence)?\b|#)|\s{0,2}(?:is\b|:|=|#))"

def _named(words: str, value: str, zh: str = "") -> re.Pattern[str]:
    """`value` after one of `words` (English, whole words) or `zh`, with what people put between the two."""
    names = rf"(?<![a-z])(?:{words})(?![a-z])" + (f"|(?:{zh})" if zh else "")
    return re.compile(rf"(?:{names}){_LINK}({value}){_OR % value}", re.I)

_SECRET = r"pass ?(?:word|code|phrase)|pwd|cvv2?|cvc2?|(?:security|verification|access|one[- ]time|authori[sz]ation|login" r"|clearance|confirmation pin|sms) ?(?:code|password|pin)|otp|pin(?: ?(?:number|code))?"
_SECRET_ZH = "密码|验证码|校验码|动态码|安全码|口令|PIN码|取件码"
_ACCOUNT = r"(?:bank |savings |checking |current |my |the )?(?:account|acct|a/c)|member(?:ship)?(?: card)?|customer (?:id|number|no)" r"|client (?:id|number|no)|loyalty(?: card)?|frequent flyer|policy|routing|sort code|iban"
_ACCOUNT_ZH = "账号|帐号|账户|帐户|会员号?|客户号"
_ORDER = r"orders?|bookings?|reservations?|confirmation|tickets?|tracking|reference|case|invoice|shipment|parcel|package" r"|purchase|return|refund|claim|pnr|rma"
_ORDER_ZH = "订单|运单|快递单?|物流单?|单号|工单|预订号|预约号|票号|取票号|流水号|发票号"
_IDENTITY = r"passports?|ssn|social security|(?:driver'?s?|driving) licen[cs]e|national insurance|nino|identity card|id card" r"|national id|tax id|citizen id"
_PHONE = r"phone|mobile|cell ?(?:phone)?|tel|telephone|whatsapp|landline|call me|text me|ring me|reach me|my number"
_PHONE_ZH = "电话|手机号?|联系方式|座机|致电"
_UNITS = r"(?!\s{0,2}(?:dollars|usd|eur|pounds|euros|bucks|people|guests|items|元|short|块|人|个|份|%))"
_HAN = "\u4e00-\u9fff"
_NO_PASSWORD = re.compile(r"(?:[a-z]+(?:ed|ing)|invalid|too|unable)[.,!?]*$", re.I)
_CAP = r"[A-Z\u00c0-\u00de][a-z\u00df-\u024f]+(?:['-][A-Z]?[a-z\u00df-\u024f]+|[A-Z][a-z]+)*"
_WAY = r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Boulevard|Blvd|Drive|Dr|Court|Ct|Place|Pl|Terrace|Ter|Way|Square|Sq|Close|Crescent|Parkway|Pkwy|Circle|Cir|Highway|Hwy|Gardens|Grove|Mews|Row|Hill|Walk|Trail)"
_POSTCODE = r"(?:[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}|[A-Z]{2}\s\d{5}(?:-\d{4})?|\d{5}(?:-\d{4})?)"
_ADDRESS_ZH = re.compile(rf"(?:[路街道巷弄村里园]|胡同|小区|花园|公寓|大厦|新村|家园)(?:[^\W\d_a-zA-Z到在是至从]{{0,4}}?\d{{1,5}}(?:-\d{{1,5}})?号(?!线|出口|店|航站|厅)(?:院|楼)?)?" rf"(?:[{_HAN}]{{0,8}}?[A-Za-z]?\d{{1,5}}\s?(?:号楼|栋|幢|座|单元|楼|层|室|户|号|#)){{0,5}}(?:\d{{2,5}}(?!\d|元|块|人))?")
_ADDRESS_LEAD = re.compile(r"地址|[是在到至从住给于我家寄送叫的了,。;:!?、\s\0(\"]")
_NO_WORD = re.compile(r"(?:h+m+|u+g+h*|a+h+|o+h+|h+u+h|u+h+|u+m+|w+o+w+|a+w+)$", re.I)
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_MY_NAME = re.compile(r"(?<![a-z])(?:my (?:full |first |last |real )?name(?:'s| is|s)|name(?: of (?:the|my|our) \w{2,12})?(?:'s| is| was|:)|named?:|i go by|call me|i'm called|i am called)\s{1,2}(?:is\s)?", re.I)
_I_AM = re.compile(r"\b(?:I'?m|I am|[Tt]his is|[Ii]t's|[Ii]ts)\s{1,2}(?=[A-Z])")
_DEAR = re.compile(rf"\b(?:Dear|Hi|Hello|Hey|Thanks|Thank you|Cheers),?\s({_CAP}(?:\s{_CAP})?)")
_NO_NAME_ZH = re.compile(r"[了车的什吗呢]|外卖|出租|代驾|滴滴|客服|什么|怎么")
_ASKS = re.compile(r"[?]|吗|请|麻烦|提供|告诉|多少|什么|\b(?:please|provide|tell|give|need|enter|confirm|share|may i|send|what)\b", re.I)
_ASKED = tuple((kind, re.compile(rule, re.I)) for kind, rule in (
    ("word", r"maiden|\bpet\b|pet's|first school|security (?:question|answer)|password|母亲.{0,4}姓|宠物|密码|口令"),
    ("name", r"(?:your|full|first|last|family|host'?s?|customer'?s?|caller'?s?|guest'?s?|passenger'?s?|recipient'?s?) (?:\w+ )?names?\b|name of the (?:host|guest|passenger|customer|recipient|account holder)|who(?:m)? am i|what should i call|姓名|怎么称呼|如何称呼|贵姓|您?的名字|收件人|收货人|联系人"),
    ("secret", r"\bpin\b|passcode|cvv|cvc|(?:verification|security|access|one[- ]time|enter the) code|the code\b|验证码|安全码"),
    ("account", r"account(?: number)?|member(?:ship)? (?:number|id)|customer (?:number|id)|card number|账号|帐号|账户|卡号|会员号"),
    ("order", r"(?:order|booking|reservation|confirmation|ticket|tracking|reference|case|invoice)'?s? ?(?:number|id|code|no\b|reference|#)|订单|单号|预订号|编号"),
    ("date", r"date of birth|birth ?da(?:y|te)|\bdob\b|born|生日|出生"),
    ("identity", r"passport|social security|\bssn\b|licen[cs]e number|identity|身份证|护照|证件"),
    ("address", r"(?<!mail )(?<!ip )(?<!web )address|where do you live|地址|住址|住在"),
    ("phone", r"phone|mobile|contact number|cell|number to (?:call|reach)|call you back|电话|手机|联系方式"),
))
_LEAD = re.compile(r"(?:[\s,.!:;-]|\b(?:yes|yeah|yep|sure|ok|okay|of course|certainly|alright|well|oh|uh+h?|um+|hmm|hi|hello|hey|it's|its|it is|it was|it|is|was|that's|that is" r"|that would be|i'm|im|i am|this is|(?:my|her|his|the|their|our) (?:\w+ )?(?:name|one)(?:'s| is| was)?|(?:my|her|his) (?:mother|mom|pet|dog|cat)(?:'s)?|name'?s?|called|named|under|mr|mrs|ms" r"|the (?:host|guest|passenger|pet|dog|cat)|please use|for|by|i think|so|right|thanks|thank you)\b|是的?|好的?|嗯|我叫|我是|叫|我姓|免贵姓|姓|你好|您好)*", re.I)
_AFTER_NAME = re.compile(r"\s?(?:[.,!?;)\n\0。]|$|-|(?:and|from|here|but|speaking|calling|please|thanks|thank|short|is|the|i|with|for|my)\b)", re.I)
_CODES = re.compile(r"(?<![\w$€£#:.,/-])#?[A-Za-z]{0,5}-?\d(?:[ -]?[A-Za-z]?\d){1,23}(?:-?[A-Za-z0-9]{1,6})?(?![\w:%]|[.,]\d|\s?(?:am|pm|dollars|people|元|点)\b)", re.I)
_RUN = re.compile(r"(?<![\d.,])(?<!\d[/:])\d(?:[ -]{0,2}+\d)*+(?![\d/:]|[.,]\d)")
_SURE: tuple[Rule, ...] = (
    ("email", "@", re.compile(r"[A-Za-z0-9\u00c0-\u024f_%+-](?:[A-Za-z0-9\u00c0-\u024f._%+-]{0,63}+)@\s?" r"[A-Za-z0-9\u00c0-\u024f-]{1,63}+(?:\.[A-Za-z0-9\u00c0-\u024f-]{1,63}+){1,8}(?<=[A-Za-z\u00c0-\u024f])"), None),
    ("email", "at", re.compile(r"(?<![A-Za-z0-9._-])[A-Za-z0-9_-]{1,40}+(?:(?:\.|\s?[(\[]dot[)\]]\s?|\sdot\s)[A-Za-z0-9_-]{1,40}+){0,3}" r"(?:\s?[(\[{<]\s?at\s?[)\]}>]\s?[A-Za-z0-9-]{1,40}+(?:(?:\s?[(\[{<]\s?dot\s?[)\]}>]\s?|\sdot\s|\.)[A-Za-z0-9-]{1,40}+){1,3}" r"|\sat\s[A-Za-z0-9-]{1,40}+(?:(?:\s?[(\[]dot[)\]]\s?|\sdot\s)[A-Za-z0-9-]{1,40}+){0,2}" r"(?:\s?[(\[]dot[)\]]\s?|\sdot\s)(?:com|net|org|edu|gov|io|cn|uk|de|fr|co|me|info)(?![A-Za-z]))", re.I), None),
    ("secret", "", re.compile(r"(?:(?<![a-z])(?:pass ?(?:word|code|phrase)|pwd)(?:\s{1,2}(?:is|was)\b|\s{0,2}[:=])|(?:密码|口令)\s{0,2}(?:是|为|[:=]))" r"\s{0,2}[\"'“”:]?([!-~]{3,64})", re.I), lambda value: _password(value)),
)
# What has a digit in it, the surest first.
_NUMBERS: tuple[Rule, ...] = (
    ("secret", "", _named(_SECRET, r"\d(?:[ -]?\d){2,9}(?![\w:])", _SECRET_ZH), None),
    ("secret", "pin", re.compile(r"(?<![a-z])pin(?![a-z])[^\d\n.!?$€£¥\0]{0,30}(?:[.!]\s{1,2}(?:maybe\.\s)?(?:it's|its|it is|it was|i think it's)\s(?:either\s)?)?(\d{3,8})(?![\d:])(?:\s(?:or|and)\s(\d{3,8})(?![\d:]))?", re.I), None),
    ("secret", "code", re.compile(r"(?<!zip )(?<!postal )(?<!area )(?<!promo )(?<!discount )(?<!country )(?<!error )(?<!post)(?<![a-z])code" r"(?:\s{1,2}(?:is|was|i got is|you sent(?: me)? is))?\s{0,2}[:=]?\s{0,2}(\d{4,8})(?![\w:])", re.I), None),
    ("identity", "", re.compile(r"(?<!\d)[1-9]\d{5}[ -]?(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])[ -]?\d{3}[\dXx](?!\d)"), None),
    ("identity", "", re.compile(r"(?<![\d-])\d{3}(?:-\d{2}-|\s\d{2}\s)\d{4}(?![\d-])"), None),
    ("identity", "", _named(_IDENTITY, r"(?=[A-Za-z ]{0,4}\d)[A-Za-z0-9](?:[ -]?[A-Za-z0-9]){4,19}(?![A-Za-z0-9])", "身份证号?|护照号?|证件号?|驾驶证号?"), None),
    ("account", "", re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}(?![A-Z0-9])", re.I), lambda value: _iban(value)),
    ("order", "", re.compile(rf"(?<![a-z])(?:{_ORDER})\s?(?:confirmation|reference|tracking|booking)?{_NUMBERED}{_LINK}({_TOKEN}|(?-i:[A-Z]{{6}}\b)){_OR % _TOKEN}", re.I), None),
    ("order", "", re.compile(rf"(?:{_ORDER_ZH}){_LINK}({_TOKEN})(?=.|$){_UNITS}"), None),
    ("card", "", _RUN, lambda value: _card(value)),
    ("card", "", _named(r"(?:credit |debit |bank |gift |payment )?card", _DIGITS % (11, 18), "银行卡号?|信用卡号?|卡号"), None),
    ("card", "", re.compile(r"(?<![\d.,])(?<!\d[/: -])\d{4}(?:[ -]\d{4}){3}(?![\d-]| \d)"), None),  # even with a digit mistyped
    ("account", "", _named(_ACCOUNT, rf"(?=(?:[A-Za-z]{{0,4}}[ -]?\d){{1}})[A-Za-z]{{0,4}}-?\d(?:[ -]?\d){{3,23}}(?![\w:]){_UNITS}", _ACCOUNT_ZH), None),
    *((kind, " ", re.compile(rf"(?<![\w$€£])({_TOKEN})\s{{1,2}}(?:is|was|for|as)\s(?:my|the|our)\s(?:{words})(?![a-z])", re.I), None) for kind, words in (("secret", _SECRET), ("account", _ACCOUNT), ("order", _ORDER))),
    ("identity", "", re.compile(rf"(?:\bborn(?:\s(?:on|in))?|\bdate of birth|\bd\.?o\.?b\b\.?|\bbirth ?(?:day|date)(?=\s?(?:is|was|:|=|on))|出生日期|出生|生日|生于)" rf"{_LINK}(?:the\s)?({_DATE})", re.I), None),
    ("identity", "", re.compile(rf"({_DATE})\s?(?:出生|生的|生日)"), None),
    ("phone", "", _named(_PHONE, r"\+?\(?\d(?:[ .()-]{0,2}\d){5,14}(?![\w:])", _PHONE_ZH), None),
    ("phone", "", re.compile(r"(?<![\w+])(?:\+|00)\d{1,3}[ .-]?\(?\d(?:[ .()-]{0,2}\d){5,13}(?!\d)" r"|(?<![\d+-])(?:\+?86[ -]?)?1[3-9]\d[ -]{0,2}\d{4}[ -]{0,2}\d{4}(?!\d)" r"|(?<![\d+-])(?:\+?1[ .-]?)?(?:\(\d{3}\)\s?|\d{3}[ .-])\d{3}[ .-]?\d{4}(?![\d-])" r"|(?<![\d+-])\(?0\d{2,4}\)?[ -]{0,2}\d{3,4}[ -]?\d{3,4}(?:-\d{1,5})?(?![\d-])"), lambda value: value if _is_phone(value) else ""),
    ("card", "", re.compile(r"(?:ending|ends)\s(?:in|with)\s(\d{4})(?!\d)|尾号(?:是|为)?\s?(\d{4})(?!\d)", re.I), None),
    ("address", " ", re.compile(rf"(?:(?:Flat|Apt\.?|Apartment|Unit|Suite)\s[\w-]{{1,6}},?\s)?(?<![\w.,$€£/-])\d{{1,5}}[A-Za-z]?(?:-\d{{1,5}})?\s" rf"(?:(?:(?:{_CAP}\.?|[NSEW]\.?|\d{{1,3}}(?:st|nd|rd|th))\s){{1,4}}{_WAY}\b(?:\.(?=[, ]))?" rf"|(?!(?:\w+\s)?(?:blocks?|minutes?|miles?|hours?|on|of|the|to|from|down|at|and|in|for)\s)(?:[a-z]+\s){{1,2}}(?:street|avenue|road|lane|boulevard)\b)" rf"(?:,?\s(?:Apt|Apartment|Suite|Unit|Flat|Floor|#)\.?\s?[\w-]{{1,6}}\b)?" rf"(?:,\s{{0,2}}(?!(?:Please|Thanks|I|My|The|And|It|We)\b){_CAP}(?:\s{_CAP}){{0,3}}){{0,3}}(?:,?\s{_POSTCODE}(?!\w))?" rf"|\bP\.?\s?O\.?\s(?:Box|BOX)\s\d{{1,6}}|\b[A-Z]{{1,2}}\d[A-Z\d]?\s\d[A-Z]{{2}}\b"), None),
    ("order", "", re.compile(rf"(?<![a-z])(?:my|the|this|that|our|an?|for|about|of|with|cancel|track|return|from)\s(?:\w{{1,12}}\s)?(?:{_ORDER})" rf"\s(?=[A-Za-z-]{{0,8}}\d{{3}})({_TOKEN}){_UNITS}", re.I), None),
    ("order", "", re.compile(r"(?<![\w&#])#\s?[A-Z]{0,4}-?\d{4,20}(?:-[A-Z0-9]{1,12}){0,3}(?!\w)" r"|(?<![A-Za-z0-9-])(?:(?:ORD|ORDER|INV|REF|TRK|BKG?|TKT|SO|PO|RMA|CASE|RES|CONF)[-#]?[A-Z]?\d{3,20}(?:-[A-Z0-9]{1,12}){0,3}" r"|[A-Z]{2,5}-\d{2,12}-\d{2,14}|[A-Z]{2,5}-\d{5,14}|1Z[0-9A-Z]{16}|[A-Z]{2}\d{9}[A-Z]{2}" r"|(?:SF|YT|JD|JDVB|JDV|ZTO|STO|JT)\d{10,15}|\d{3}-\d{7}-\d{7})(?![A-Za-z0-9])"), None),
    ("account", "", re.compile(r"(?:(?<![a-z])(?:user ?name|user id|login|wechat(?: id)?|skype)(?:\s(?:is|was)\b|\s?[:=])|(?:微信号?|QQ号?|用户名)(?:是|为|[:= ])?)" r"\s?(?:is\s)?([A-Za-z0-9][A-Za-z0-9._-]{3,39})", re.I), None),
)
_TITLES: tuple[Rule, ...] = (
    ("account", "", _NUMBERS[-1][2], None),
    ("name", "m", re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Mister)\b\.?\s((?:{_CAP})(?:\s{_CAP})?)"), None),
    ("name", "", re.compile(rf"(?:\b(?:regards|sincerely|respectfully|yours truly|faithfully),?\s{{0,3}}|\b(?:best(?: wishes)?|thanks|thank you|cheers|love)[,!.]?[ ]{{0,2}}\n\s{{0,3}}|\n\s{{0,3}}[-]{{1,2}}\s?)" rf"((?-i:{_CAP}(?:\s[A-Z]\.)?(?:\s{_CAP}){{0,2}}))[.!]?\s{{0,3}}$", re.I), lambda value: value if all(len(word) < 3 or _is_name(word) for word in value.split()) else ""),
)
_CHINESE: tuple[Rule, ...] = (("name", "", re.compile(rf"(?:我叫|我名叫|名字叫|名字是|我的名字是|姓名|收件人|收货人|联系人|预订人|预定人|入住人|乘客|本人)\s?(?:是|叫|为|:)?\s?" rf"({_SURNAME}(?:[{_HAN}]{{1,2}}|某{{1,2}})(?![{_HAN}])|{_SURNAME}[{_HAN}]{{1,2}}?(?=[的想要,。的是在有和]))" rf"|我叫\s?([{_HAN}]{{2,3}})(?=[,。!;\s]|$)|(?:我|免贵|本人)姓\s?({_SURNAME})" rf"|(?:我是|这里是)\s?({_SURNAME}[{_HAN}]{{1,2}})(?<![员人户生级的了家客])(?=[,。!;\s]|$)" rf"|(?<![上下每本这那])({_SURNAME}[{_HAN}]{{0,2}}?(?:女士|先生|小姐|太太))"), lambda value: "" if _NO_NAME_ZH.search(value) else value),)
_ORDINARY = STOPWORDS | _AMBIGUOUS | _NO_NAME
_NO_CUSTOMER = re.compile(r"(?:\bDr\.?|\b[Dd]octor|\bProf\.?|\b[Pp]rofessor|\bSt\.?|\bSan|\bSanta) $")
_SAID_NAME = re.compile(r"\b(?:named|called|name (?:is|was)|name's)\s(?=\w)")
_SAID_WORD = re.compile(r"\b(?:named|called|name (?:is|was)|name's)\s(?=\w)|\b(?:is|was)\s(?=[A-Z])")
_BARE_HAN = re.compile(rf"(?!不知道|没有|谢谢|忘|不记得|可以|对的|当然|不用|不想|不方便)(?:{_SURNAME}?[{_HAN}]{{1,3}})(?=[,。!;\s的]|$)")
_BARE_SECRET = re.compile(r"(?![A-Za-z]+\s*$)[!-~]{4,64}(?=\s*$)")
_BARE_ADDRESS = re.compile(r"(?<![\w$])(?!\d+\s?(?:am|pm|people|days?|minutes?|hours?|dollars)\b)(\d{1,5}[A-Za-z]?,?\s+[A-Za-z][^\n.!?;\0]{3,100})", re.I)
_BARE_ADDRESS_ZH = re.compile(rf"(?:^|[,。\s])(?:我(?:的|家)?)?(?:收货)?(?:地址|住址)?(?:是|在|住在?|寄到|送到)?([{_HAN}\dA-Za-z-]{{1,40}}?[省市区县镇乡村路街号楼室栋][{_HAN}\dA-Za-z-]{{0,40}})")
_BARE: dict[str, Rule] = {"date": ("identity", "", re.compile(rf"(?<!\d)(?:{_DATE})", re.I), None), "phone": ("phone", "", re.compile(r"\+?\(?\d(?:[ .()-]{0,2}\d){5,14}(?![\w:])"), None)}
_LONG_NUMBER: Rule = ("account", "", re.compile(r"(?<![\d.,-])(?<!\d[/:])(?!\d{1,3}0+(?!\d))\d{9,}(?![\d/:-]|[.,]\d)"), None)
# fmt: on


class _Fold(dict[int, int | None]):
    """One character to one: full-width and styled letters and digits to ASCII, one kind of hyphen, space and quote."""

    def __missing__(self, code: int) -> int | None:
        char = chr(code)
        # Zero-width characters (Cf) split a number for a program, and not for a reader.
        plain = {"Cf": "", "Pd": "-", "Zs": " "}.get(category := unicodedata.category(char))
        if plain is None:
            folded = "'" if char in "‘’" else unicodedata.normalize("NFKC", char)
            plain = folded if len(folded) == 1 and folded.isascii() else char
            plain = str(unicodedata.decimal(char)) if category == "Nd" else plain
        self[code] = ord(plain) if plain else None
        return self[code]


_FOLD = _Fold()


def _fold(text: str) -> tuple[str, list[int] | None]:
    """The text as rules read it, chips blanked by NULs, and where its characters stood (None: where they stand)."""
    text = CHIP.sub(lambda chip: "\0" * len(chip[0]), text)
    plain = text if text.isascii() else text.translate(_FOLD)
    if len(plain) == len(text):
        return plain, None
    return plain, [at for at, char in enumerate(text) if _FOLD[ord(char)] is not None]


def _spans(rules: Iterable[Rule], plain: str) -> Iterator[Span]:
    """What the groups of the rules match, or the whole match where a rule has none."""
    lower = plain.lower()
    for kind, needle, rule, meant in rules:
        for match in rule.finditer(plain) if needle in lower else ():
            for group in range(1 if rule.groups else 0, rule.groups + 1):
                if value := match[group] or "":
                    at = match.start(group)
                    part = value if meant is None else meant(value)
                    # A card may stand in the middle of a run of digits.
                    at += max(value.find(part), 0)
                    yield kind, at, at + len(part)


def _password(value: str) -> str:
    value = value.rstrip(".,;!?\"'")
    return "" if _NO_PASSWORD.match(value) or value.lower() in _NO_NAME else value


def _iban(value: str) -> str:
    from stdnum import iban

    # The rule may have run on into the next words.
    while value and not iban.is_valid(value):
        value = value.rpartition(" ")[0]
    return value


def _is_phone(number: str) -> bool:
    """Whether libphonenumber takes it for a number of the world, or of the US, the UK or China."""
    import phonenumbers

    number = "+" + number[2:] if number.startswith("00") else number
    for region in (None,) if number.startswith("+") else ("CN", "GB", "US"):
        with contextlib.suppress(phonenumbers.NumberParseException):
            # Ranges kept for fiction are possible and not valid; people type them into forms all the same.
            if phonenumbers.is_possible_number(phonenumbers.parse(number, region)):
                return True
    return False


def _card(run: str) -> str:
    """The part of a run of digits that is a card's number, "" when none is."""
    groups = list(re.finditer(r"\d+", run)) if len(run) >= 13 else []
    if not groups or len(groups) > 40:
        return ""  # more groups are no card, and too much to try
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


def _addresses_zh(plain: str) -> Iterator[Span]:
    for match in _ADDRESS_ZH.finditer(plain):
        if not re.search(r"\d号|\d[^\d]{1,6}\d", match[0]):
            continue
        # Names of provinces, cities and streets have no grammar: go back to what introduces an address.
        start = match.start()
        while start and match.start() - start < 40 and not _ADDRESS_LEAD.match(plain[start - 1]):
            start -= 1
        start += 2 if plain.startswith("地址", start) else 0
        if start < match.start():
            yield "address", start, match.end()


def _is_name(word: str) -> bool:
    """Whether a word can be a name where one is expected."""
    return not _NO_WORD.match(word) and word.lower() not in _NO_NAME and 1 < len(word) < 30


def _take_name(plain: str, start: int, capital: bool, most: int = 3) -> int:
    """Where a name that starts at `start` ends; `start` when there is none. `capital`: small letters are no name."""
    end, first = start, ""
    for _ in range(most):
        word = _WORD.match(plain, end + bool(first))
        if not word or (first and not plain.startswith(" ", end)):
            break
        initial = bool(first) and len(word[0]) == 1 and word[0].isupper() and plain.startswith(".", word.end())
        unlike = word[0][0].islower() if capital or first[:1].isupper() else False
        if unlike or not (initial or _is_name(word[0])) or (first.istitle() and word[0].isupper() and not initial):
            break
        first, end = first or word[0], word.end() + initial
    return end - 2 if plain[start:end].endswith("'s") else end


def _introduced(plain: str) -> Iterator[Span]:
    for match in _MY_NAME.finditer(plain):
        capital = not match[0].lower().startswith(("my", "i am called", "i'm called"))
        yield "name", match.end(), _take_name(plain, match.end(), capital)
    for match in _I_AM.finditer(plain):
        end = _take_name(plain, match.end(), capital=True)
        first = plain[match.end() : end].partition(" ")[0]
        # An unknown word must stand as a name does: "I'm Kylo, …", and not "I'm Canadian born".
        stands = (
            r"\s?(?:[.,!;]|$|and\b|from\b|calling\b|here\b)" if match[0][1] in "'m " else r"\s(?:calling|speaking)\b"
        )
        unknown = first.istitle() and not first.endswith(("ian", "ish", "ese", "ing", "ed"))
        given = first.lower() in _GIVEN and not re.match(r" \d", plain[end : end + 2])
        if given or (unknown and re.match(stands, plain[end : end + 10])):
            yield "name", match.end(), end
    for match in _DEAR.finditer(plain):
        first = match[1].partition(" ")[0]
        if first.lower() in _GIVEN or (match[0].startswith("Dear") and _is_name(first)):
            yield "name", match.start(1), _take_name(plain, match.start(1), capital=True, most=2)
    yield from _spans(_TITLES, plain)


def _given(plain: str) -> Iterator[Span]:
    """Given names on their own or before a surname, unless a doctor's, a place's or an ordinary word."""
    for word in _WORD.finditer(plain):
        name = word[0].removesuffix("'s")
        if not name.istitle() or name.lower() not in _GIVEN or _NO_CUSTOMER.search(plain[: word.start()][-12:]):
            continue
        following = _WORD.match(plain, word.end() + 1) if plain.startswith(" ", word.end()) else None
        after = _WORD.match(plain, following.end() + 1) if following else None
        if any(one and one[0].lower() in _PLACES and one[0][0].isupper() for one in (following, after)):
            continue
        if following and following[0].istitle() and _is_name(following[0]) and name == word[0] not in ("Will", "May"):
            yield "name", word.start(), following.end() - 2 * following[0].endswith("'s")
        elif name.lower() not in _AMBIGUOUS:
            yield "name", word.start(), word.start() + len(name)


def _known_names(plain: str, names: Iterable[str]) -> Iterator[Span]:
    """Names of this conversation, whole in any case, and their capitalised parts."""
    for name in names:
        name = _fold(name)[0].strip()
        parts = [part for part in name.split() if len(part) > 2 and part[0].isupper()]
        for wanted in dict.fromkeys((name, *parts)):
            if len(wanted) > 1 and not (wanted.islower() and wanted in _ORDINARY):
                flags = 0 if wanted.lower() in _ORDINARY or wanted != name else re.I
                yield from _spans([("name", "", re.compile(_whole(wanted), flags), None)], plain)


def _whole(value: str) -> str:
    """A pattern for a value that does not stand inside a longer word or number; Chinese has no such edges."""
    before = r"(?<![A-Za-z0-9])" if value[0].isascii() and value[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])" if value[-1].isascii() and value[-1].isalnum() else ""
    return before + re.escape(value) + after


def _answers(plain: str, asked: str) -> Iterator[Span]:
    """The bare answer to what the agent asked for: it says nothing of what it is."""
    sentences = re.split(r"(?<=[?!。\n])|(?<=[.])\s", _fold(asked)[0])
    request = "\n".join(sentence for sentence in sentences if _ASKS.search(sentence))
    kinds = [kind for kind, rule in _ASKED if rule.search(request)]
    for kind in kinds:
        if kind in ("name", "word"):
            yield from _bare_words(plain, "secret" if kind == "word" else "name", len(kinds) > 1)
        elif kind == "address":
            yield from _bare_address(plain)
        elif kind in _BARE:
            yield from _spans([_BARE[kind]], plain)
    coded = [kind for kind in kinds if kind in ("secret", "account", "order", "identity")]
    # Who cannot tell his birthday or his pet's name offers his PIN instead.
    kind = coded[0] if coded else "secret" if {"word", "date"} & {*kinds} else ""
    least = {"order": 2}.get(kind, 3 if coded else 4)
    for _, start, end in _spans([(kind, "", _CODES, None)], plain) if kind else ():
        if sum(map(str.isdigit, plain[start:end])) >= least:
            yield kind, start, end


def _bare_words(plain: str, kind: str, capital: bool) -> Iterator[Span]:
    """A name, or the word that answers a security question; `capital` when more than that was asked for."""
    if named := (_SAID_WORD if kind == "secret" else _SAID_NAME).search(plain):
        end = _take_name(plain, named.end(), capital=True)
        if kind == "secret" or end == len(plain.rstrip(" .!")):
            yield kind, named.end(), end
    lead = _LEAD.match(plain)
    start = lead.end() if lead else 0
    if (han := _BARE_HAN.match(plain, start)) and not _NO_NAME_ZH.search(han[0]):
        yield kind, start, han.end()
    if "\u4e00" <= plain[start : start + 1] <= "\u9fff":
        return
    end = _take_name(plain, start, capital, most=4)
    word = _WORD.match(plain, start)
    given = bool(word and word[0].lower() in _GIVEN)
    end = word.end() if word and given and end == start else end
    if end > start and (given or _AFTER_NAME.match(plain, end)):
        yield kind, start, end
    elif kind == "secret" and (word := _BARE_SECRET.match(plain, start)):
        yield kind, start, word.end()


def _bare_address(plain: str) -> Iterator[Span]:
    yield from _addresses_zh(plain)
    if match := _BARE_ADDRESS.search(plain) or _BARE_ADDRESS_ZH.search(plain):
        yield "address", *match.span(1)


def _candidates(plain: str, asked: str, names: Collection[str]) -> Iterator[Span]:
    """All spans, the surest first; a later one that overlaps an earlier one is dropped."""
    digits = any(map(str.isdigit, plain))
    yield from _spans(_SURE, plain)
    yield from _known_names(plain, names)
    if digits:
        yield from _spans(_NUMBERS, plain)
        yield from _addresses_zh(plain)
    yield from _introduced(plain)
    if asked:
        yield from _answers(plain, asked)
    yield from _given(plain)
    if not plain.isascii():
        yield from _spans(_CHINESE, plain)
    if digits:
        yield from _spans([_LONG_NUMBER], plain)


def find(text: str, *, asked: str = "", names: Collection[str] = ()) -> list[Found]:
    """Personal data in `text`, in order and without overlaps; chips are left alone.

    `asked` is what the agent said just before, which makes a bare answer personal; `names` are names known from
    this conversation.
    """
    plain, places = _fold(text)
    taken = bytearray(len(plain))
    found: list[Found] = []
    for kind, start, end in _candidates(plain, asked, names):
        value = plain[start:end].strip()
        start += plain[start:end].find(value)
        end = start + len(value)
        if value and taken.find(1, start, end) < 0 and "\0" not in value:
            taken[start:end] = b"\1" * len(value)
            found.append(Found(kind, start, end) if places is None else Found(kind, places[start], places[end - 1] + 1))
    return sorted(found, key=lambda one: one.start)


class Vault:
    """The personal data of one conversation, each value under its chip, in order of appearance."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """`values` is what `values()` gave; ValueError for a key that is no chip and for an empty value."""
        self._values = dict(values or {})
        for chip, value in self._values.items():
            if not CHIP.fullmatch(chip) or not value:
                raise ValueError(f"{chip!r} is no chip like '[email 1]' with a value; give what Vault.values() gave")

    def mask(self, text: str, asked: str = "") -> str:
        """A customer's text with chips for his data. Typed brackets that only look like a chip become round ones."""
        return self._mask(text, lambda rest: find(rest, asked=asked, names=self._names()))

    def mask_known(self, text: str) -> str:
        """An agent's text with chips for what is already known, and for what is never a public place's."""
        return self._mask(text, lambda rest: [one for one in find(rest) if one.kind in _NEVER_PUBLIC])

    def unmask(self, text: str) -> str:
        """The text with the values in place of their chips; a chip that is not of this vault stays."""
        return CHIP.sub(lambda chip: self._values.get(chip[0], chip[0]), text)

    def values(self) -> dict[str, str]:
        """Chip to value, in order of appearance."""
        return dict(self._values)

    def chips(self) -> dict[str, str]:
        """Chip to kind, in order of appearance."""
        return {chip: chip[1:].partition(" ")[0] for chip in self._values}

    def _names(self) -> list[str]:
        return [value for chip, value in self._values.items() if chip.startswith("[name ")]

    def _mask(self, text: str, finder: Callable[[str], list[Found]]) -> str:
        text = CHIP.sub(lambda chip: chip[0] if chip[0] in self._values else f"({chip[0][1:-1]})", text)
        before = None
        # A chip changes what stands beside it, so look again until nothing is found: masking twice changes nothing.
        while text != before:
            before, end, parts = text, 0, list[str]()
            for one in finder(text):
                parts += text[end : one.start], self._chip(one.kind, text[one.start : one.end])
                end = one.end
            text = self._replace_known("".join(parts) + text[end:])
        return text

    def _chip(self, kind: str, value: str) -> str:
        for chip, known in self._values.items():
            if known == value:
                return chip
        numbers = [int(chip[len(kind) + 2 : -1]) for chip in self._values if chip.startswith(f"[{kind} ")]
        chip = f"[{kind} {max(numbers, default=0) + 1}]"
        self._values[chip] = value
        return chip

    def _replace_known(self, text: str) -> str:
        # "16" and "will" say too many other things to be looked for everywhere.
        telling = {
            value: chip
            for chip, value in self._values.items()
            if (len(value) > 2 or (len(value) == 2 and value.isalpha())) and value not in _ORDINARY
        }
        wanted = "|".join(_whole(value) for value in sorted(telling, key=len, reverse=True)) or r"\b\B"
        return re.sub(rf"{CHIP.pattern}|({wanted})", lambda hit: telling[hit[3]] if hit[3] else hit[0], text)


def mask(text: str, asked: str = "") -> str:
    """The text masked with a vault that nobody keeps: for text whose values are never needed again."""
    return Vault().mask(text, asked)
