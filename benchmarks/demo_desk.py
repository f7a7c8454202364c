"""Build the demo of the service desk, retrieval/demo_desk, from public conversations and the texts in this file.

    python -m benchmarks.demo_desk SUPPORT_DIR [--out retrieval/demo_desk]

SUPPORT_DIR holds star/{conversations,replies}.jsonl.gz (STAR, MIT), crosswoz/conversations.jsonl.gz (CrossWOZ,
Apache-2.0) and banking77/train.jsonl.gz (BANKING77, CC BY 4.0). The selection depends on the md5 of ids only, and the
gzip files have no timestamps, so the same input gives the same bytes. A tenth of the conversations (md5 of the id
modulo 10 equal to 0) is left out of the past cases, for evaluation; the waiting conversations are taken from this
tenth.
"""

# ruff: noqa: E501 - the tables of texts are wide

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, SavedReply
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.exchange import read_rows

STAR, CROSSWOZ, QUESTIONS = 1_200, 400, 25  # conversations, conversations, questions per intent
WAITING_KNOWN, WAITING_ASKED, WAITING_ZH = 4, 4, 6
LONGEST_WAITING = 16  # turns; longer conversations are hard to take in at a glance
COMMUNITY = "help desk"

# What an operator of a bank would say first to each of BANKING77's intents. It asks for the next detail, or says where
# to look, and states nothing that only the bank can know.
BANK_REPLIES = {
    "Refund_not_showing_up": "I can look for the refund. Which merchant is it from, for what amount, and when did they confirm it?",
    "activate_my_card": "I can help you activate your card. Do you have it with you, and what does the app show when you try?",
    "age_limit": "The age rules are in the terms for your country. Which country are you in, and is the account for you or for a child?",
    "apple_pay_or_google_pay": "I can help you set that up. Is it Apple Pay or Google Pay, and what happens when you add the card?",
    "atm_support": "I can check that for you. In which country do you want to withdraw cash, and is there a network's logo on the machine?",
    "automatic_top_up": "I can help with automatic top-ups. Do you want to switch them on, change them or switch them off?",
    "balance_not_updated_after_bank_transfer": "I can look into the transfer. When was it sent, from which bank, and for what amount?",
    "balance_not_updated_after_cheque_or_cash_deposit": "I can look into the deposit. Was it cash or a cheque, when did you pay it in, and for what amount?",
    "beneficiary_not_allowed": "I can check why this person cannot be added. Which country is their account in, and what does the message say?",
    "cancel_transfer": "I will check whether the transfer can still be stopped. When did you send it, to whom, and for what amount?",
    "card_about_to_expire": "I can help you with a new card. When does your card expire, and is the address in your profile still right?",
    "card_acceptance": "I can check that for you. In which country or shop would you like to use the card?",
    "card_arrival": "I can check where your card is. When did you order it, and to which address should it go?",
    "card_delivery_estimate": "I can look up the delivery options. Which country should the card go to, and is there a date you need it by?",
    "card_linking": "You can look for the option to link a card in the app's card section. What do you see there when you try?",
    "card_not_working": "I am sorry about that. Where did you try to use the card, and what did the terminal or the app say?",
    "card_payment_fee_charged": "I can look into the fee. Which payment was it, on what date, and in which currency did you pay?",
    "card_payment_not_recognised": "Let us look at it together. What are the merchant's name, the date and the amount, and do you still have your card?",
    "card_payment_wrong_exchange_rate": "I can check the rate of that payment. What were the date, the amount and the currency?",
    "card_swallowed": "I am sorry about that. Please freeze the card in the app, and tell me where the machine is and when it happened.",
    "cash_withdrawal_charge": "I can look into the charge. When and where did you withdraw the cash, and how much was charged?",
    "cash_withdrawal_not_recognised": "Let us look into it right away. What are the date and the amount, and is the card still with you? If not, please freeze it in the app.",
    "change_pin": "I can help you change your PIN. Which card is it for, and do you still know the current PIN? Please do not send it here.",
    "compromised_card": "Please freeze the card in the app first. Then tell me which payments you do not recognise, with their dates and amounts.",
    "contactless_not_working": "I can help with that. Does the card work when you insert it, and where did the contactless payment fail?",
    "country_support": "I can check that for you. Which country do you live in, and is it about opening an account or using the card there?",
    "declined_card_payment": "I can check why the payment was declined. Where did you try to pay, when, and for what amount?",
    "declined_cash_withdrawal": "I can check why the withdrawal was declined. When and where was it, for what amount, and what did the machine say?",
    "declined_transfer": "I can check why the transfer was declined. When did you send it, to which country, and for what amount?",
    "direct_debit_payment_not_recognised": "I can look into this direct debit. What are the company's name, the date and the amount on your statement?",
    "disposable_card_limits": "The limits are shown with the disposable card in the app. What would you like to use the card for?",
    "edit_personal_details": "I can help you change your details. What should be changed: your name, address, phone number or e-mail?",
    "exchange_charge": "I can look that up. Which currencies would you like to exchange, and for about what amount?",
    "exchange_rate": "I can look up the rate for you. Which currencies is it about, and for what amount?",
    "exchange_via_app": "I can help you exchange money in the app. From which currency to which one, and what do you see when you try?",
    "extra_charge_on_statement": "I can look into the charge. What are its date, its amount and the text beside it on your statement?",
    "failed_transfer": "I can check why the transfer failed. When did you try, to which account, and what did the message say?",
    "fiat_currency_support": "I can check that for you. Which currencies would you like to hold or exchange?",
    "get_disposable_virtual_card": "I can help you get a disposable card. Have you looked in the app's card section, and is the option shown there?",
    "get_physical_card": "I can help you with the PIN of your card. Has the card arrived, and what does the app show under its PIN?",
    "getting_spare_card": "I can help you get another card. Is it for yourself or for someone else, and to which address should it go?",
    "getting_virtual_card": "I can help you get a virtual card. Which account is it for, and does the app show the option in its card section?",
    "lost_or_stolen_card": "I am sorry to hear that. Please freeze the card in the app, and tell me when you last used it and whether a payment looks wrong.",
    "lost_or_stolen_phone": "I am sorry to hear that. Can you sign in on another device? Tell me as well whether you still have your card.",
    "order_physical_card": "I can help you order a card. Which country should it go to, and is the address in your profile right?",
    "passcode_forgotten": "I can help you get back in. Do you still have the phone and the e-mail address that you signed up with?",
    "pending_card_payment": "I can look into the pending payment. What are the merchant's name, the date and the amount?",
    "pending_cash_withdrawal": "I can look into the pending withdrawal. When and where was it, and did the machine give you the money?",
    "pending_top_up": "I can look into the top-up. When did you make it, for what amount, and was it by card or by transfer?",
    "pending_transfer": "I can look into the transfer. When was it sent, to or from which bank, and for what amount?",
    "pin_blocked": "I can help you unblock your PIN. Which card is it, and do you have the app at hand? Please do not send the PIN itself.",
    "receiving_money": "I can help you receive the money. Who is paying you, from which country, and in which currency?",
    "request_refund": "I can help you ask for a refund. Which merchant was it, for what amount, and have you asked them already?",
    "reverted_card_payment?": "I can check why the payment came back. What are the merchant's name, the date and the amount?",
    "supported_cards_and_currencies": "I can check that for you. Which card would you like to add money with, and in which currency?",
    "terminate_account": "I am sorry that you want to leave. Is there something that we can put right first? If not, is there still money in the account?",
    "top_up_by_bank_transfer_charge": "I can look up whether that costs something. From which country, and in which currency, will the transfer come?",
    "top_up_by_card_charge": "I can look up whether that costs something. In which country was your card issued, and is it a debit or a credit card?",
    "top_up_by_cash_or_cheque": "I can check what is possible where you are. Which country are you in, and is it cash or a cheque?",
    "top_up_failed": "I can check why the top-up failed. How did you pay, for what amount, and what did the message say?",
    "top_up_limits": "The limits of your account are shown in the app. How much would you like to add, and by card or by transfer?",
    "top_up_reverted": "I can check why the top-up came back. When did you make it, how did you pay, and for what amount?",
    "topping_up_by_card": "I can help you top up by card. Which kind of card is it, and what happens when you try?",
    "transaction_charged_twice": "I can look into the double charge. What are the merchant's name, the date and the amount, and are both entries complete or is one pending?",
    "transfer_fee_charged": "I can look into the fee. Which transfer was it, to which country, and how much were you charged?",
    "transfer_into_account": "I can help you move money into your account. From which country and in which currency would you like to send it?",
    "transfer_not_received_by_recipient": "I can trace the transfer. When did you send it, for what amount, and are the recipient's account details right?",
    "transfer_timing": "I can look up how long it should take. From which country to which one is the transfer, and when was it sent?",
    "unable_to_verify_identity": "I can help you with the check. Which document did you use, and what does the app say?",
    "verify_my_identity": "I can help you verify your identity. Which country is your document from, and which step in the app are you at?",
    "verify_source_of_funds": "I can help you with that. What exactly were you asked to show, and for which payment?",
    "verify_top_up": "I can help you verify the top-up. Which card did you use, and what does the app ask you for? Please do not send the code itself.",
    "virtual_card_not_working": "I can check what is wrong with the virtual card. Where did you try to use it, and what did the message say?",
    "visa_or_mastercard": "I can check which cards are offered where you live. Which country are you in, and which of the two would you like?",
    "why_verify_identity": "I understand that you want to know why. Identity checks protect accounts from misuse; which step or document are you unsure about?",
    "wrong_amount_of_cash_received": "I can look into the withdrawal. Where and when was it, how much did you ask for, and how much did you get?",
    "wrong_exchange_rate_for_cash_withdrawal": "I can check the rate of the withdrawal. When and where was it, and what were the amount and the currency?",
}  # fmt: skip

_MADE, _MADE_ZH = (
    "(Made for the demo; no real service works by these rules.)",
    "（本文为演示而写，并非任何真实服务的规定。）",
)
ARTICLES = [
    ("refund-policy", "en", "Refund policy", ["refund", "cancellation"],
     "If we cancel your booking, you can ask for a refund within 14 days of the cancellation. Tell us the order number and the e-mail address of the booking; the money goes back the way it was paid. If you cancel yourself, the conditions shown with your booking apply. A booking that has been used is not refunded."),
    ("change-booking", "en", "Changing a booking", ["booking", "change"],
     "You can change the date, the time or the number of guests of a booking until 24 hours before it begins, as long as there is room. Tell us the order number and what should change. If the new booking costs more, you pay the difference; if it costs less, we refund it. The name on a booking can be corrected, and not given to another person."),
    ("card-fraud", "en", "Reporting card fraud", ["bank", "fraud", "card"],
     "Freeze the card first, in the app or by asking an agent. Then report every payment that you did not make, with its date, its amount and the name on the statement. An agent checks who you are before a report is filed, and never asks for your PIN or for a whole card number in a chat. You get a report number that you can ask about later."),
    ("identity-check", "en", "How we check who you are", ["identity", "account", "security"],
     "Before we speak about an account we ask for your full name, your account number and the answer to your security question. Whoever cannot give them can come to a branch with an identity document. We do not accept pictures of documents in a chat."),
    ("venue-parking", "en", "Parking at venues", ["parking", "party", "venue"],
     "Guests of a party can ask for a parking space with their reply to the invitation; hosts see how many were asked for. Spaces are not numbered and are given in the order of arrival. A space for a wheelchair user is kept free when it was asked for two days ahead."),
    ("room-service", "en", "Room service", ["hotel", "room service"],
     "Room service is ordered by telling us the hotel, your room number, and what should be brought at what time. Orders are taken from 6:30 to 22:30. Towels, pillows and cots are free of charge; food and drinks are put on the room's bill. Tell us about allergies with the order."),
    ("ride-cancellation", "en", "Cancelling a ride", ["ride", "cancellation"],
     "A ride can be cancelled without charge until the driver has set out. After that, the fee shown in the booking applies. Tell us the booking number, and whether you want to cancel the ride or only change where it starts or ends. If the driver does not come within 15 minutes of the time agreed, nothing is charged."),
    ("appointments", "en", "Rules for appointments", ["doctor", "appointment", "viewing"],
     "Appointments with a doctor and apartment viewings are made for a day and a time, and confirmed by us. Please come ten minutes early. To move or cancel one, tell us your name and the time at least one day before. For a viewing, bring an identity document and whatever the confirmation names. We give no medical advice in a chat; in an emergency call the emergency number."),
    ("zh-refund", "zh", "退款政策", ["退款", "取消"],
     "如果订单由我们取消，您可以在取消之日起14天内申请退款。请提供订单号和预订时使用的邮箱，款项按原支付方式退回。如果由您自己取消，按预订页面上显示的条件处理。已经使用过的订单不予退款。"),
    ("zh-change", "zh", "预订更改", ["预订", "更改"],
     "在开始前24小时之前，只要还有空位，您可以更改日期、时间或人数。请告诉我们订单号和要更改的内容。更改后费用增加的，由您补足差额；费用减少的，我们退还差额。预订人的姓名可以更正，但不能转让给他人。"),
    ("zh-tickets", "zh", "门票退改", ["门票", "景点", "退票"],
     "景点门票在游玩日期前一天之前可以免费退票或改期一次，当天及以后不能退改。请提供订单号和新的游玩日期。景点因天气等原因关闭时，门票全额退款。免费门票不需要退，不去即可。"),
    ("zh-hotel", "zh", "酒店入住", ["酒店", "入住", "退房"],
     "入住时间为14:00以后，退房时间为12:00以前。入住时请出示有效身份证件。需要接机服务、加床或无烟房的，请在入住前一天告诉我们。提前到店的客人可以先寄存行李。"),
]  # fmt: skip

WRITTEN = [
    ("waiting-en-refund", "en", ["Hello, my booking was cancelled by you last week and I would like my money back. The order number is DX-4827193 and I booked with marta.okonjo@example.com.",
     "I am sorry about the cancellation. I can look at the refund for you. How can we reach you if we have a question?",
     "You can call me on +44 20 7946 0958. When will I get the refund?"]),
    ("waiting-en-change", "en", ["Hi, I'd like to change my hotel booking, order number HB-5530917. My name is Peter Lindqvist and my e-mail is p.lindqvist@example.org. Could you move it from Friday to Saturday and add one more guest?"]),
    ("waiting-zh-refund", "zh", ["你好，你们上周取消了我的订单，我想申请退款。订单号是20260418573，邮箱是chenyu.demo@example.com。",
     "很抱歉给您带来不便，我来帮您查看退款。请问方便留一个联系电话吗？",
     "我的手机号是13800138000，退款什么时候能到？"]),
    ("waiting-zh-change", "zh", ["你好，我订了下周五的酒店，订单号是8830274156，想改成周六入住，多住一晚可以吗？我的电话是13912345678，邮箱lihua.demo@example.com。"]),
]  # fmt: skip


def main() -> None:
    """Write the three files and print what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("support", type=Path, metavar="SUPPORT_DIR")
    parser.add_argument("--out", type=Path, default=Path("retrieval/demo_desk"))
    arguments = parser.parse_args()
    star = [_prefixed("star", row) for row in _rows(arguments.support / "star" / "conversations.jsonl.gz")]
    crosswoz = [_prefixed("crosswoz", row) for row in _rows(arguments.support / "crosswoz" / "conversations.jsonl.gz")]
    questions = list(_rows(arguments.support / "banking77" / "train.jsonl.gz"))
    replies = [SavedReply.from_row(row) for row in _rows(arguments.support / "star" / "replies.jsonl.gz")]

    complete = [one for one in star if one.attributes.get("complete")]
    past = _spread([one for one in complete if not held_back(one)], STAR)
    past += sorted((one for one in crosswoz if not held_back(one)), key=_digest)[:CROSSWOZ]
    waiting = _waiting_star([one for one in complete if held_back(one)])
    waiting += _waiting_zh([one for one in crosswoz if held_back(one)])
    conversations = [*map(_without_domain_notes, past), *_bank(questions), *waiting, *_written()]
    bank = [
        SavedReply(f"banking77/{intent}", text, intent, "en", {"task": "banking77"})
        for intent, text in BANK_REPLIES.items()
    ]
    posts = [
        Post(f"help/{id}", "article", title, f"{text} {_MADE_ZH if language == 'zh' else _MADE}", author="Demo help desk",
             community=COMMUNITY, tags=tuple(tags), language=language)
        for id, language, title, tags, text in ARTICLES
    ]  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, values in (("posts", posts), ("conversations", conversations), ("replies", [*replies, *bank])):
        size = _write(arguments.out / f"{name}.jsonl.gz", (value.to_row() for value in values))
        print(f"{name}: {len(values)} rows, {size:,} bytes")


def held_back(conversation: DeskConversation) -> bool:
    """Whether a conversation belongs to the tenth used for evaluation."""
    return int(_digest(conversation), 16) % 10 == 0


def _digest(conversation: DeskConversation) -> str:
    """The md5 of the id in the original data set, without this demo's prefix."""
    return hashlib.md5(conversation.id.partition("-")[2].encode(), usedforsecurity=False).hexdigest()


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    for number, row, cause in read_rows(path):
        if row is None:
            raise SystemExit(f"{path}:{number}: {cause}")
        yield row


def _prefixed(source: str, row: dict[str, Any]) -> DeskConversation:
    """Both data sets use numbers as ids; the prefix names the data set."""
    return DeskConversation.from_row({**row, "id": f"{source}-{row['id']}"})


def _without_domain_notes(conversation: DeskConversation) -> DeskConversation:
    """A copy without the notes on completeness: all conversations of the demo are complete."""
    return replace(conversation, attributes={k: v for k, v in conversation.attributes.items() if k != "complete"})


def _spread(conversations: list[DeskConversation], count: int) -> list[DeskConversation]:
    """An equal share of each domain, or all of a smaller one; the domains alternate."""
    domains: dict[str, list[DeskConversation]] = defaultdict(list)
    for conversation in sorted(conversations, key=_digest):
        domains[conversation.attributes.get("domain") or ""].append(conversation)
    turns = zip_longest(*(domains[name] for name in sorted(domains)))
    return [one for turn in turns for one in turn if one is not None][:count]


def _bank(questions: list[dict[str, Any]]) -> list[DeskConversation]:
    intents: dict[str, list[str]] = defaultdict(list)
    for row in questions:
        intents[row["intent"]].append(row["text"])
    if intents.keys() != BANK_REPLIES.keys():
        raise SystemExit(f"intents and replies differ: {sorted(intents.keys() ^ BANK_REPLIES.keys())}")
    made = []
    for intent, reply in BANK_REPLIES.items():
        texts = sorted(set(intents[intent]), key=lambda text: hashlib.md5(text.encode()).hexdigest())[:QUESTIONS]
        for number, text in enumerate(texts, 1):
            turns = (DeskTurn("customer", text), DeskTurn("agent", reply, reply=f"banking77/{intent}"))
            made.append(DeskConversation(f"bank77-{intent}-{number}", turns, "en", attributes={"domain": "bank"}))
    return made


def _cut(
    conversation: DeskConversation, fits: Callable[[tuple[DeskTurn, ...], tuple[DeskTurn, ...]], bool]
) -> DeskConversation | None:
    """The start of a conversation up to a customer's turn, where `fits` accepts the operator's next turns."""
    turns = conversation.turns
    for place in range(2, min(len(turns), LONGEST_WAITING)):
        rest = turns[place + 1 :]
        if turns[place].role != "customer" or len(turns[place].text) < 12 or not any(turn.text for turn in rest):
            continue
        answer = next(number for number, turn in enumerate(rest) if turn.text)
        if rest[answer].role == "agent" and fits(turns[: place + 1], rest[: answer + 1]):
            # Without times, since the demo's customers would have waited for years.
            kept = tuple(replace(turn, time=None) for turn in turns[: place + 1])
            return DeskConversation(f"waiting-{conversation.id}", kept, conversation.language, "waiting")
    return None


def _states_knowledge(_: tuple[DeskTurn, ...], then: tuple[DeskTurn, ...]) -> bool:
    """Whether the operator looks something up and then states a part of it."""
    items = [turn.item for turn in then if turn.item]
    values = [str(value) for item in items for key, value in item.items() if key not in ("APIName", "Message")]
    return any(len(value) > 3 and value.lower() in then[-1].text.lower() for value in values)


def _uses_earlier(before: tuple[DeskTurn, ...], then: tuple[DeskTurn, ...]) -> bool:
    """Whether the operator answers from an earlier look-up."""
    last = next((turn.item for turn in reversed(before) if turn.item), None) or {}
    values = [str(value) for key, value in last.items() if key not in ("APIName", "Message")]
    said = then[-1].text.lower()
    earlier = " ".join(turn.text for turn in before).lower()
    return len(then) == 1 and any(
        len(value) > 2 and value.lower() in said and value.lower() not in earlier for value in values
    )


def _asks(_: tuple[DeskTurn, ...], then: tuple[DeskTurn, ...]) -> bool:
    return len(then) == 1 and then[-1].text.rstrip().endswith("?") and not then[-1].reply.endswith("anything_else")


def _waiting_star(held: list[DeskConversation]) -> list[DeskConversation]:
    """At most one per domain: some can be answered from a look-up, the others with a question."""
    found: list[DeskConversation] = []
    domains: set[str] = set()
    for wanted, rules in ((WAITING_KNOWN, (_uses_earlier, _states_knowledge)), (WAITING_ASKED, (_asks,))):
        taken = 0
        for rule in rules:
            for conversation in sorted(held, key=_digest):
                domain = conversation.attributes.get("domain") or ""
                if taken < wanted and domain and domain not in domains and (cut := _cut(conversation, rule)):
                    found.append(replace(cut, attributes={"domain": domain}))
                    domains.add(domain)
                    taken += 1
    return found


def _waiting_zh(held: list[DeskConversation]) -> list[DeskConversation]:
    """Three that wait for a recommendation, and three that ask about a recommended place."""
    found: list[DeskConversation] = []
    half = WAITING_ZH // 2
    rules = [lambda _, then: then[-1].text.startswith("推荐"), lambda _, then: "地址" in then[-1].text]
    pool = sorted(held, key=_digest)
    for number, rule in enumerate(rules):
        cuts = [cut for one in pool[number::2] if (cut := _cut(one, rule))]
        found += cuts[:half]
    return found


def _written() -> list[DeskConversation]:
    """Written conversations with invented personal data; customer and operator alternate."""
    return [
        DeskConversation(
            id,
            tuple(DeskTurn("agent" if place % 2 else "customer", text) for place, text in enumerate(texts)),
            language,
            "waiting",
            attributes={"domain": "help desk"},
        )
        for id, language, texts in WRITTEN
    ]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write gzipped JSON Lines without name and timestamp in the header; returns the file's size in bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    path.write_bytes(buffer.getvalue())
    return len(buffer.getvalue())


if __name__ == "__main__":
    main()
