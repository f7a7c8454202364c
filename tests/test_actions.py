"""Actions at the desk: what is proposed from a conversation, and that nothing is done before a person says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from tests.conftest import ROOT
from whyfeed.agent.desk.actions import ACTIONS, Actions, propose
from whyfeed.agent.desk.suggestion import Citation, Proposal
from whyfeed.retrieval.desk.types import DeskTurn
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.post import Post

POLICY = Post(
    "returns", kind="article", title="Returns",
    text="How do returns work? Sale items are not refundable. You get a full refund within 30 days. "
    "A damaged item is replaced free of charge. 签收后30天内可全额退款。破损商品可免费换货。",
)  # fmt: skip
REFUND = Proposal(
    "refund", {"order": "[order 1]", "amount": None}, "asked for", (Citation("article", "returns", "Full refund."),)
)
Done = list[tuple[str, str, dict[str, Any]]]


def customer(*texts: str) -> list[DeskTurn]:
    return [DeskTurn("customer", text) for text in texts]


def agent(text: str) -> list[DeskTurn]:
    return [DeskTurn("agent", text)]


def names(turns: Sequence[DeskTurn], articles: Sequence[Post] = (POLICY,)) -> list[str]:
    return [proposal.name for proposal in propose(turns, articles, "en")]


class Scripted(BaseChatModel):
    """A chat model that says what it was told to, one list of tool calls a turn, whatever it is asked."""

    script: list[Any]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Scripted:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **options: Any) -> ChatResult:
        said = self.script.pop(0) if self.script else []
        if isinstance(said, Exception):
            raise said
        calls = [{"name": name, "args": args, "id": str(at)} for at, (name, args) in enumerate(said)]
        return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=calls))])


@pytest.fixture
def done() -> Done:
    return []


@pytest.fixture
def perform(done: Done) -> Callable[[str, str, Mapping[str, Any]], str]:
    def run(conversation: str, name: str, arguments: Mapping[str, Any]) -> str:
        done.append((conversation, name, dict(arguments)))
        return f"did {name}"

    return run


@pytest.fixture
def actions(tmp_path: Path, perform: Any) -> Iterator[Actions]:
    opened = Actions(tmp_path, perform)
    yield opened
    opened.close()


# ---- what is proposed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I want a refund for [order 1]", ["refund"]),
        ("It broke. Can I get my money back?", ["refund"]),
        ("Please refund me.", ["refund"]),
        ("Refund please", ["refund"]),
        ("我要退款", ["refund"]),
        ("东西坏了，能不能退款？", ["refund"]),
        ("麻烦帮我申请退款", ["refund"]),
        ("Could you send me a replacement?", ["replace"]),
        ("Please exchange it, it is too small", ["replace"]),
        ("可以换货吗", ["replace"]),
        ("I don't want a refund, I want a replacement", ["replace"]),
        ("I want a replacement instead of a refund", ["replace"]),
        ("我不要退款，我想换货", ["replace"]),
        ("How long does a refund take?", []),
        ("Where is my refund?", []),
        ("Could you tell me your refund policy?", []),
        ("退款多久到账？", []),
        ("你们的退款政策是什么", []),
        ("No refund needed", []),
        ("My parcel is late", []),
        ("Let me talk to a manager", ["hand_over"]),
        ("I want to speak to a human", ["hand_over"]),
        ("转人工", ["hand_over"]),
        ("叫你们经理来", ["hand_over"]),
        ("You will hear from my lawyer", ["hand_over"]),
        ("I will sue you", ["hand_over"]),
        ("我要去消协投诉", ["hand_over"]),
        ("I don't want to talk to a manager", []),
        ("I'm a lawyer and need a desk lamp", []),
        ("My agent number is wrong", []),
    ],
)
def test_what_the_customer_asks_for_is_proposed(text: str, expected: list[str]) -> None:
    assert names(customer(text)) == expected


def test_a_refund_rests_on_the_sentence_of_a_policy_that_grants_it() -> None:
    other = Post("opening", kind="article", text="We open at nine.")
    (proposal,) = propose(customer("Hello", "I want a refund for [order 1]"), [other, POLICY], "en")
    assert proposal.citations == (
        Citation("article", "returns", "You get a full refund within 30 days."),
        Citation("conversation", "1", "I want a refund for [order 1]"),
    )
    assert proposal.arguments == {"order": "[order 1]", "amount": None}


@pytest.mark.parametrize("text", ["We open at nine.", "Sale items are not refundable.", "特价商品不支持退款。", ""])
def test_without_a_policy_that_grants_it_nothing_is_proposed(text: str) -> None:
    assert names(customer("I want a refund", "我要退款"), [Post("p", text=text)]) == []


@pytest.mark.parametrize(
    ("items", "amount"),
    [
        ([{"order": "[order 1]", "total": 49.9, "price": 40}], 49.9),
        ([{"order": {"amount": "$1,049.90"}}], 1049.9),
        ([{"金额": "88元"}], 88.0),
        ([{"total": 10}, {"total": 20}], None),
        ([{"total": True, "price": -3}], None),
        ([], None),
    ],
)
def test_an_amount_comes_from_what_was_looked_up_alone(items: list[dict[str, Any]], amount: float | None) -> None:
    turns = customer("I paid $500, I want a refund") + [DeskTurn("knowledge", item=item) for item in items]
    assert propose(turns, [POLICY], "en")[0].arguments["amount"] == amount


def test_of_two_orders_none_is_guessed() -> None:
    assert (
        propose(customer("[order 1] and [order 2] came", "Refund please"), [POLICY], "en")[0].arguments["order"] is None
    )
    turns = customer("[order 1] came", "I want a refund for [order 2]")
    assert propose(turns, [POLICY], "en")[0].arguments["order"] == "[order 2]"


def test_a_wish_ends_when_it_is_granted_or_taken_back() -> None:
    asked = customer("I want a refund for [order 1]")
    assert names(asked + agent("Which order was it?") + customer("[order 1]")) == ["refund"]
    assert names(asked + agent("I have refunded your order.") + customer("And my other question?")) == []
    assert names(asked + agent("已为您退款。")) == []
    assert names(asked + customer("Sorry, I don't want a refund any more")) == []
    assert names(asked + customer("Actually, I want a replacement")) == ["replace"]


@pytest.mark.parametrize(
    "text", ["Thanks, bye!", "Great, thank you so much for your help.", "好的，谢谢", "No, that's all."]
)
def test_a_goodbye_closes_when_nothing_is_open(text: str) -> None:
    said = agent("It arrives on Monday. Is there anything else?")
    assert names(customer("Where is it?") + said + customer(text)) == ["close"]
    assert names(customer("Where is it?") + agent("One moment, let me check.") + customer(text)) == []
    assert names(customer("Where is it?") + agent("What is your name?") + customer(text)) == []
    assert names(customer(text)) == []


@pytest.mark.parametrize(
    "text", ["Thanks, but where is it?", "thanks for nothing", "谢谢，还有一个问题", "great", "ok"]
)
def test_what_is_no_goodbye_does_not_close(text: str) -> None:
    assert names(customer("Where is it?") + agent("On Monday.") + customer(text)) == []


def test_the_why_is_in_the_language_asked_for() -> None:
    assert propose(customer("I want a refund"), [POLICY], "zh")[0].why == "客户要求退款，相关政策有规定"


@given(st.lists(st.text(max_size=60) | st.sampled_from(["refund please", "我要退款", "[order 1]", "bye"]), max_size=6))
def test_whatever_is_said_a_proposal_is_one_of_the_actions_and_cited(texts: list[str]) -> None:
    for proposal in propose(customer(*texts), [POLICY], "en"):
        ACTIONS[proposal.name].check(proposal.arguments)
        assert proposal.citations


# ---- what is done


def test_nothing_is_done_before_a_person_approves(actions: Actions, done: Done) -> None:
    pending = actions.start("c", REFUND)
    assert (pending.state, pending.arguments) == ("waiting", REFUND.arguments)
    assert actions.pending("c") == [pending]
    assert done == []
    assert actions.decide("c", pending.id, "approve") == "did refund"
    assert done == [("c", "refund", dict(REFUND.arguments))]
    assert actions.pending("c") == []


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_can_be_approved(actions: Actions, done: Done, name: str) -> None:
    arguments = {one.name: 5.0 if one.type == "number" else "x" for one in ACTIONS[name].arguments}
    actions.decide("c", actions.start("c", Proposal(name, arguments, "")).id, "approve")
    assert done == [("c", name, arguments)]


def test_an_edit_changes_what_it_names_and_leaves_the_rest(actions: Actions, done: Done) -> None:
    actions.decide("c", actions.start("c", REFUND).id, "edit", {"amount": 12})
    assert done == [("c", "refund", {"order": "[order 1]", "amount": 12})]


@pytest.mark.parametrize(
    "arguments",
    [{"colour": "red"}, {"amount": "much"}, {"amount": -1}, {"amount": float("nan")}, {"order": 7}, {"order": None}],
)
def test_a_wrong_edit_is_refused_in_one_line_and_goes_on_waiting(
    actions: Actions, done: Done, arguments: dict[str, Any]
) -> None:
    pending = actions.start("c", REFUND)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        actions.decide("c", pending.id, "edit", arguments)
    assert actions.pending("c") == [pending]
    assert done == []


def test_what_is_missing_must_be_filled_in_before_it_is_done(actions: Actions, done: Done) -> None:
    pending = actions.start("c", Proposal("refund", {}, ""))
    with pytest.raises(ValueError, match="order"):
        actions.decide("c", pending.id, "approve")
    assert actions.decide("c", pending.id, "edit", {"order": "[order 2]"}) == "did refund"


def test_a_rejection_does_nothing_and_is_remembered(actions: Actions, done: Done) -> None:
    pending = actions.start("c", REFUND)
    assert actions.decide("c", pending.id, "reject", note="too late") == "refund: not done: too late"
    assert done == []
    assert actions.start("c", REFUND).state == "reject"
    with pytest.raises(DataError, match="already"):
        actions.decide("c", pending.id, "approve")


def test_the_same_proposal_is_the_same_pending(actions: Actions) -> None:
    pending = actions.start("c", REFUND)
    assert actions.start("c", REFUND) == pending
    assert actions.pending("c") == [pending]
    assert actions.start("d", REFUND).id != pending.id


def test_a_proposal_that_says_more_takes_the_place_of_one_that_waits(actions: Actions) -> None:
    less = actions.start("c", REFUND)
    more = actions.start("c", Proposal("refund", {"order": "[order 1]", "amount": 5.0}, ""))
    other = actions.start("c", Proposal("close", {}, ""))
    assert actions.pending("c") == [other, more]
    with pytest.raises(DataError):
        actions.decide("c", less.id, "approve")


def test_what_was_approved_is_not_proposed_again_when_more_is_known(actions: Actions, done: Done) -> None:
    actions.decide("c", actions.start("c", REFUND).id, "approve")
    again = actions.start("c", Proposal("refund", {"order": "[order 1]", "amount": 5.0}, ""))
    assert again.state == "approve"
    assert actions.pending("c") == []
    assert actions.start("c", Proposal("refund", {"order": "[order 2]"}, "")).state == "waiting"


def test_what_is_unknown_is_refused(actions: Actions) -> None:
    pending = actions.start("c", REFUND)
    for conversation, id in (("c", "nothing"), ("d", pending.id)):
        with pytest.raises(DataError):
            actions.decide(conversation, id, "approve")
    with pytest.raises(ValueError, match="delete_all"):
        actions.start("c", Proposal("delete_all", {}, ""))
    with pytest.raises(ValueError, match="decision"):
        actions.decide("c", pending.id, "approve", {"amount": 1})


def test_of_many_decisions_at_once_one_is_carried_out(tmp_path: Path, perform: Any, done: Done) -> None:
    opened = [Actions(tmp_path, perform) for _ in range(3)]
    with ThreadPoolExecutor(9) as pool:
        started = list(pool.map(lambda at: opened[at % 3].start("c", REFUND), range(9)))
        assert len({one.id for one in started}) == 1

        def decide(at: int) -> str:
            try:
                return opened[at % 3].decide("c", started[0].id, "approve")
            except DataError:
                return ""

        assert sorted(pool.map(decide, range(9))) == [""] * 8 + ["did refund"]
    assert len(done) == 1
    for one in opened:
        one.close()


def test_what_waits_survives_a_restart_and_what_was_done_too(tmp_path: Path, perform: Any, done: Done) -> None:
    first = Actions(tmp_path, perform)
    pending = first.start("c", REFUND)
    first.close()
    second = Actions(tmp_path, perform)
    assert second.pending("c") == [pending]
    assert second.decide("c", pending.id, "approve") == "did refund"
    second.close()
    third = Actions(tmp_path, perform)
    with pytest.raises(DataError):
        third.decide("c", pending.id, "approve")
    third.close()
    assert len(done) == 1


def test_when_performing_fails_the_proposal_waits_again(tmp_path: Path) -> None:
    failures = [OSError("the shop is down for 13812345678")]

    def perform(conversation: str, name: str, arguments: Mapping[str, Any]) -> str:
        if failures:
            raise failures.pop()
        return "done at last"

    opened = Actions(tmp_path, perform)
    pending = opened.start("c", REFUND)
    with pytest.raises(OSError, match="the shop is down"):
        opened.decide("c", pending.id, "approve")
    assert opened.pending("c") == [pending]
    assert b"13812345678" not in on_disk(tmp_path)
    assert opened.decide("c", pending.id, "approve") == "done at last"
    opened.close()


# ---- models that do what they should not


@pytest.mark.parametrize(
    "script",
    [
        [[("refund", {"order": "[order 9]", "amount": 9999})]],
        [[("refund", {"order": "[order 1]", "amount": 9999})]],
        [[("refund", {"order": "[order 1]", "all": True})]],
        [[("delete_everything", {})], [("refund", {"order": "[order 1]"})]],
        [[("delete_everything", {})]] * 50,
        [[("refund", {"order": "[order 1]"}), ("refund", {"order": "[order 1]"})]],
        [[("refund", {"order": "[order 1]"}), ("close", {})]],
        [[("refund", {"order": "[order 1]"}), ("delete_everything", {})]],
        [[("close", {})]],
        [[]],
        [RuntimeError("no connection")],
    ],
)
def test_a_hostile_model_does_nothing_and_changes_nothing(
    tmp_path: Path, perform: Any, done: Done, script: list[Any]
) -> None:
    opened = Actions(tmp_path, perform, model=Scripted(script=list(script)))
    pending = opened.start("c", REFUND)
    assert done == []
    assert opened.pending("c") == [pending]
    assert (pending.proposal.name, pending.arguments) == ("refund", REFUND.arguments)
    opened.decide("c", pending.id, "approve")
    assert done == [("c", "refund", dict(REFUND.arguments))]
    opened.close()


def test_a_model_that_calls_again_and_again_has_one_call_performed(tmp_path: Path, perform: Any, done: Done) -> None:
    call = [("refund", {"order": "[order 1]", "amount": None})]
    opened = Actions(tmp_path, perform, model=Scripted(script=[call] * 9))
    pending = opened.start("c", REFUND)
    assert done == []
    opened.decide("c", pending.id, "approve")
    assert len(done) == 1
    assert opened.pending("c") == []
    opened.close()


def test_a_model_may_fill_in_what_it_was_told(tmp_path: Path, perform: Any) -> None:
    proposal = Proposal("refund", {"order": None}, "asked for [order 3]")
    opened = Actions(tmp_path, perform, model=Scripted(script=[[("refund", {"order": "[order 3]"})]]))
    assert opened.start("c", proposal).arguments["order"] == "[order 3]"
    opened.close()


# ---- what is kept


def on_disk(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.glob("actions.db*")))


def test_only_masked_text_is_kept(tmp_path: Path, perform: Any, done: Done) -> None:
    opened = Actions(tmp_path, perform)
    cited = (Citation("conversation", "0", "write to jane@example.org"),)
    pending = opened.start("c", Proposal("refund", {"order": "[order 1]"}, "13812345678 asks", cited))
    opened.decide("c", pending.id, "edit", {"order": "ZX-998877"}, note="")
    second = opened.start("c", Proposal("replace", {"order": "[order 1]"}, ""))
    opened.decide("c", second.id, "reject", note="call 13812345678")
    assert done[0][2]["order"] == "ZX-998877"
    kept = on_disk(tmp_path)
    assert b"[order 1]" in kept
    for secret in (b"jane@example.org", b"13812345678", b"ZX-998877"):
        assert secret not in kept
    opened.close()


def test_a_forgotten_conversation_leaves_nothing_and_others_stay(actions: Actions, tmp_path: Path) -> None:
    gone = actions.start("gone", Proposal("hand_over", {"reason": "peculiar-words"}, "more-peculiar-words"))
    done = actions.start("gone", Proposal("close", {}, "other-words"))
    actions.decide("gone", done.id, "approve")
    kept = actions.start("kept", REFUND)
    assert b"peculiar-words" in on_disk(tmp_path)
    actions.forget("gone")
    assert actions.pending("gone") == []
    assert actions.pending("kept") == [kept]
    for words in (b"peculiar-words", b"other-words"):
        assert words not in on_disk(tmp_path)
    with pytest.raises(DataError):
        actions.decide("gone", gone.id, "approve")
    assert actions.decide("kept", kept.id, "approve") == "did refund"


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from whyfeed.agent.desk.actions import Actions, propose; "
        "propose([], [], 'en'); "
        "Actions(Path(sys.argv[1]), lambda *_: '').pending('c'); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'langchain', 'langchain_core', 'langgraph'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == "[]"
