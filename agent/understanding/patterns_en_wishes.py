"""English patterns of wishes and searches; the other English patterns are in `agent.understanding.patterns_en`."""

from __future__ import annotations

from whyfeed.agent.request import Intent
from whyfeed.agent.understanding.patterns_en import GENERIC, QUESTION
from whyfeed.agent.understanding.topics import ABOUT, NOUN

# Asks for posts that were not shown yet.
OTHERS = (
    r"\b(?:others|something else|anything else|what else|something different|anything different|another (?:one|"
    r"batch|set|round|few)|next (?:batch|page|ones?|set|few)|(?:some|any|a few|\d+|two|three|four|five) more|"
    r"more(?: please| posts| options)?$|(?:different|new|other|fresh) (?:ones|posts|list|set|selection|lot|"
    r"bunch|round|suggestions|recommendations|things|stuff|batch|picks)|refresh|reload|reshuffle|shuffle|"
    r"try again|none of these|not these|keep going|continue|next)\b"
)

# Plain wishes for recommendations.
RECOMMEND: tuple[tuple[Intent, str], ...] = (
    (
        "recommend",
        r"\bwhat (?:should|shall|can|could|would|do|might|must) (?:I|we|you)(?: \w+)? ?(?:read|look at|suggest|"
        r"recommend|see|check out|watch|browse|start with|try|have)\b(?!.*\b(?:about|on)\b \w)|\bwhat(?:'s| is|"
        r" are| has)?(?: there| been| you)? ?(?:good|hot|new|up today|trending|interesting|worth|popular|happening|"
        r"going on|on today|for me|next|got|have you got)\b(?!.*\b(?:about|on|in|with)\b \w)|\bsurprise me|\b(?:I'?m|"
        r"am|so|feeling) bored|\bentertain me|\bwhat did i miss|\bwhat have you got|\bjust show me (?:stuff|things)",
    ),
    (
        "recommend",
        r"^(?:(?:any|some|got|have|do you have|is there|are there|show|give|get|find|recommend|suggest|pick|choose|"
        r"bring|send|list|see|read|me|us|a|an|the|few|my|new|good|great|interesting|best|top|today'?s|worth|more|"
        r"other|else|nice|fresh|random|hidden|for|to|want|need|like|of|what|can you|could you|please|\d+|one|"
        rf"two|three|four|five|six|seven|eight|nine|ten|next|fun|cool|different)\s+)*{GENERIC}(?:\s+(?:for me|"
        r"to read|to look at|please|else|good|new|interesting|nice|fun|today|now|worth reading|worth my time|"
        r"to me|tonight|this morning|this week|i'?d (?:like|enjoy|love)|more|different|fresh|for (?:today|tonight|"
        r"the|my) ?\w*))*[.!?]*$|^(?:recommend|suggest|show me|more|next|others?|another|refresh|go on|continue|"
        r"feed|list)[.!?]*$",
    ),
)

# Searches. Loose patterns, tried late, because questions look like many other intents.
SEARCH: tuple[tuple[Intent, str], ...] = (
    (
        "search",
        r"(?:^|\b)(?:something|anything|info(?:rmation)?|news|videos?|clips?|products?|artists?|bands?|guides?|"
        r"tutorials?|introductions?|explanations?|resources|papers?|book|books|tips|advice|links|opinions?|question|"
        rf"help|everything|reading|{NOUN})(?: (?:that'?s |that is |which is )?(?:good|new|nice|interesting|cool|"
        rf"fun|else|more|worth reading|for me|to read|useful|decent|recent|available|out there))*,? (?:{ABOUT}|"
        r"with|from|by|of|to do with|that (?:discuss|cover|explain|mention|talk about|deal with)s?|discussing|"
        r"explaining|mentioning|for|to|in) (?P<t>.+)",
    ),
    (
        "search",
        r"^(?:what|is there|are there|have you got|do you have|got|any(?:thing)?)(?:'s| is| are| has)?(?: (?:there|"
        r"been|people|you|folks|everyone|going on|happening|new|happen\w*|say\w*|talk\w*|hot|good|interesting|"
        r"discuss\w*|written|any(?:thing)?|posted|the latest|the news|up|the buzz))* (?:in|on|about|with|around|"
        r"regarding) (?P<t>.+)|^(?:the )?latest (?:on|in|from|about|news on) (?P<u>.+)",
    ),
    (
        "search",
        r"^(?:(?:tell|teach|inform|educate)(?: me)?(?: more| something| a bit| everything)?(?: about)?|talk(?: "
        r"to me)? about|(?:learn|read|hear|know|find out|understand)(?: more| something| a bit| up)?(?: about|"
        r" on)?|(?:dig|pull) up(?: something| anything)?(?: about| on)?|(?:where|how) (?:can|could|do|should|"
        r"would|might) I (?:find out|read|learn|find|see|hear)(?: more| something| up)?(?: about| on)?|help(?: "
        r"me)?(?: with| understand)|question about|read up on) (?P<t>.+)",
    ),
    (
        "search",
        r"^(?:find|search(?: for)?|look(?:ing)?(?: for| up| into)?|show|give|get|recommend|suggest|bring|fetch|"
        r"list|browse|explore|google|check|see|discover|hunt(?: for)?|need|want|interested in)(?: me| us)?(?: "
        r"(?:some|any|a few|more|good|all|the best|best|great|\d+|one|two|three|four|five|six|ten|interesting|"
        rf"new|recent|nice|decent))*(?: {NOUN})?(?: (?:{ABOUT}|with|for|of))? (?P<t>.+)",
    ),
    (
        "search",
        r"\b(?:anyone|anybody|people|somebody|someone) (?:here )?(?:discussing|talking about|writing about|posting "
        r"about) (?P<w>.+)|\bwhat posts? (?:exist|are there|there are|do you have|you have)(?: (?:about|on))? "
        r"(?P<x>.+)|\b(?:has|have|did) (?:anyone|anybody|someone|people|we) (?:here )?(?:ever )?(?:written?|wrote|"
        r"posted?|asked?|said|talked?|discussed?|tried)(?: anything)?(?: about| on)? (?P<t>.+)|^what (?:does|"
        r"do|did)(?: the (?:term|word))? (?P<u>.+?) (?:mean|stand for|refer to)\W*$|^I'?m (?:after|researching|"
        r"studying|working on|learning about|reading up on|looking into)(?: (?:some|any|material|info|information|"
        r"posts))*(?: on| about)? (?P<v>.+)",
    ),
    (
        "search",
        r"^how (?:do|does|did|would)(?: an?| the)? (?P<t>.+?) (?:work|function)s?\W*$",
    ),
    (
        "search",
        r"^(?:what(?:'s| is| are| was| were) the difference between|what(?:'s| is| are| was| were| does| do)(?: "
        r"exactly)?|who (?:is|was)|define|explain|describe|introduce(?: me to)?|why|how(?: (?:long|much|many|"
        rf"often|far|hard|big|old|fast))? {QUESTION}|how|when {QUESTION}|where {QUESTION}|which|is it (?:true|"
        rf"possible) (?:that|to)|can (?:you|I|one|we))(?: (?:{QUESTION}|I|we|you|one|people|the))* (?P<t>.+)",
    ),
    (
        "search",
        r"^(?P<t>.+?) (?:posts|articles|threads|questions|videos|stuff|content|news|discussions)(?: please)?$",
    ),
)

# Out of scope.
OUT: tuple[tuple[Intent, str], ...] = (
    (
        "out_of_scope",
        r"\b(?:(?:how|what)(?:'s| is| will)? the weather|weather (?:today|tomorrow|like|here|forecast)|"
        r"temperature outside|my homework|what time is it|the time now|tell me a (?:joke|"
        r"story)|(?:set|start) (?:a|an|the|my) (?:timer|alarm|reminder)|remind me to|translate|stock price|exchange "
        r"rate|capital (?:city )?of|who won|password|(?:write|draft|compose|type)(?: me| up)? (?:my|a|an|the|"
        r"some)|(?:book|order|buy)(?: me)? (?:a|an|some|two|tickets)|(?:turn|switch) (?:on|off)|call (?:my|a|"
        r"the)|(?:send|email|text) (?:an?|my|the|him|her|to)|play (?:some|a|the|me|my)|debug|fix (?:my|the|this)"
        r" (?:code|bug)|drop the (?:database|table)|order(?: me)? (?:a|some)|what(?:'s| is) \d+ ?(?:times|plus|"
        r"minus|divided|[x*+/-])|calculate|solve)\b",
    ),
    (
        "out_of_scope",
        r"\b(?:what|which|show|list|tell|see)\b.*\b(?:other (?:users|people|members)|(?-i:[A-Z][a-z]+))(?:'s)"
        r"? (?:has |have |is |are )?(?:liked|reads?|reading|saved|clicked|likes|history|profile|password)\b|\bonly "
        r"recommend my\b|\bput \w+ (?:first|on top|at the top)\b",
    ),
)

# Group w is wanted, group o is not.
EXCHANGE = (
    r"^(?:I )?(?:prefer|would prefer|would take|would choose|favou?r|choose) (?P<w7>.+?) (?:over|to|above)"
    r" (?P<o7>.+)$|^(?:(?:more|show me|give me|rather|some) )?(?P<w>.+?),? (?:instead of|rather than) (?P<o>.+)"
    r"$|^(?:replace|swap|exchange)(?: the| all)? (?P<o2>.+?) (?:with|for|by) (?P<w2>.+)$|^(?:instead of|rather "
    r"than) (?P<o3>.+?),? (?:more|show me|give me|I(?:'d| would) (?:like|prefer))? ?(?P<w3>.+)$"
)

# The text after this is not wanted in a search.
EXCEPT = (
    r",? +(?:but +(?:not|no|nothing about|without)|without|except(?: +for)?|excluding|other than|apart from|"
    r"minus|and not)(?: +(?:any|about|the))* +"
)

# A comparison, even when its posts cannot be determined.
COMPARE = (
    r"\bwhich of (?:the|these|those) two\b|\bcompar(?:e|ing|ison)\b(?= (?:\d|these|those|them|the|this|it|"
    r"both|all)|$)"
)

# Negates OTHERS.
NOT_OTHERS = r"\blike\b|\bdon'?t\b|\bstop\b|\bnever\b|\bno\b"

# Words that follow the topic of a why_not question.
WHY_NOT_TAIL = (
    r"(?: (?:recommended|shown|included|suggested|mentioned|listed|appear\w*|show(?:ing)? up|here|go(?:ne)"
    r"?|anymore|any more|from (?:me|my \w+|show\w+ up)|(?:in|on|to) (?:my|the|this) \w+))+\W*$"
)

# Posts like a given post, not the post itself.
LIKE = r"\b(?:like|similar to) (?:the|this|that|number|post|#|\d|these|those)"
