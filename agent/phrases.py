"""Sentences that code says, in English and Chinese. Posts and people are quoted by whoever fills them in."""

from __future__ import annotations

from typing import Any

from whyfeed.retrieval.language import Language

PHRASES: dict[str, tuple[str, str]] = {
    # lists
    "list": ("Here is what I would read next in your place.", "换作是我，接下来会读这几篇。"),
    "list.new": ("I do not know you yet, so this is what the community cares about most.", "我还不了解你，先看看大家最关心的。"),
    "list.named": ("Going by the interests that you named:", "按你提到的兴趣，推荐这几篇："),
    "list.search": ("About “{query}”, closest to you first:", "关于“{query}”，和你最相关的在前："),
    "list.far": ("I found nothing here that is really about “{query}”. These come closest:", "这里没有真正讲“{query}”的帖子，下面几篇最接近："),
    "list.others": ("Here are others that you have not seen in this conversation.", "换一批，都是这次对话里没出现过的。"),
    "list.like": ("More like “{title}”:", "和《{title}》相近的还有："),
    "list.few": (" That is all there is to show.", "能给你看的就这些了。"),
    "list.none": ("There is nothing left to show you here: you have seen it all, or a rule keeps it out.", "没有可以推荐的了：要么你都看过，要么被规则挡住了。"),
    "list.empty": ("This home holds no posts yet. Import some first: whyfeed import DIR.", "这里还没有帖子，请先导入：whyfeed import DIR。"),
    "list.no_match": ("Nothing here matches “{query}”.", "没有找到和“{query}”有关的帖子。"),
    # steering
    "rule.exclude": ("Less “{topic}” from now on.", "以后少推荐“{topic}”。"),
    "rule.include": ("More “{topic}” from now on.", "以后多推荐“{topic}”。"),
    "rule.for": (" ({horizon})", "（{horizon}）"),
    "rule.nothing": (" Nothing here is about it at the moment; I will keep it in mind.", "目前这里没有这类帖子，我先记下了。"),
    "hidden": ("Hidden. Its near twins will stay away too.", "已隐藏，和它几乎一样的帖子也不会再出现。"),
    "undone": ("Undone: {what}.", "已撤销：{what}。"),
    "undo.nothing": ("There is nothing to undo.", "没有可以撤销的操作。"),
    "forgotten": ("Forgotten: {count} of your events. The list is as if they had never happened.", "已忘掉你的 {count} 条记录，列表就像它们从未发生过。"),
    "forget.nothing": ("I have no event of yours about that.", "我没有你在这方面的记录。"),
    "horizon.now": ("just this once", "只这一次"),
    "horizon.session": ("in this conversation", "仅在本次对话"),
    "horizon.day": ("today", "今天之内"),
    "horizon.week": ("for a week", "一周之内"),
    "horizon.month": ("for a month", "一个月之内"),
    # talking about posts
    "which": ("Which one do you mean? Say its number in the list, or a few words of its title.", "你指的是哪一篇？请说列表里的序号，或标题里的几个字。"),
    "no_list": ("There is no list yet in this conversation. Ask “What should I read?” first.", "这次对话里还没有列表，先问我“今天看什么？”吧。"),
    "compare": ("{number}. “{title}”{detail}: {clause}", "{number}.《{title}》{detail}：{clause}"),
    "compare.closer": ("For you “{title}” comes first, mostly because of {signal}.", "对你来说，《{title}》更靠前，主要因为{signal}。"),
    "summary": ("“{title}” in its own words: {sentences}", "《{title}》的原文要点：{sentences}"),
    "summary.none": ("“{title}” has no text beyond its title.", "《{title}》除标题外没有正文。"),
    # about the reader
    "profile": ("From {events} of your own acts I believe that you care about {interests}.", "根据你自己的 {events} 次互动，我认为你关心：{interests}。"),
    "profile.rules": (" Rules in force: {rules}.", "生效中的规则：{rules}。"),
    "profile.none": ("I know nothing about you yet. Name a few interests, or like something.", "我对你还一无所知。说几个兴趣，或点个喜欢吧。"),
    "profile.hint": (" Anything wrong? Say “forget …” or “less …”.", "哪里不对？可以说“忘掉……”或“少推荐……”。"),
    "people": ("People who write about what you read: {people}.", "常写你爱看的内容的人：{people}。"),
    "people.one": ("{name} ({count} posts, such as “{title}”)", "{name}（{count} 篇，例如《{title}》）"),
    "people.none": ("I cannot tell yet: read or like a few posts first.", "还看不出来，先看几篇或点几个喜欢吧。"),
    "groups": ("Your acts are in {groups}.", "你的互动分布在：{groups}。"),
    "groups.none": ("The communities here: {groups}.", "这里有这些社区：{groups}。"),
    "smalltalk": ("Hello! Ask me “What should I read?”, name a topic, or say what you want less of.", "你好！可以问我“今天看什么？”，说一个话题，或告诉我想少看什么。"),
    "thanks": ("You are welcome. Say “show me others” when you are ready for more.", "不客气。想看更多就说“换一批”。"),
    "out_of_scope": ("That is beyond me: I recommend posts from this community, and explain why. What would you like to read about?", "这超出了我的能力：我只推荐这个社区的帖子，并说明理由。你想看哪方面的？"),
    "empty": ("Say what you would like to read, or just “What should I read?”.", "说说你想看什么，或者直接问“今天看什么？”。"),
    "stopped": ("Stopped.", "已停止。"),
    # why
    "why.from": ("It came from {sources}.", "它来自：{sources}。"),
    "why.counted": (" What counted most: {signals}.", "最看重的是：{signals}。"),
    "why.without": ("Without your acts on “{title}” its score would fall by {share}.", "如果没有你在《{title}》上的互动，它的得分会下降 {share}。"),
    "why.keep_out": ("“Not interested”, or “less {topic}”, keeps it out.", "点“不感兴趣”，或说“少来点{topic}”，它就不会再出现。"),
    "why_not.shown": ("It is in your list, at place {rank}.", "它就在你的列表里，第 {rank} 位。"),
    "why_not.seen": ("You have already acted on it, so it is not news to you.", "你已经参与过它，所以不再推荐。"),
    "why_not.own": ("It is your own post.", "这是你自己的帖子。"),
    "why_not.hidden": ("You pushed it away.", "你已把它标为不感兴趣。"),
    "why_not.twin": ("It is nearly the same as a post that you pushed away.", "它和你标为不感兴趣的帖子几乎一样。"),
    "why_not.rule": ("Your rule “{topic}” keeps it out.", "你的规则“{topic}”把它挡住了。"),
    "why_not.shown_before": ("You asked for others, and it has been shown in this conversation.", "你要求换一批，而它在这次对话里已经出现过。"),
    "why_not.kind": ("You asked for another kind of thing.", "你要的是另一类内容。"),
    "why_not.unrelated": ("It is not about what you asked for.", "它和你问的内容无关。"),
    "why_not.duplicate": ("A post that is nearly the same, and scores higher, is in the list.", "列表里已有一篇几乎相同且得分更高的帖子。"),
    "why_not.author": ("Two posts of the same author are already in the list.", "列表里已有同一作者的两篇帖子。"),
    "why_not.outranked": ("It was considered, at place {rank} of {count}, but scores {gap} less than the last post of your list.", "它被考虑过，在 {count} 篇里排第 {rank}，但比列表最后一篇低 {gap} 分。"),
    "why_not.unknown": ("No source brought it: it is not near your interests, not by people you reply to, and neither new nor popular.", "没有来源带来它：它不接近你的兴趣，作者你没有互动过，也不新、不热门。"),
    "change.undo": ("Forgetting that event would let it in again.", "忘掉那条记录，它就可能再出现。"),
    "change.rule": ("Switching that rule off would let it in again.", "关掉那条规则，它就可能再出现。"),
    "change.like": ("Liking something near it, or asking for its topic, would bring it in.", "喜欢一篇相近的帖子，或直接问这个话题，就能看到它。"),
    "change.none": ("Nothing needs to change.", "不需要改变什么。"),
}  # fmt: skip

SIGNALS: dict[str, tuple[str, str]] = {
    "interest": ("your interests", "你的兴趣"),
    "recent": ("what you did lately", "你最近的互动"),
    "cooccurrence": ("what readers of the same posts read", "读过同样帖子的人也读它"),
    "next": ("what your reading leads to", "你接下来可能想读的"),
    "tags": ("topics in common", "共同的话题"),
    "people": ("somebody you talk with", "和你交流过的人"),
    "community": ("your community", "你所在的社区"),
    "fresh": ("how new it is", "新鲜程度"),
    "popular": ("how much it is talked about", "热度"),
    "disliked": ("nearness to what you pushed away", "接近你不感兴趣的内容"),
    "query": ("what you asked for", "你的提问"),
    "include": ("what you want more of", "你想多看的话题"),
    "llm": ("the language model's judgement", "语言模型的判断"),
}
SOURCES: dict[str, tuple[str, str]] = {
    "interest": ("your interests", "你的兴趣"),
    "cooccurrence": ("readers of the same posts", "读过同样帖子的人"),
    "next": ("what your reading leads to", "你接下来可能想读的"),
    "text": ("words you use", "你常用的词"),
    "people": ("people you talk with", "和你交流过的人"),
    "fresh": ("what is new", "新帖"),
    "popular": ("what is popular", "热帖"),
    "explore": ("a little exploration", "一点探索"),
    "query": ("your request", "你的提问"),
    "include": ("a topic you want more of", "你想多看的话题"),
}


def say(key: str, language: Language, **values: Any) -> str:
    """The phrase in that language, filled in."""
    return PHRASES[key][language == "zh"].format(**values)


def signal_word(name: str, language: Language) -> str:
    """A signal in plain words."""
    return SIGNALS.get(name, (name, name))[language == "zh"]


def source_word(name: str, language: Language) -> str:
    """A source in plain words."""
    return SOURCES.get(name, (name, name))[language == "zh"]


def listed(words: list[str], language: Language) -> str:
    """Words joined as a person would: a, b and c."""
    if language == "zh":
        return "、".join(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


# At the service desk.
NOTHING_FITS = {
    "en": "Nothing that is known here answers this: no past conversation and no article comes near it",
    "zh": "现有资料无法回答：没有相近的历史对话，也没有相关文章",
}
NOTHING_GROUNDED = {
    "en": "Whatever could be said here states something that nothing known bears out",
    "zh": "可以说的话都缺少依据",
}
