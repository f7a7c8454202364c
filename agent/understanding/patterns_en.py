"""English patterns of `agent.understanding.patterns`."""

from __future__ import annotations

from whyfeed.agent.request import Intent

LIST = r"(?:list|feed|recommendations?|suggestions?|results?|timeline)"

SHOW = (
    r"(?:show|recommend|suggest|pick|picke?d?|cho?ose|give|gave|select|serve|bring|offer|push|send|sent|put|"
    r"include|rank|see|seeing|get|getting|find|want)\w*"
)

NEGATED = r"(?:don'?t|do not|never|no longer|not)"

TASTE = (
    r"(?:interested in|into|keen on|fond of|a (?:big |huge )?fan of|curious about|fascinated by|obsessed "
    r"with|crazy about|passionate about)"
)

GENERIC = (
    r"(?:something|anything|things?|stuff|posts?|articles?|reads?|ideas?|recommendations?|suggestions?|content|"
    r"some|a few|list|feed|picks?|one|ones|reading|options?)"
)

QUESTION = r"(?:do|does|did|can|could|should|would|will|is|are|was|were|to|might|must|has|have)"

# Orders to the system itself (prompt injection): treated as data, whatever else they ask for.
COMMAND = (
    r"\b(?:ignore|disregard|forget|override|bypass|overrule)\b.{0,30}\b(?:instructions?|prompts?|guidelines|"
    r"programming|system|(?:previous|prior|above|earlier|your|all) (?:rules|orders|commands|messages|context)"
    r")\b|\b(?:system|developer|hidden|initial) (?:prompt|message|instructions?)\b|\byour (?:instructions|"
    r"prompt)\b|\bjailbreak|\b(?:developer|admin|god|debug|dan) mode\b|\byou (?:are|'re) (?:now|no longer)"
    r"\b|\b(?:pretend|act) (?:to be|as|like you|you are|that you)\b|\bnew instructions?:|^\s*(?:system|assistant)"
    r"\s*:|<\|?(?:im_start|system|/?s)\b|\b(?:reveal|print|show|repeat|leak|output)\b.{0,20}\b(?:prompt|instructio"
    r"ns)\b"
)

# The whole message is small talk.
SMALLTALK = (
    r"(?:(?:hi|hiya|hello|hey|yo|howdy|greetings|hi there|hello there|hey there|good (?:morning|afternoon|"
    r"evening|night|day|bye)|bye(?: ?bye)?|goodbye|see (?:you|ya)(?: later| soon)?|thanks?(?: you)?(?: (?:so "
    r"much|a lot|very much|a bunch|again))?|many thanks|thx|ty|cheers|much appreciated|ok(?:ay)?|k|cool|nice|"
    r"great|good|awesome|perfect|wow|lol|haha+|yes|yeah|yep|no|nope|no thanks|sure|fine|alright|right|got "
    r"it|i see|sorry|welcome|you'?re welcome|never ?mind|forget it|help|please|not bad|no problem|no worries|"
    r"well done|good job|how are you(?: doing)?|how'?s it going|what'?s up|(?:so )?who (?:exactly )?are you(?: "
    r"exactly)?|that was (?:helpful|great|useful|fun|nice)|what are you|what can you do|how do(?:es)? (?:this|"
    r"you|it) work|are you (?:a )?(?:human|robot|bot|real|an ai)|what'?s your name|whyfeed|there|so|well)"
    r"[\s,.!?~]*)+"
)

# Intents recognised by unambiguous wording.
ASKED: tuple[tuple[Intent, str], ...] = (
    (
        "undo",
        r"^(?:please )?(?:undo|revert|roll ?back|go back|put it back|change it back|scratch that|unhide|restore)"
        r"\b",
    ),
    (
        "undo",
        r"\b(?:undo|take (?:that|it|this) back|take back (?:that|the|my|what)|(?:didn'?t|did not) mean (?:that|"
        r"to|it)|changed my mind|wrong (?:button|one)|(?:was|by) (?:a )?mistake|bring (?:that|it|them|those|this|"
        r"these) back|didn't mean|reverse (?:that|it|the|my)|cancel (?:that|it|the last|my last)|back (?:the "
        r"way|to how|to what) it was|bring back what)\b",
    ),
    (
        "forget",
        r"\bforget (?:about |everything |all |anything )*(?:(?:I |you )?(?:know |knew |ever )?(?:about|on|of|"
        r"regarding) )(?P<t>.+)",
    ),
    (
        "forget",
        r"\bforget (?:my (?:interest|likes?|love|taste|history|questions?)(?: (?:in|of|for|with|about))?|(?:that "
        r"|how |when )?I(?:'ve| have| ever|'m| am| was)*(?: \w+ed| \w+)?(?: about| into| to| in| on| for)?) (?P<t>.+)",
    ),
    (
        "forget",
        r"\b(?:erase|wipe|delete|remove|clear|purge|scrub|drop)\b(?: \w+){0,3}? (?:about|of|regarding) (?P<t>(?!me\b|"
        r"my\b).+?)(?: (?:from|that|in|which) (?:what|your|my|the|you)\b.*)$",
    ),
    (
        "forget",
        r"\bforget\b|\bunlearn (?P<v>.+)|\b(?:erase|wipe|clear|purge|clean)\b(?:.*\b(?:know|data|history|memory|"
        r"records?|slate|likes?|profile|everything|about|me|account)\b)(?:.*?\b(?:about|in|on) (?P<t>.+))?|\b(?:delete"
        r"|remove)\b.*\b(?:my (?:data|history|likes?|account|clicks|records?|activity)|know about me|from (?:your|"
        r"my|the) (?:memory|history|records?))\b|\b(?:don'?t|do not|stop|never|not to|want you to) remember(?:ing)"
        r"?\b(?: (?P<u>.+))?|\bget rid of (?:all )?my (?:data|history|records|likes|account)|\bfrom (?:your|my)"
        r" (?:memory|history|records)\b|\b(?:history|data|likes?|records?|clicks)\b.*\b(?:deleted|erased|wiped|"
        r"gone|forgotten|cleared)\b|\bhold (?:it|that|this) against me",
    ),
    (
        "why_not",
        r"\b(?:why|how come)\b.{0,12}?\b(?:no|not|don'?t|doesn'?t|didn'?t|isn'?t|wasn'?t|aren'?t|weren'?t|can'?t|"
        r"cannot|won'?t|haven'?t|hasn'?t|never|nothing|am i not|do i not|did i not|is there no\w*|are there no\w*)"
        r"\b(?: (?:I|you|we|there|any|ever|been|be|got|have|do|does|is|anything|a|single|more|get|about|on|me|"
        r"to|of|from|even|seem|able|much|many))*(?: (?:see|seeing|show\w*|recommend\w*|find|get|getting|suggest\w*|"
        r"includ\w*|pick\w*|giv\w+|receiv\w+|appear\w*|mention\w*))?(?: (?:me|any|anything|more|about|on|posts|"
        r"to))* (?P<t>(?!sure\b).+)",
    ),
    (
        "why_not",
        r"\b(?:why|how come)(?: (?:do|does|did|has|have|is|are))?(?: the| my)? (?P<t>.+?) (?:never|not|don't|"
        r"doesn't|isn't|aren't|haven't|hasn't|didn't)(?: \w+)? (?:turn\w*|show\w*|appear\w*|com\w+|pop\w*|here|"
        r"there|recommended|in my|on my|included|up)\b|\b(?:don't|never|can't|haven't|not|no longer) (?:see|get|"
        r"find|seen|seeing|getting|found)(?: any| a single| much)?(?: posts?)?(?: on| about)? (?P<u>[^,]+?)(?: "
        r"here| at all)?[,;.]? (?:why|how come)\b",
    ),
    (
        "why_not",
        r"\bhow is it (?:that )?(?:I|you) (?:never|don't|can't)(?: (?:get|see|show|seem|to|me|find|shown|any|"
        r"posts?|on|about))* (?P<t>.+)",
    ),
    (
        "why_not",
        r"\bwhy (?:are|did|do|have|would) you (?:hid|hide|hiding|hidden|leav\w+ out|left out|leave out|skip\w*|"
        r"drop\w*|remov\w+|filter\w* out|stopp?\w*(?: showing| recommending)?(?: me)?|exclud\w+|omit\w*|miss\w*)"
        r" (?P<t>.+)",
    ),
    (
        "why_not",
        r"\bwhere (?:are|is|did|have)(?: all)?(?: the| my)? (?P<t>.+?)(?: posts?| content| stuff)?(?: (?:go|gone|"
        r"went))?(?: to)?\s*\?*$|\bwhat(?:ever)?(?:'s| has| is| have)? (?:happened to|become of|became of|keeps|"
        r"stopping|keeping|hiding|blocking)(?: all)?(?: the| my)? (?P<u>.+)",
    ),
    (
        "why_not",
        r"\bwhy(?: did| has| is| are| have)?(?: all)?(?: the| my)? (?P<t>.+?) (?:disappear\w*|vanish\w*|gone "
        r"missing|gone|missing|filtered|hidden|blocked|absent|left out|not (?:here|there|shown|in (?:my|the) "
        r"\w+))\b",
    ),
    (
        "why_not",
        r"\bnever (?:see|get|show me) (?:any )?(?P<t>.+?),? (?:why|how come)|\bthere(?:'s| is| are)(?: no|n'?t "
        r"any) (?P<u>.+?)(?: here| in my \w+)?,? (?:why|how come)",
    ),
    (
        "why",
        r"^(?:but |so |and |ok,? )?(?:why|how come|reasons?|for what reason|what for)\W*$|\bhow (?:do|did) you "
        r"(?:decide|choose|pick|select|know)\b|^(?:but |so )?why (?:(?:is|was|are|were|does|did) )?(?:exactly "
        r")?(?:this|that|it|these|those|them|the (?:first|second|third|fourth|fifth|sixth|last|top|other)|number|"
        r"#|\d)(?![\w ]*\b(?:beer|so (?:hard|sour|bitter))\b)",
    ),
    (
        "why",
        rf"\b(?:why|how come|how|what made|what makes)\b.{{0,25}}\b(?:you|I|me|my)\b.{{0,10}}\b{SHOW}\b(?: (?:me|so|"
        r"much|many|all|the|any|these|those|this|that|posts?|about|on|it))*(?P<t>.*)|\b(?:shown|given|sent|seeing|"
        r"getting|get|see) so (?:much|many) (?P<w>.+)|\bwhy (?:so (?:much|many)|all (?:this|the|these)|always)"
        r" (?P<u>.+)",
    ),
    (
        "why",
        r"\b(?:reasons?|basis|rationale|justification) (?:for|behind|of|did|do)\b|\bon what (?:basis|grounds)"
        r"|\bwhere (?:does|did|do) (?:this|that|it|these|the).{0,30}(?:come|came) from|\bwhat (?:does|do|has|"
        r"have) (?:this|that|it|these).{0,12} to do with me|\bjustify\b|\bexplain (?:why|your|the|this|that) "
        r".{0,30}(?:pick|choice|recommend|suggest|here|selected|chose)|\bin my (?:history|past|profile)\b.*\b(?:led|"
        rf"made|caused|lead)|\bwhy\b.*\b(?:recommended|suggested|selected|chosen|on my {LIST}|in my {LIST}|for "
        r"me|picked)\b|\bhow did .* get (?:in )?here",
    ),
    (
        "profile",
        r"\b(?:know|learn\w*|believe|think|remember|stored?|hold|keep|gather\w*|figured|worked|picked|got|have|"
        r"collect\w*|noticed?|understand|assum\w+|tell)\b.{0,20}\b(?:about|on|of) (?:me|myself)\b|^(?!.*\b(?:forget|"
        r"erase|delete|remove|why)\b).*\babout (?:me|myself)\b|^(?!.*\bwhy\b).*(?<!to )(?<!into )(?<!from )(?<!near "
        r")(?<!in )\bmy (?:own |current |personal )?(?:profile|interests|preferences|tastes?|settings|rules|filters|"
        r"mutes|blocks|history|likes|activity)\b(?!\W+(?:in|for) )|^(?!.*\bwhy\b).*\bdo(?:es)? (?:you|it) think "
        r"(?:that )?(?:I|i'm|i am)\b|\bwho (?:do you think )?am i\b|\bam i (?:someone|a|the|into|interested|known|"
        r"block\w*|mut\w*|follow\w*|hid\w*)\b|\b(?:rules|filters|mutes)\b.*\b(?:active|on|in force|set|have)\b|"
        r"\b(?:have|did) I (?:muted|blocked|liked|hidden|told|saved|hide|mute|block|like|follow\w*)\b|\byour "
        r"(?:picture|image|idea|impression|view|model|opinion|take|read) (?:of|on) (?:me|my)\b|^(?!.*\b(?:to|"
        r"into|in|from|near|shares?|share|with|match\w*|like|of) my\b).*\bmy (?:tastes?|interests|preferences|"
        r"profile)\W*$|\b(?:see|view|describe) me\b|^what (?:kinds? of \w+ )?(?:do|did|would) I (?:care about|"
        r"like|enjoy|prefer)\b",
    ),
    (
        "people",
        r"^(?:so |and )?(?:who|whom)(?:'s| is| are| else| here| among)*\b(?!.*\byou\W*$)(?! (?:won|wrote the|"
        r"invented|discovered|are you|is the (?:president|king|prime|ceo))).*?(?:\b(?:about|on|in|into|of|with|"
        r"like|likes|knows?|understands?|for|does|loves?|does)\b (?P<t>(?!(?:me|this|that|it)\b).+))?$|\bwhose "
        r"(?:posts?|answers?|feeds?|work|writing)\b|\b(?:subscribe to|follow)\W*$",
    ),
    (
        "people",
        r"\b(?:people|persons?|users?|members?|experts?|authors?|writers?|accounts|contributors?|friends?|someone|"
        r"somebody|anyone|anybody|folks|specialists?|enthusiasts?|fans|gurus?|bloggers?|others) (?!say|talk|think)"
        r"(?:(?!say|talk|think|written|wrote|posted|asked|discuss)\w+ ){0,3}?(?:(?:about|on|in|of|into|with|like|"
        r"likes|loves?|knows?|enjoys?|understands?|drinks?|plays?|for) )(?P<t>.+)",
    ),
    (
        "people",
        r"\b(?:recommend|suggest|find|show|any|some|good|interesting|introduce|meet)(?: me| to)?(?: \w+)? (?:people|"
        r"users?|members?|experts?|authors?|friends?|accounts?|contributors?|someone)\b|\b(?:people|users|members|"
        r"accounts|authors) (?:to follow|worth|like me|similar|with)\b|\bto follow\b|\bmeet (?P<t>(?!you\b|up\b)"
        r".+)",
    ),
    (
        "groups",
        r"^(?!.*\b(?:about|on|for|of|in)\b)(?:(?:I|want|to|join|any|a|an|some|good|find|me|recommend|suggest|"
        r"is|are|there|the|best|show|which|what|looking|active) )*(?P<t>[\w' -]+?) (?:groups?|communit(?:y|ies)"
        r"|clubs?|forums?|meetups?|circles?)\b(?! (?:should|would|could|do|near|similar|might|is|are|that))",
    ),
    (
        "groups",
        r"\b(?:groups?|communit(?:y|ies)|clubs?|forums?|subforums?|subreddits?|channels?|circles?|meetups?|societ(?:y|"
        r"ies))\b(?: (?:are|is|there|that|which|where|to|join|discuss\w*|talk\w*|cover\w*|deal\w*|dedicated|devoted|"
        r"focus\w*))*(?: (?:about|on|for|of|in|around|to|with))? ?(?P<t>.*)",
    ),
    (
        "groups",
        r"\bwhere (?:do|can|could|does|would)\b(?: I)?(?: (?:find|meet))?(?: other)? (?P<t>.+?)(?: (?:players?|"
        r"lovers|fans|people|folks|enthusiasts|hang(?:ing)? out|meet|gather|talk|discuss|chat))+|\bplaces? to "
        r"(?:discuss|talk about|chat about) (?P<u>.+)|\bwhere can I (?:discuss|talk about|meet(?: other)?|find "
        r"other) (?P<v>.+)",
    ),
)

# These need a post to refer to (compare: two); without one, later rules are tried.
POINTED: tuple[tuple[Intent, str], ...] = (
    (
        "compare",
        r"\bcompar(?:e|ed|es|ing|ison)\b|\bvs\b|\bversus\b|\bcontrast\b|\bside by side\b|\b(?:better|worse|easier|"
        r"harder|deeper|longer|newer|clearer)\b|\b(?:differ|overlap|similar|alike|agree|contradict|disagree)\w*|"
        r"\b(?:same|in common|apart|against|relate)\b|(?:\d|first|second|third|fourth|fifth|last)\b.*\bor\b.*(?:\d|"
        r"first|second|third|fourth|fifth|last)\b|\bwhich of (?:the|these|those) two\b",
    ),
    (
        "why",
        r"\bwhy\b|\bhow come\b|\b(?:reason|logic|thinking|rationale|motivation|reasoning)s?\b.*\b(?:behind|for|"
        r"of)\b|\bwhat (?:makes|made) you\b|\bhow did\b.*\b(?:get|end|land|make|come|wind|show|appear)\b",
    ),
    (
        "hide",
        r"\balready\b.*\b(?:read|seen|know|knew|watched)\b|\b(?:have|'ve) (?:read|seen|watched)\b|^(?:seen|read|"
        r"know) (?:this|that|it)\b|\bI (?:just |once )?(?:read|saw|finished|watched|know|knew) (?:this|that|it|"
        r"the|#|number)\b",
    ),
    (
        "summarise",
        r"\bsum(?:med|ming)? (?:it |this |that |them )?up\b|\bsummar(?:y|ies|i[sz]e\w*)\b|\btl;?\s?dr\b|\bgist\b|"
        r"\b(?:condense|shorten|paraphrase|overview|synopsis|sentences?|words)\b|\bgoing on about\b|\bin (?:short|"
        r"brief|a nutshell)\b|\bboil\b.*\bdown\b|\b(?:brief|fill|clue) me\b|\b(?:main|key) (?:points?|ideas?|"
        r"messages?|takeaways?)\b|\btake-?aways?\b|\bshort(?:er|en)?\b|\brecap\b|\bwhat(?:'s| is| are| does| "
        r"do| did)\b.*\b(?:about|say|says|in|inside|contain\w*|mean|answer\w*|conclu\w+|claim\w*|argu\w+)\b|\btell "
        r"me (?:more |what )?|\bmore (?:about|on|info|details?)\b|\bdetails?\b|\b(?:open|read|explain|describe|"
        r"outline|elaborate|expand|digest|condense)\b|\bwalk me\b|\banswers? (?:in|to|of)\b",
    ),
    (
        "hide",
        r"\b(?:hide|remove|dismiss|delete|drop|skip|discard|cross|throw|toss|wipe|bin|ditch|kick|lose|take|get "
        r"rid|away|clear|close|block|mute|bin|chuck|trash|banish|disappear|vanish|gone|go|out)\b|\b(?:not|no)"
        r"\b(?! (?:like|similar|for me|my|interested|into|really|a fan|good|keen|fond))|\b(?:don'?t|do not|never|"
        r"no need)\b.*\b(?:show|want|see|display|need|bring|again|come)\b|\b(?:already|have|'ve) (?:\w+ )?(?:read|"
        r"seen|know|knew|watched)\b|\b(?:read|seen|know) (?:this|that|it)\b.*\b(?:already|before)?|\bnot interested\b",
    ),
)

# One clause of steering.
STEER: tuple[tuple[Intent, str], ...] = (
    (
        "less_like",
        r"^(?:posts?|things?|stuff|articles?|anything|ones) like (?P<t>.+?) (?:are|is|isn't|aren't|was|were) "
        r"(?:not|a waste|boring|no |never|what I don't).*$",
    ),
    (
        "less_like",
        r"^(?:(?:even|much|a (?:bit|little|lot)|some|way|far|rather|show(?: me)?|give(?: me)?|with) )*(?:less|"
        r"fewer)(?: of)? (?P<t>.+)",
    ),
    (
        "less_like",
        r"^(?!what|which|how|why|who|is |are |does |do |when |where |tell|could|more)(?:[\w']+ ){1,5}?(?:fewer|"
        r"less)(?: of)? (?P<t>(?!than\b).+)",
    ),
    (
        "less_like",
        r"^(?:please )?(?:lay off|ease (?:off|up)(?: on)?|go (?:easy|light) on|back off(?: on)?|cool it (?:with|"
        r"on)|take a break from|hold off(?: on)?|knock off|steer clear of|be done with|give up on|scale back|"
        r"wind down)(?: (?:the|all))* (?P<t>.+)|^(?P<u>.+?) (?:leaves? me cold|puts? me off|does nothing for "
        r"me|do nothing for me|wears? me out|gets? on my nerves|makes? me yawn|drives? me (?:mad|crazy))\b|^give "
        r"(?P<v>.+?) a (?:rest|break)",
    ),
    (
        "less_like",
        r"^(?:and |but )?(?:absolutely |really |please )*(?:no|not|without|nothing|none of|zero)(?: more| any "
        r"?more| any| so (?:much|many)| too (?:much|many))? (?P<t>(?!sure|now|bad|idea|problem|thanks|worries|"
        r"one\b|yet|interested|into|keen|fond|a (?:big |huge )?fan|for me|my|really|at all|that into|very|particularly"
        r").+)",
    ),
    (
        "less_like",
        r"^(?:stop|quit|cease|no need (?:for|to)|enough|refrain from)(?: (?:it )?(?:with|of))?(?: (?:showing|"
        r"sending|recommending|suggesting|giving|pushing|serving|feeding|posting|show|offering)(?: me)?)?(?: "
        r"(?:with|of|about|so much|so many|any|all))* (?P<t>.+)",
    ),
    (
        "less_like",
        rf"^(?:I )?(?:really |just |honestly )?{NEGATED}(?: really| ever| want you to| wanna| want| need| like|"
        r" love| enjoy| care(?: much)?(?: about| for)| show| recommend| suggest| send| give| push| bother| feed|"
        r" be| to)+(?: (?:me|us|to|see|read|hear|seeing|reading|hearing|about|anything|with|any|more|so|much|"
        r"many|too|another|posts|of))* (?P<t>.+)",
    ),
    (
        "less_like",
        r"^(?:I )?(?:really |absolutely |totally |just )?(?:hate|dislike|loathe|detest|despise|can'?t stand|couldn'?t "
        r"care less about|could do without|can do without|could live without|had enough of|didn'?t (?:like|enjoy|"
        r"care for)) (?P<t>.+)",
    ),
    (
        "less_like",
        r"^(?:I(?:'m| am) |I'?ve (?:got|become|grown) )?(?:(?:really|so|just|quite|a bit|getting|totally|a little|"
        r"pretty|very) )*(?:(?:not|no longer|never)(?: (?:at all|really|that|very|particularly|too|much|so|all "
        rf"that))* (?:{TASTE}|for|about)|uninterested in|(?:sick|tired|bored|fed up|done|finished|over)(?: and "
        r"tired)?(?: (?:of|with|by))?) (?:any )?(?P<t>.+)",
    ),
    (
        "less_like",
        r"^(?:I(?:'ve| have) )?(?:had |seen |read |heard |got |getting |there(?:'s| is| are) )?(?:more than |"
        r"quite |way |far |already )*(?:enough|too much|too many)(?: of| about| on)? (?P<t>.+?)(?: (?:in here|"
        r"here|in my \w+|lately|for (?:one|a) (?:day|lifetime)|already))*$",
    ),
    (
        "less_like",
        r"^(?:please |kindly )?(?:avoid|mute|block|exclude|filter(?: out)?|ban|drop|skip|leave out|cut(?: down "
        r"on| out| back on| down| back)?|tone down|turn down|dial (?:down|back)|go easy on|ease (?:off|up) on|"
        r"reduce|limit|decrease|lower|downrank|minimi[sz]e|spare (?:me|us)|hold|hide|remove|get rid of|take out|"
        r"keep out|kill|lose|minus|unfollow|except|anything but|anything except|pass on)(?: (?:the amount of|"
        r"all|any|everything|posts|anything))?(?: (?:about|on|with))? (?P<t>.+)",
    ),
    (
        "less_like",
        r"^(?:keep|leave|take|tone|turn|cut|filter|get|dial|throw|kick|chuck)(?: all)? (?P<t>.+?) (?:away|out|"
        r"down|off|aside|to a minimum)(?: .{0,25})?$",
    ),
    (
        "less_like",
        r"^(?P<t>.+?) (?:bores?|annoys?|irritates?|tires?|wearies?|depresses?) me\b|^(?P<u>.+?) (?:(?:is|are)"
        r"(?: really| so| just| all)? )?(?:boring|dull|(?:not|isn'?t|aren'?t) (?:for me|my (?:thing|cup of tea|"
        r"taste|style)|interesting)|overrated|a turn-?off|annoying)\b|^(?P<v>.+?) (?:isn'?t|aren'?t|ain'?t) (?:for "
        r"me|my (?:thing|cup of tea))",
    ),
    (
        "more_like",
        r"^(?:(?:I|wouldn't mind|don't mind|could do with|could use|welcome|happy to see|even|some|a (?:bit|little|"
        r"lot)|much|lots?|way|far|ever|yes|send(?: me)?|show(?: me)?|give(?: me)?|with|see|there was|there were|"
        r"add) )*more(?: of)? (?P<t>.+)",
    ),
    (
        "more_like",
        r"^(?:(?:something|anything|things?|posts?|stuff|others?|find|show|give|get|me|another|one|exactly|just|"
        r"a few|further) )*(?:like|similar to|resembling|comparable to|in (?=that|this|the same)|along the lines "
        r"of|in the (?:vein|style) of|close to|akin to) (?P<t>.+)",
    ),
    (
        "more_like",
        r"^(?:I )?(?:(?:really|absolutely|totally|do|also|just|always|quite|rather|particularly|have) )*(?:like|"
        rf"love|adore|enjoy|liked|loved|enjoyed|fancy|prefer|am {TASTE}|care (?:a lot |deeply )?about|can'?t get "
        r"enough(?: of)?) (?P<t>(?!to\b).+?)(?:,? (?:keep (?:it|them) coming|the most|a lot|very much))?$",
    ),
    (
        "more_like",
        r"^(?:please )?keep (?:on (?:showing|sending)(?: me)? )?(?:the |up the )?(?P<t>.+?) (?:coming|flowing|"
        r"up)$|^(?:I(?:'m| am) )?(?:a )?(?:big|huge|massive|great|real)? ?fan of (?P<u>.+?)(?: here)?$|^(?:give "
        r"me |send me |I want )?(?:extra|additional|further|another) (?:helpings?|doses?|servings?|portions?)"
        r" of (?P<v>.+)",
    ),
    (
        "more_like",
        r"^(?:I(?:'m| am)|I'?ve (?:got|become|been))(?: (?:really|very|quite|so|super|also|getting|now|recently|"
        rf"lately|pretty|rather))* {TASTE} (?P<t>.+?)(?: (?:these days|lately|recently|now))?$",
    ),
    (
        "more_like",
        r"^(?:(?:give|show|I want|send)(?: me)? )?(?:plenty|lots|tons|loads|heaps) of (?P<t>.+)|^(?:please )?(?:increa"
        r"se|boost|bump up|turn up|dial up|crank up|ramp up|amp up|step up|push up|push|prioriti[sz]e|favou?r|"
        r"focus on|concentrate on|add|include|put back|allow|unmute|unblock|re-?enable|emphasi[sz]e|pile on|start "
        r"(?:showing|recommending|sending)(?: me)?|bring back)(?: the amount of| some| back)? (?P<u>(?!what).+?)"
        r"(?: (?:to|into|in) my (?:list|feed|interests|recommendations))?$",
    ),
    (
        "more_like",
        r"^(?:show|recommend|suggest|send|bring|put|give|let)?(?: me)? ?(?P<t>.+?) (?:more often|more frequently|"
        r"back in|is welcome|are welcome|is (?:fine|ok|okay) again|would be nice)\b|^(?P<u>.+?) (?:is|are|was|"
        r"were)(?: (?:really|just|so|pretty|very|absolutely))* (?:great|good|brilliant|excellent|lovely|perfect|"
        r"amazing|awesome|fantastic|spot on|interesting|fun|wonderful|my (?:favou?rite|thing|jam)|nice|what I "
        r"want\w*)\b.*$",
    ),
)

# The whole message asks to delete everything that is known about the user.
_THING = r"(?:data|accounts?|profile|history|records?|info(?:rmation)?|details|events|activity|membership)"
_ALL = (
    r"(?:(?:absolutely |simply )?everything|it all|all(?: of)? (?:it|this|that|them)|all|(?:about )?me|"
    r"(?:all )?(?:of )?my (?:whole |entire |complete |personal |user |own |reading |stored )*"
    + _THING
    + r"(?:(?:,| and| &|, and) (?:all )?(?:of )?(?:my )?(?:personal |user )*(?:"
    + _THING
    + r"|everything))*|"
    r"(?:the |this )?account|(?:every|any|each|all|all the) (?:traces?|memory|memories|records?|information|data)"
    r" (?:of|about|on) me|(?:everything|all|anything|what(?:ever)?)(?: that| which)? "
    r"(?:you|whyfeed)(?:'ve|'s)?(?: \w+){0,2}? "
    r"(?:knows?|ha(?:ve|s)|keeps?|kept|stored?|learn(?:t|ed)|remember(?:ed)?|saved|collected|got)"
    r"(?: (?:about|on|of|from) me)?)"
)
_DELETE = r"(?:forget|erase|delete|remove|wipe|purge|clear|destroy|scrub|get rid of|throw away|drop)"
ERASE = (
    # "Clear all" alone may mean a list or a filter.
    r"(?:(?!(?:clear|remove|drop|get rid of|throw away)(?: out)? (?:all|it all|everything)$)"
    r"(?:how (?:do|can) I |I (?:want|wish|need) to |(?:I'?d|I would) like to |you (?:should|must|may) |"
    r"(?:I )?(?:want )?you to |now )?(?:"
    + _DELETE
    + r"(?: out)? "
    + _ALL
    + r"|(?:close|cancel|deactivate|terminate|end) (?:my|the|this) account)"
    r"|(?:(?:I |I'?d |would )*(?:want|like|wish|need|have) )?(?:all )?(?:of )?my "
    + _THING
    + r"(?: should| must| has| have)?(?: to)?(?: be)? (?:deleted|erased|removed|wiped|closed|gone|forgotten)"
    r"|(?:(?:I |I'?d |would )*(?:want|like|wish) )?(?:to )?be (?:completely )?(?:forgotten|erased|deleted)"
    r"|(?:(?:I |I'?d |would )*(?:want|like|wish) to )?(?:use|exercise|invoke|assert|claim) (?:my |the )?right to "
    r"(?:be forgotten|erasure)|(?:I have (?:a|the)|(?:this|it) is my) right to (?:be forgotten|erasure))"
    r"(?: (?:about|on|of|from|for) (?:me|myself|here|your (?:memory|records?|database|systems?|servers?)))*"
    r"(?:[ ,.;!]+(?:please|now|immediately|at once|for good|forever|permanently|completely|entirely|right now|"
    r"right away|today|thanks|thank you|(?:and )?I mean it|seriously|all of it))*(?: ?\(?(?:under the )?GDPR\)?)?"
)
# Answers to "shall I?".
AGREED = (
    r"(?:(?:yes|yeah|yep|yup|sure|certainly|absolutely|definitely|i (?:do|am sure|confirm|agree)|i'?m sure|"
    r"confirm(?:ed)?|do (?:it|that|so)|go ahead|please do|(?:please )?"
    + _DELETE
    + r" (?:it|them|"
    + _ALL
    + r"))[ ,.!]*(?:please[ ,.!]*)?)+"
)
# Neither a yes nor a no, but about the question.
UNSURE = r"(?:ok(?:ay)?|alright|fine|maybe|perhaps|hm+|yes|yeah|sure|really|what|why)[ ,.!?]*"
_NO = (
    r"(?:no|nope|nah|never|stop|cancel|wait|don'?t|do not|keep (?:it|them|everything|all)|leave it|never ?mind|"
    r"better not|not (?:now|yet|really))"
)
DECLINED = _NO + r"(?:[ ,.!]+(?:" + _NO + r"|thanks|thank you|please|do (?:it|that)|delete (?:it|anything)))*[ ,.!]*"
# What was done last is meant: "forget that", "forget the last one".
LAST = r"\b(?:that|this|those|these|it|last|latest|just|recent|previous|newest)\b"
