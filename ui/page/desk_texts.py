"""What the service desk shows: its own words in English and Chinese, and conversations as the page's data.

The browser fills its templates with `textContent` only, so nothing here is escaped.
"""

# ruff: noqa: E501 - the tables of words are wide

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whyfeed.agent.desk.actions import ACTIONS, Pending
from whyfeed.agent.desk.suggestion import Citation, Proposal, ReplySuggestion
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, language_of, since_answer
from whyfeed.retrieval.errors import UnknownPost
from whyfeed.retrieval.privacy.vault import CHIP
from whyfeed.ui.page.cards import link, moment, short

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

_VERY_LIKELY, _LIKELY = 0.6, 0.25  # confidence from which on a suggestion is called that
_QUOTE = 600  # characters of a quoted passage
_INTERNAL = ("apiname", "id")  # keys that tell an agent nothing; they come last
_GREETING = 3  # words up to which a first message says nothing about what somebody wants

DESK_EN = {
    "place.desk": "Desk",
    "desk.list": "Conversations",
    "desk.waiting": "Waiting for an answer",
    "desk.answered": "Answered, still open",
    "desk.waiting.none": "Nobody is waiting.",
    "desk.answered.none": "None.",
    "desk.new": "not read yet",
    "desk.language.en": "English",
    "desk.language.zh": "Chinese",
    "desk.step.list": "Waiting",
    "desk.step.talk": "Conversation",
    "desk.step.help": "Suggestions",
    "desk.steps": "Steps",
    "desk.pick": "Choose a conversation",
    "desk.pick.lead": "Suggested replies appear beside it, each sentence with what it rests on. Nothing is sent before you send it.",
    "desk.thread": "Conversation with the customer",
    "desk.close": "Close",
    "desk.close.sure": "Close now?",
    "desk.close.hint": "Closing deletes the personal values of this conversation; what was said stays to learn from.",
    "desk.closed": "This conversation is closed.",
    "desk.customer": "Customer",
    "desk.agent": "You",
    "desk.facts": "Looked up",
    "desk.query": "Look-up with",
    "desk.more": "{n} fields",
    "desk.more.1": "1 field",
    "desk.chip": "{kind}, hidden. Focus shows the value to you only",
    "desk.chip.gone": "The value has been deleted",
    "desk.chip.wait": "One moment",
    "desk.write": "Your reply",
    "desk.write.hint": "Write, or take a suggestion",
    "desk.write.keys": "Ctrl + Enter sends",
    "desk.send": "Send",
    "desk.sending": "Sending",
    "desk.from": "Suggest from this",
    "desk.open": "Still to fill in:",
    "desk.open.one": "Go to {name} in the text",
    "desk.doubt": "This would go out with {names} not filled in. Fill it in, or send once more to send it as it stands.",
    "desk.taken": "From suggestion {n}",
    "desk.sent.same": "Sent. Learnt as taken word for word: “{words}”",
    "desk.sent.edit": "Sent. Learnt as an edit of “{words}”",
    "desk.sent.own": "Sent. Learnt as your own words.",
    "desk.sent.values": "{n} personal values were put back for the customer.",
    "desk.sent.values.1": "1 personal value was put back for the customer.",
    "desk.customer.writes": "Simulate the customer",
    "desk.customer.hint": "Customer writes …",
    "desk.customer.send": "Receive",
    "desk.help": "Suggestions",
    "desk.wish": "Say what you want",
    "desk.wish.hint": "Say what you want: shorter, warmer, in Chinese, offer a replacement",
    "desk.wish.go": "Suggest again",
    "desk.wish.clear": "Clear the wish",
    "desk.shorter": "Shorter",
    "desk.shorter.say": "shorter",
    "desk.warmer": "Warmer",
    "desk.warmer.say": "warmer",
    "desk.other.zh": "中文",
    "desk.other.zh.say": "in Chinese",
    "desk.other.en": "English",
    "desk.other.en.say": "in English",
    "desk.loading": "Looking for what fits",
    "desk.found": "{n} suggestions",
    "desk.found.1": "1 suggestion",
    "desk.found.none": "No reply that is known here fits. Write your own; the next one like this will know it.",
    "desk.idle": "Nobody waits for an answer here. A wish above still gets suggestions.",
    "desk.failed": "Suggesting failed.",
    "desk.use": "Use",
    "desk.use.key": "Use suggestion {n} (Alt + {n})",
    "desk.refuse": "Not this",
    "desk.refuse.title": "Not this one: it counts less in conversations like this",
    "desk.refused": "Noted. It will count less in conversations like this one.",
    "desk.missing": "not known: {names}",
    "desk.sure.very": "very likely",
    "desk.sure.likely": "likely",
    "desk.sure.guess": "a guess",
    "desk.source.saved": "Saved reply",
    "desk.source.case": "From a past conversation",
    "desk.source.draft": "Written for this conversation",
    "desk.source.question": "Asks for what is missing",
    "desk.source.article": "From an article",
    "desk.from.case": "A past conversation",
    "desk.from.reply": "A saved reply",
    "desk.from.article": "An article",
    "desk.from.knowledge": "A look-up",
    "desk.from.conversation": "This conversation",
    "desk.draft": "Draft",
    "desk.draft.writing": "Being written, not checked yet",
    "desk.draft.dropped": "The writer’s draft is not offered: nothing known here bears it out.",
    "desk.draft.refused": "Noted: not this draft.",
    "desk.posts": "Worth sending along",
    "desk.insert": "Insert link",
    "desk.handover": "Better handed over",
    "desk.handover.do": "Hand over",
    "desk.handover.knows": "What the next person needs to know",
    "desk.acts": "Proposed actions",
    "desk.acts.lead": "Nothing is done before you approve.",
    "desk.act.refund": "Refund",
    "desk.act.replace": "Replacement",
    "desk.act.close": "Close the conversation",
    "desk.act.hand_over": "Hand over to a colleague",
    "desk.field.order": "Order",
    "desk.field.amount": "Amount",
    "desk.field.item": "Item",
    "desk.field.reason": "Reason",
    "desk.field.none": "not known",
    "desk.approve": "Approve",
    "desk.change": "Change",
    "desk.change.do": "Approve as changed",
    "desk.change.back": "Back",
    "desk.decline": "Decline",
    "desk.act.preparing": "Getting ready",
    "desk.act.deciding": "Being carried out",
    "desk.act.approve": "Approved, and noted in the ledger.",
    "desk.act.edit": "Approved as changed, and noted in the ledger.",
    "desk.act.reject": "Declined. Nothing was done.",
    "chip.email": "Email",
    "chip.phone": "Phone",
    "chip.card": "Card",
    "chip.identity": "Identity",
    "chip.account": "Account",
    "chip.secret": "Secret",
    "chip.address": "Address",
    "chip.name": "Name",
    "chip.order": "Order",
}

DESK_ZH = {
    "place.desk": "客服台",
    "desk.list": "会话列表",
    "desk.waiting": "等待回复",
    "desk.answered": "已回复，未结束",
    "desk.waiting.none": "没有人在等待。",
    "desk.answered.none": "没有。",
    "desk.new": "未读",
    "desk.language.en": "英文",
    "desk.language.zh": "中文",
    "desk.step.list": "等待",
    "desk.step.talk": "会话",
    "desk.step.help": "建议",
    "desk.steps": "步骤",
    "desk.pick": "选择一个会话",
    "desk.pick.lead": "建议的回复会出现在旁边，每句话都附依据。在你发送之前，什么都不会发出。",
    "desk.thread": "与客户的会话",
    "desk.close": "结束会话",
    "desk.close.sure": "确定结束？",
    "desk.close.hint": "结束后，会话中的个人信息会被删除，对话内容留作学习。",
    "desk.closed": "会话已结束。",
    "desk.customer": "客户",
    "desk.agent": "你",
    "desk.facts": "查询结果",
    "desk.query": "查询条件",
    "desk.more": "{n} 项",
    "desk.more.1": "1 项",
    "desk.chip": "{kind}，已隐藏。聚焦后仅你可见",
    "desk.chip.gone": "该信息已删除",
    "desk.chip.wait": "请稍候",
    "desk.write": "你的回复",
    "desk.write.hint": "直接输入，或采用一条建议",
    "desk.write.keys": "Ctrl + 回车发送",
    "desk.send": "发送",
    "desk.sending": "发送中",
    "desk.from": "据此建议",
    "desk.open": "待填写：",
    "desk.open.one": "跳到文中的 {name}",
    "desk.doubt": "{names} 还没有填写。请填好，或再次发送以原样发出。",
    "desk.taken": "来自建议 {n}",
    "desk.sent.same": "已发送，并记为原样采用：“{words}”",
    "desk.sent.edit": "已发送，并学习了对“{words}”的修改",
    "desk.sent.own": "已发送，并作为你自己的话学习。",
    "desk.sent.values": "已为客户还原 {n} 项个人信息。",
    "desk.sent.values.1": "已为客户还原 1 项个人信息。",
    "desk.customer.writes": "模拟客户",
    "desk.customer.hint": "客户写道……",
    "desk.customer.send": "收到",
    "desk.help": "建议",
    "desk.wish": "说说你想要的",
    "desk.wish.hint": "说说你想要的：简短、亲切、用英文、提供换货",
    "desk.wish.go": "重新建议",
    "desk.wish.clear": "清除要求",
    "desk.shorter": "更短",
    "desk.shorter.say": "简短一点",
    "desk.warmer": "更亲切",
    "desk.warmer.say": "亲切一点",
    "desk.other.zh": "中文",
    "desk.other.zh.say": "用中文",
    "desk.other.en": "English",
    "desk.other.en.say": "用英文",
    "desk.loading": "正在寻找合适的回复",
    "desk.found": "{n} 条建议",
    "desk.found.1": "1 条建议",
    "desk.found.none": "现有回复都不合适。请自己写，下次类似的情况就会用上。",
    "desk.idle": "这里没有人在等待回复。仍可在上方提出要求以获得建议。",
    "desk.failed": "建议失败。",
    "desk.use": "采用",
    "desk.use.key": "采用建议 {n}（Alt + {n}）",
    "desk.refuse": "不要这条",
    "desk.refuse.title": "不要这条：在类似会话中会减少推荐",
    "desk.refused": "已记下，在类似会话中会减少推荐。",
    "desk.missing": "未知：{names}",
    "desk.sure.very": "很可能",
    "desk.sure.likely": "可能",
    "desk.sure.guess": "猜测",
    "desk.source.saved": "常用回复",
    "desk.source.case": "来自历史会话",
    "desk.source.draft": "为本次会话撰写",
    "desk.source.question": "询问缺少的信息",
    "desk.source.article": "来自文章",
    "desk.from.case": "历史会话",
    "desk.from.reply": "常用回复",
    "desk.from.article": "文章",
    "desk.from.knowledge": "查询结果",
    "desk.from.conversation": "本次会话",
    "desk.draft": "草稿",
    "desk.draft.writing": "正在撰写，尚未核对",
    "desk.draft.dropped": "草稿未采用：没有资料能支持它。",
    "desk.draft.refused": "已记下：不要这份草稿。",
    "desk.posts": "值得附上",
    "desk.insert": "插入链接",
    "desk.handover": "建议转交",
    "desk.handover.do": "转交",
    "desk.handover.knows": "接手的人需要知道",
    "desk.acts": "建议的操作",
    "desk.acts.lead": "未经你批准，不会执行。",
    "desk.act.refund": "退款",
    "desk.act.replace": "换货",
    "desk.act.close": "结束会话",
    "desk.act.hand_over": "转交给同事",
    "desk.field.order": "订单",
    "desk.field.amount": "金额",
    "desk.field.item": "商品",
    "desk.field.reason": "原因",
    "desk.field.none": "未知",
    "desk.approve": "批准",
    "desk.change": "修改",
    "desk.change.do": "按修改批准",
    "desk.change.back": "返回",
    "desk.decline": "拒绝",
    "desk.act.preparing": "准备中",
    "desk.act.deciding": "执行中",
    "desk.act.approve": "已批准，并记入账本。",
    "desk.act.edit": "已按修改批准，并记入账本。",
    "desk.act.reject": "已拒绝，没有执行。",
    "chip.email": "邮箱",
    "chip.phone": "电话",
    "chip.card": "卡号",
    "chip.identity": "证件",
    "chip.account": "账号",
    "chip.secret": "密码",
    "chip.address": "地址",
    "chip.name": "姓名",
    "chip.order": "订单号",
}


def words_of(text: str) -> list[Any]:
    """A text as its plain pieces and its chips ({chip, kind}), in order."""
    parts: list[Any] = []
    at = 0
    for chip in CHIP.finditer(text):
        parts += [text[at : chip.start()], {"chip": chip[0], "kind": chip["kind"]}]
        at = chip.end()
    return [part for part in (*parts, text[at:]) if part]


def turn_of(turn: DeskTurn) -> dict[str, Any]:
    """A turn as one part of the page; a look-up as rows of keys and values."""
    if turn.role == "knowledge" or not turn.text:
        rows = _rows(turn.item or turn.query or {})
        return {"role": "facts" if turn.item else "query", "rows": rows, "words": words_of(turn.text)}
    return {"role": turn.role, "words": words_of(turn.text), "time": moment(turn.time)}


def _rows(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keys and values of a look-up, one level of nesting flattened."""
    flat = [
        (f"{key} · {inner}" if inner else str(key), part)
        for key, value in item.items()
        for inner, part in (value.items() if isinstance(value, Mapping) else [("", value)])
    ]
    flat.sort(key=lambda pair: pair[0].lower() in _INTERNAL)
    return [{"key": _spaced(key), "words": words_of(short(_plain(value), 300))} for key, value in flat]


def _spaced(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", key)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    return str(value).strip('"')


def line_of(talk: DeskConversation, new: bool) -> dict[str, Any]:
    """A conversation as one line of the list. `new`: there is something in it that has not been on the screen."""
    asked = [turn.time for turn in since_answer(talk.turns) if turn.role == "customer"]
    said = [turn.time for turn in talk.turns if turn.role == "agent" and turn.text]
    since = asked[0] if asked else said[-1] if said else None
    words = first_words(talk)
    return {"id": talk.id, "words": words, "language": language_of(talk), "since": moment(since), "new": new}


def first_words(talk: DeskConversation) -> str:
    """The first words of the customer that say more than a greeting."""
    said = [turn.text for turn in talk.turns if turn.role == "customer" and turn.text]
    telling = (text for text in said if len(text.split()) > _GREETING or re.search(r"[\u4e00-\u9fff]{6}", text))
    return short(next(telling, said[0] if said else ""), 110)


def card_of(suggestion: ReplySuggestion, agent: Agent) -> dict[str, Any]:
    """A suggestion as a card; its confidence in a word."""
    sure = suggestion.confidence
    return {
        "id": suggestion.id,
        "text": suggestion.text,
        "parts": _parts(suggestion, agent),
        "source": suggestion.source,
        "sure": "very" if sure >= _VERY_LIKELY else "likely" if sure >= _LIKELY else "guess",
        "missing": list(suggestion.missing),
        "language": suggestion.language,
        "refused": False,
    }


def _parts(suggestion: ReplySuggestion, agent: Agent) -> list[dict[str, Any]]:
    """The text cut so that each sentence that rests on something carries what it rests on."""
    text, at = suggestion.text, 0
    parts: list[dict[str, Any]] = []
    for sentence in suggestion.sentences:
        start = text.find(sentence.text, at) if sentence.text else -1
        if start < 0:
            continue
        if start > at:
            parts.append({"words": words_of(text[at:start])})
        at = start + len(sentence.text)
        part = {"words": words_of(sentence.text)}
        evidence = [_evidence(each, agent) for each in sentence.citations]
        parts.append({**part, "evidence": evidence} if evidence else part)
    if at < len(text):
        parts.append({"words": words_of(text[at:])})
    return parts


def _evidence(citation: Citation, agent: Agent) -> dict[str, Any]:
    post = None
    if citation.type == "article":
        try:
            post = link(agent.post(citation.id))
        except UnknownPost:  # gone since; the quote is what there was
            post = None
    return {"type": citation.type, "quote": words_of(short(citation.quote, _QUOTE)), "post": post}


def proposed(proposal: Proposal, agent: Agent) -> dict[str, Any]:
    """A proposal that is on its way to where it can be decided."""
    return {
        "id": proposal.name,
        "name": proposal.name,
        "why": words_of(proposal.why),
        "evidence": [_evidence(each, agent) for each in proposal.citations],
        "fields": [
            {
                "name": one.name,
                "type": one.type,
                "required": one.required,
                "value": _shown(proposal.arguments.get(one.name)),
                "words": words_of(_shown(proposal.arguments.get(one.name))),
            }
            for one in ACTIONS[proposal.name].arguments
        ],
        "state": "preparing",
    }


def action(pending: Pending, agent: Agent) -> dict[str, Any]:
    """A proposal that can be decided, with the id by which that is done."""
    return {**proposed(pending.proposal, agent), "id": pending.id, "state": pending.state}


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def arguments(pending: Pending, typed: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed into the fields, as the action takes it; ValueError for a number that is none."""
    found: dict[str, Any] = {}
    for one in ACTIONS[pending.proposal.name].arguments:
        text = str(typed.get(one.name) or "").strip()
        try:
            found[one.name] = None if not text else float(text.replace(",", "")) if one.type == "number" else text
        except ValueError as exc:
            raise ValueError(f"{one.name} {text[:40]!r} is not a number") from exc
    return found
