"""The written rules of `agent.understand`: patterns in order, the surest first.

In each, the group `t` (or `u`, `v` in a second and third form of the same wish) is the part of the
sentence in which a topic or a reference stands. Plain alternatives, no nested repetition: they are
only ever matched against a few hundred characters.
"""

from __future__ import annotations

import re

from agent.request import Intent
from agent.topics import ABOUT, NOUN

Rules = tuple[tuple[Intent, re.Pattern[str]], ...]


def _rules(*rows: tuple[Intent, str]) -> Rules:
    return tuple((intent, re.compile(pattern, re.IGNORECASE)) for intent, pattern in rows)


# A text that gives the system orders about itself is data, whatever else it asks for.
COMMAND = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|overrule)\b.{0,30}\b(?:instructions?|prompts?|guidelines|programming|system|"
    r"(?:previous|prior|above|earlier|your|all) (?:rules|orders|commands|messages|context))\b"
    r"|\b(?:system|developer|hidden|initial) (?:prompt|message|instructions?)\b|\byour (?:instructions|prompt)\b|\bjailbreak|\b(?:developer|admin|god|debug|dan) mode\b"
    r"|\byou (?:are|'re) (?:now|no longer)\b|\b(?:pretend|act) (?:to be|as|like you|you are|that you)\b|\bnew instructions?:|^\s*(?:system|assistant)\s*:|<\|?(?:im_start|system|/?s)\b"
    r"|\b(?:reveal|print|show|repeat|leak|output)\b.{0,20}\b(?:prompt|instructions)\b|(?:忽略|无视|忘记|忘掉|不要理会|别理|别管|不管|抛开|绕过|违反|不用遵守|别遵守).{0,15}(?:指令|提示词?|设定|系统|指示|命令|(?:之前|以上|上面|前面|你|所有)的?(?:规则|要求|内容))"
    r"|系统(?:提示|消息|指令)|提示词|隐藏(?:的)?提示|你的(?:指令|设定)|(?:从现在(?:起|开始)|现在).{0,4}你(?:就)?是|扮演|假装你|开发者模式|管理员模式|越狱",
    re.IGNORECASE,
)

SMALLTALK = re.compile(
    r"(?:(?:hi|hiya|hello|hey|yo|howdy|greetings|hi there|hello there|hey there|good (?:morning|afternoon|evening|night|day|bye)|bye(?: ?bye)?|goodbye|see (?:you|ya)(?: later| soon)?|"
    r"thanks?(?: you)?(?: (?:so much|a lot|very much|a bunch|again))?|many thanks|thx|ty|cheers|much appreciated|ok(?:ay)?|k|cool|nice|great|good|awesome|perfect|wow|lol|haha+|"
    r"yes|yeah|yep|no|nope|no thanks|sure|fine|alright|right|got it|i see|sorry|welcome|you'?re welcome|never ?mind|forget it|help|please|not bad|no problem|no worries|well done|good job|"
    r"how are you(?: doing)?|how'?s it going|what'?s up|who are you|what are you|what can you do|how do(?:es)? (?:this|you|it) work|are you (?:a )?(?:human|robot|bot|real|an ai)|what'?s your name|whyfeed|there|so|well)"
    r"[\s,.!?~]*)+"
    r"|(?:(?:你好|您好|嗨|哈喽|喂|早|早上好|早安|上午好|中午好|下午好|晚上好|晚安|谢谢|谢啦|谢了|多谢|感谢|好的?|行|可以|嗯+|哦+|哈+|嘿+|呵+|再见|拜拜|88|不用了?|没事|没关系|不客气|对不起|抱歉|"
    r"辛苦了?|厉害|真棒|太棒了|不错|很好|最近怎么样|最近还好吗|你好吗|知道了|明白了?|懂了|收到|在吗|你是谁|你叫什么(?:名字)?|你能(?:做|干)(?:什么|啥|些什么)|怎么用|帮助|是的?|对|算了|啊|呀|啦|了|你|您|们|大家)[\s，,。.！!？?～~]*)+",
    re.IGNORECASE,
)

_LIST = r"(?:list|feed|recommendations?|suggestions?|results?|timeline)"
_SHOW = r"(?:show|recommend|suggest|pick|picke?d?|cho?ose|give|gave|select|serve|bring|offer|push|send|sent|put|include|rank|see|seeing|get|getting|find|want)\w*"
ASKED = _rules(
    ("undo", r"^(?:please )?(?:undo|revert|roll ?back|go back|put it back|change it back|scratch that|unhide|restore)\b"),
    ("undo", r"\b(?:undo|take (?:that|it|this) back|take back (?:that|the|my|what)|(?:didn'?t|did not) mean (?:that|to|it)|changed my mind|wrong (?:button|one)|(?:was|by) (?:a )?mistake|bring (?:that|it|them|those|this|these) back|didn't mean|reverse (?:that|it|the|my)|cancel (?:that|it|the last|my last)|back (?:the way|to how|to what) it was|bring back what)\b"),
    ("undo", r"撤[销回消]|收回(?:刚才|上|那|前|我)|(?:取消|恢复|还原|退回|倒回)(?:刚才|上一?[个步条]|原样|之前|那[个条]|$)|当我没说|点错|按错|搞错|弄错|改回|反悔|改主意|不算数?(?:$|[了吧])|作废|弄回来|回到(?:之前|上一|刚才|原来)|刚才?(?:删|隐藏|屏蔽|去掉|藏).*(?:回|恢复)|^(?:还原|恢复|后退|返回)"),
    ("forget", r"\bforget (?:about |everything |all |anything )*(?:(?:I |you )?(?:know |knew |ever )?(?:about|on|of|regarding) )(?P<t>.+)"),
    ("forget", r"\bforget (?:my (?:interest|likes?|love|taste|history|questions?)(?: (?:in|of|for|with|about))?|(?:that |how |when )?I(?:'ve| have| ever|'m| am| was)*(?: \w+ed| \w+)?(?: about| into| to| in| on| for)?) (?P<t>.+)"),
    ("forget", r"\b(?:erase|wipe|delete|remove|clear|purge|scrub|drop)\b(?: \w+){0,3}? (?:about|of|regarding) (?P<t>(?!me\b|my\b).+?)(?: (?:from|that|in|which) (?:what|your|my|the|you)\b.*)$"),
    ("forget", r"\bforget\b|\bunlearn (?P<v>.+)|\b(?:erase|wipe|clear|purge|clean)\b(?:.*\b(?:know|data|history|memory|records?|slate|likes?|profile|everything|about|me|account)\b)(?:.*?\b(?:about|in|on) (?P<t>.+))?|\b(?:delete|remove)\b.*\b(?:my (?:data|history|likes?|account|clicks|records?|activity)|know about me|from (?:your|my|the) (?:memory|history|records?))\b|\b(?:don'?t|do not|stop|never|not to|want you to) remember(?:ing)?\b(?: (?P<u>.+))?|\bfrom (?:your|my) (?:memory|history|records)\b|\b(?:history|data|likes?|records?|clicks)\b.*\b(?:deleted|erased|wiped|gone|forgotten|cleared)\b|\bhold (?:it|that|this) against me"),
    ("forget", r"(?:忘掉|忘了|忘记|抹掉|抹去|清除|删除|删掉|删去)(?:吧)?(?:你|我|所有|一切|全部|关于|有关|对|和|跟|曾经?|以前|问过|看过|喜欢|点赞|读过|的|过|在|里|记忆|记录)*?(?:对|关于|问过|看过|喜欢过?|点赞过?|读过|有关)(?P<t>[^，。]+?)(?:的)?(?:一切|兴趣(?:记录)?|记忆|记录|所有|事情?|喜欢|帖子)*$"),
    ("forget", r"(?:别|不要).{1,12}记(?:住|录|得)(?:我|它|这|那|了)?|^[把将](?:我)?(?:喜欢过?|迷上?过?|看过?|问过?|对)?(?P<t>[^，。]+?)(?:那段|那些|这段|的事情?|这件事|的兴趣|的记录|这事)*(?:都|全|给我)?(?:忘|抹)(?:掉|了|去)|(?:抹去|抹掉|清除|删除|删掉)(?:一切|所有|全部)?(?:跟|和|与|关于|有关)(?P<u>[^，。我]+?)(?:有关|相关)?(?:的)?(?:记录|记忆|一切|内容|痕迹|东西)*$"),
    ("forget", r"忘(?:掉|了|记)|(?:别|不要|不许|不想让你|停止)(?:再)?(?:记住?|记录|记得)(?P<t>.*)|(?:删除|删掉|清空|清除|清掉|抹掉)(?:所有|全部|一下)?(?:关于|有关)?(?:我|历史|浏览|阅读|搜索|点赞|记录|数据|个人)|(?:记录|历史|记忆)(?:里|中)?(?:删|抹|去掉|移除|清)|当我没(?:看|读|点|问)过|清零"),
    ("why_not", r"\b(?:why|how come)\b.{0,12}?\b(?:no|not|don'?t|doesn'?t|didn'?t|isn'?t|wasn'?t|aren'?t|weren'?t|can'?t|cannot|won'?t|haven'?t|hasn'?t|never|nothing|am i not|do i not|did i not|is there no\w*|are there no\w*)\b(?: (?:I|you|we|there|any|ever|been|be|got|have|do|does|is|anything|a|single|more|get|about|on|me|to|of|from|even|seem|able|much|many))*(?: (?:see|seeing|show\w*|recommend\w*|find|get|getting|suggest\w*|includ\w*|pick\w*|giv\w+|receiv\w+|appear\w*|mention\w*))?(?: (?:me|any|anything|more|about|on|posts|to))* (?P<t>(?!sure\b).+)"),
    ("why_not", r"\b(?:why|how come)(?: (?:do|does|did|has|have|is|are))?(?: the| my)? (?P<t>.+?) (?:never|not|don't|doesn't|isn't|aren't|haven't|hasn't|didn't)(?: \w+)? (?:turn\w*|show\w*|appear\w*|com\w+|pop\w*|here|there|recommended|in my|on my|included|up)\b|\b(?:don't|never|can't|haven't|not|no longer) (?:see|get|find|seen|seeing|getting|found)(?: any| a single| much)?(?: posts?)?(?: on| about)? (?P<u>[^,]+?)(?: here| at all)?[,;.]? (?:why|how come)\b"),
    ("why_not", r"\bwhy (?:are|did|do|have|would) you (?:hid|hide|hiding|hidden|leav\w+ out|left out|leave out|skip\w*|drop\w*|remov\w+|filter\w* out|stopp?\w*(?: showing| recommending)?(?: me)?|exclud\w+|omit\w*|miss\w*) (?P<t>.+)"),
    ("why_not", r"\bwhere (?:are|is|did|have)(?: all)?(?: the| my)? (?P<t>.+?)(?: posts?| content| stuff)?(?: (?:go|gone|went))?(?: to)?\s*\?*$|\bwhat(?:'s| has| is| have)? (?:happened to|become of|became of|keeps|stopping|keeping|hiding|blocking)(?: all)?(?: the| my)? (?P<u>.+)"),
    ("why_not", r"\bwhy(?: did| has| is| are| have)?(?: all)?(?: the| my)? (?P<t>.+?) (?:disappear\w*|vanish\w*|gone missing|gone|missing|filtered|hidden|blocked|absent|left out|not (?:here|there|shown|in (?:my|the) \w+))\b"),
    ("why_not", r"\bnever (?:see|get|show me) (?:any )?(?P<t>.+?),? (?:why|how come)|\bthere(?:'s| is| are)(?: no|n'?t any) (?P<u>.+?)(?: here| in my \w+)?,? (?:why|how come)"),
    ("why_not", r"(?:为什么|为啥|为何|怎么|咋)(?:我|这里|连|列表里)*(?:一[篇个条点]|半[篇点])(?P<t>.+?)(?:的)?(?:帖子|内容|文章)?(?:都|也)(?:没|不|看不|刷不)"),
    ("why_not", r"(?:为什么|为啥|为何|怎么|咋)(?:你|我|这里|列表|推荐|里|的)*?(?:从来)?(?:没见过?|没看过|没有?|不|看不到|看不见|找不到|收不到|刷不到)(?:再|给我|向我|让我|人|推荐|推送|推|讲|看到|看见|看|出现|显示|收到|有|出|关于|任何|到|提|说|写)*(?P<t>[^推荐给我看到有的，。？?].*)"),
    ("why_not", r"(?:为什么|为啥|为何|怎么|咋)?(?P<t>[^，。？?]{1,40}?)(?:的)?(?:帖子|内容|文章|东西)?(?:都|怎么|为什么|为啥|咋|为何|就|全|是不是)*(?:去哪(?:儿|里)?了?|到哪(?:儿|里)?去?了?|不见了|没了|消失了|没出现|没有出现|不出现|藏起来了|被(?:过滤|屏蔽|隐藏|去掉)了?)"),
    ("why", r"^(?:but |so |and |ok,? )?(?:why|how come|reasons?|for what reason|what for)\W*$|\bhow (?:do|did) you (?:decide|choose|pick|select|know)\b|^(?:but |so )?why (?:(?:is|was|are|were|does|did) )?(?:exactly )?(?:this|that|it|these|those|them|the (?:first|second|third|fourth|fifth|sixth|last|top|other)|number|#|\d)(?![\w ]*\b(?:beer|so (?:hard|sour|bitter))\b)"),
    ("why", r"\b(?:why|how come|how|what made|what makes)\b.{0,25}\b(?:you|I|me|my)\b.{0,10}\b" + _SHOW + r"\b(?: (?:me|so|much|many|all|the|any|these|those|this|that|posts?|about|on|it))*(?P<t>.*)|\bwhy (?:so (?:much|many)|all (?:this|the|these)|always) (?P<u>.+)"),
    ("why", r"\b(?:reasons?|basis|rationale|justification) (?:for|behind|of|did|do)\b|\bon what (?:basis|grounds)|\bwhere (?:does|did|do) (?:this|that|it|these|the).{0,30}(?:come|came) from|\bwhat (?:does|do|has|have) (?:this|that|it|these).{0,12} to do with me|\bjustify\b|\bexplain (?:why|your|the|this|that) .{0,30}(?:pick|choice|recommend|suggest|here|selected|chose)|\bin my (?:history|past|profile)\b.*\b(?:led|made|caused|lead)|\bwhy\b.*\b(?:recommended|suggested|selected|chosen|on my " + _LIST + r"|in my " + _LIST + r"|for me|picked)\b|\bhow did .* get (?:in )?here"),
    ("why", r"^(?:那|所以)?(?:为什么|为啥|为何|理由|原因|凭(?:什么|啥)|咋回事)(?:呢|啊|是什么|是啥)?[？?]*$|^(?:那|所以|但是?|你|又|解释一下|说说|告诉我|想知道|请问|我想知道|是)*(?:为什么|为啥|为何|怎么(?!看)会?|凭(?:什么|啥)|干嘛|因为什么|咋)(?:老是?|总是?|一直|又|会|要|想到|突然|你|我|都|是|把|在|这么)*(?:给我|跟我|向我|让我|觉得我|看到|推荐|推送|推|选|看|这|那|它|排|第[一二三四五六七八九十\d]|最后)(?:给我|了|的|推荐|推送|推|看到?|这么多|那么多|会喜欢|排|是|到)*(?P<t>.*)"),
    ("why", r"(?:推荐|选|推送|入选|推).{0,10}(?:理由|原因|依据|根据|道理|逻辑)|(?:理由|依据|原因|道理)(?:是|呢|何在)|根据(?:什么|啥|哪)|(?:这|它|那).{0,6}(?:跟|和|与)我.{0,4}(?:关系|相干)|怎么(?:选|挑)出|(?:这|它|那).{0,3}(?:是)?(?:怎么|咋|从哪)(?:里|儿)?(?:来|选|冒)|(?:第.{1,3}|最后.{1,2}|这.{1,2})(?:为什么|为何|为啥|怎么会)"),
    ("profile", r"\b(?:know|learn\w*|believe|think|remember|stored?|hold|keep|gather\w*|figured|worked|picked|got|have|collect\w*|noticed?|understand|assum\w+|tell)\b.{0,20}\b(?:about|on|of) (?:me|myself)\b|^(?!.*\b(?:forget|erase|delete|remove|why)\b).*\babout (?:me|myself)\b|^(?!.*\bwhy\b).*(?<!to )(?<!into )(?<!from )(?<!near )(?<!in )\bmy (?:own |current |personal )?(?:profile|interests|preferences|tastes?|settings|rules|filters|mutes|blocks|history|likes|activity)\b(?!\W+(?:in|for) )|^(?!.*\bwhy\b).*\bdo(?:es)? (?:you|it) think (?:that )?(?:I|i'm|i am)\b|\bwho (?:do you think )?am i\b|\bam i (?:someone|a|the|into|interested|known|block\w*|mut\w*|follow\w*|hid\w*)\b|\b(?:rules|filters|mutes)\b.*\b(?:active|on|in force|set|have)\b|\b(?:have|did) I (?:muted|blocked|liked|hidden|told|saved|hide|mute|block|like|follow\w*)\b|\byour (?:picture|image|idea|impression|view|model|opinion|take|read) (?:of|on) (?:me|my)\b|^(?!.*\b(?:to|into|in|from|near|shares?|share|with|match\w*|like|of) my\b).*\bmy (?:tastes?|interests|preferences|profile)\W*$|\b(?:see|view|describe) me\b|^what (?:kinds? of \w+ )?(?:do|did|would) I (?:care about|like|enjoy|prefer)\b"),
    ("profile", r"(?:你)(?:觉得|认为|知道|了解|记住|记得|掌握|收集|学到|猜|摸清|形容|描述|总结|眼里|眼中|怎么看|对|都|认识).{0,12}?我(?!.{0,4}(?:会喜欢|该|应该|推荐))|(?<!到)(?<!进)(?<!从)我的?(?:个人)?(?:画像|兴趣(?!相|差)|偏好|口味(?!相)|资料|设置|标签|喜好|规则|档案|历史|信息)(?!清)|我(?:都|现在|目前|最近|到底|一共)?(?:屏蔽|拉黑|设置?|喜欢|点赞|收藏|关注|关心)(?:了|过|的)?(?:哪些|什么|多少)|我(?:是不是|是个?(?:什么|怎)|是否|算不算)|个人(?:资料|中心|画像)|(?:哪些|什么)规则"),
    ("people", r"^(?:so |and )?(?:who|whom)(?:'s| is| are| else| here| among)*\b(?! (?:won|wrote the|invented|discovered|are you|is the (?:president|king|prime|ceo))).*?(?:\b(?:about|on|in|into|of|with|like|likes|knows?|understands?|for|does|loves?|does)\b (?P<t>(?!(?:me|this|that|it)\b).+))?$|\bwhose (?:posts?|answers?|feeds?|work|writing)\b|\b(?:subscribe to|follow)\W*$"),
    ("people", r"\b(?:people|persons?|users?|members?|experts?|authors?|writers?|accounts|contributors?|friends?|someone|somebody|anyone|anybody|folks|specialists?|enthusiasts?|fans|gurus?|bloggers?|others) (?!say|talk|think)(?:(?!say|talk|think|written|wrote|posted|asked|discuss)\w+ ){0,3}?(?:(?:about|on|in|of|into|with|like|likes|loves?|knows?|enjoys?|understands?|drinks?|plays?|for) )(?P<t>.+)"),
    ("people", r"\b(?:recommend|suggest|find|show|any|some|good|interesting|introduce|meet)(?: me| to)?(?: \w+)? (?:people|users?|members?|experts?|authors?|friends?|accounts?|contributors?|someone)\b|\b(?:people|users|members|accounts|authors) (?:to follow|worth|like me|similar|with)\b|\bto follow\b|\bmeet (?P<t>(?!you\b|up\b).+)"),
    ("people", r"(?:推荐|介绍|找|认识)(?:一下|一些|几个|几位|点|个|些)?(?:爱喝|爱看|爱玩|喜欢|懂|会|研究|玩|写|做)*(?P<t>.{0,20}?)(?:的)?(?:人|用户|作者|专家|大神|大佬|高手|朋友|博主|账号|爱好者|牛人|达人|网友)(?:给我|吗|呢|认识)*$|(?:有没有|有什么|有哪些|哪些|哪位|哪个|有)(?!人(?:讨论|聊|说|问|写)过)(?:喜欢|懂|研究|讲|写|熟悉|会|值得关注的?|擅长|常聊|玩|做|对)*(?P<u>.{0,20}?)(?:熟|感兴趣)?(?:的)?(?:人(?=$|[吗呢？?])|用户|作者|专家|大神|大佬|高手|博主|账号|牛人|达人)(?:(?:都|在|常|最|会|对)*(?:讲|懂|写|聊|对|熟悉|研究)?(?P<v>.+?)(?:比较|很|最)?(?:熟|感兴趣|的)?[吗？?]*)?$|^(?P<w>.+?)有(?:哪些|什么|没有)(?:人|高手|大神|大佬|专家|牛人)"),
    ("people", r"^(?:这里|这儿|这)?(?P<u>.{1,15}?)(?:方面|领域|上|这块|问题)?谁(?:最|比较|更)?(?:权威|懂|厉害|在行|专业|擅长|熟|牛|强|行)|(?:订阅|关注)谁|(?:^|[，,。])(?:该|有|还有|这里|这儿)?谁(?!赢|是|发明|输|的电话)(?:最|比较|常|也|还|能|会|在|更|可以|经常|老)*(?:帮我|解决|懂|写|讲|喜欢|研究|回答|熟悉|知道|擅长|了解|聊|爱|玩|看过|推荐|解答)*(?:关于)?(?P<t>.*?)(?:的|问题|比较多|最多|最好|啊|呢)*[？?]*$|关注(?:谁|哪些人|哪位)|(?:跟|和|与)我.{0,8}的人"),
    ("groups", r"^(?!.*\b(?:about|on|for|of|in)\b)(?:(?:I|want|to|join|any|a|an|some|good|find|me|recommend|suggest|is|are|there|the|best|show|which|what|looking|active) )*(?P<t>[\w' -]+?) (?:groups?|communit(?:y|ies)|clubs?|forums?|meetups?|circles?)\b(?! (?:should|would|could|do|near|similar|might|is|are|that))"),
    ("groups", r"\b(?:groups?|communit(?:y|ies)|clubs?|forums?|subforums?|subreddits?|channels?|circles?|meetups?|societ(?:y|ies))\b(?: (?:are|is|there|that|which|where|to|join|discuss\w*|talk\w*|cover\w*|deal\w*|dedicated|devoted|focus\w*))*(?: (?:about|on|for|of|in|around|to|with))? ?(?P<t>.*)"),
    ("groups", r"\bwhere (?:do|can|could|does|would)\b(?: I)?(?: (?:find|meet))?(?: other)? (?P<t>.+?)(?: (?:players?|lovers|fans|people|folks|enthusiasts|hang(?:ing)? out|meet|gather|talk|discuss|chat))+|\bplaces? to (?:discuss|talk about|chat about) (?P<u>.+)|\bwhere can I (?:discuss|talk about|meet(?: other)?|find other) (?P<v>.+)"),
    ("groups", r"^(?P<t>[^我你该]{1,15}?)(?:迷|爱好者|粉)?(?:都)?(?:在)?(?:哪个|哪些|有没有|有什么|有)(?:热闹|活跃)?(?:一?点)?(?:的)?(?:小组|社区|社群|圈子|论坛|俱乐部|群)"),
    ("groups", r"(?:有没有|有什么|有哪些|推荐|找|加入|加|哪个|哪些|进|帮我|我|想|有|给我|介绍|关于|几个|一些|点|个|下|聊|讲|讨论|的)*(?P<t>.*?)(?:的|爱好者|相关|交流|讨论|粉丝)*(?:小组|社区|社群|圈子|论坛|俱乐部|社团|版块|板块|交流群|[微粉]?信?群(?!众|体|岛|星)|组织)(?:(?:在|是)?(?:讲|聊|讨论|谈|关于|跟|和|与)(?P<u>.+?)(?:有关|相关)?(?:的)?)?$"),
    ("groups", r"(?P<t>.{1,20}?)(?:爱好者)?(?:都)?(?:在哪|去哪)(?:里|儿)?(?:聚|聊|交流|混)|找个聊(?P<u>.+?)的地方|哪里(?:能|可以)?找到(?:其他)?(?P<v>.+?)的?(?:同好|爱好者)"),
)  # fmt: skip

# These need a post to point at (compare: two); without one they fall through.
POINTED = _rules(
    ("compare", r"\bcompar(?:e|ed|es|ing|ison)\b|\bvs\b|\bversus\b|\bcontrast\b|\bside by side\b|\b(?:better|worse|easier|harder|deeper|longer|newer|clearer)\b|\b(?:differ|overlap|similar|alike|agree|contradict|disagree)\w*|\b(?:same|in common|apart|against|relate)\b|(?:\d|first|second|third|fourth|fifth|last)\b.*\bor\b.*(?:\d|first|second|third|fourth|fifth|last)\b|\bwhich of (?:the|these|those) two\b"),
    ("compare", r"比|区别|不同|差异|差别|差在|差多少|一样|一致|相似|第.{1,3}还是|\d\s*还是|(?:第.|\d|两|俩|前).*(?:哪(?:个|篇|一)|选|更)|异同|共同|矛盾"),
    ("why", r"\bwhy\b|\bhow come\b|\b(?:reason|logic|thinking|rationale|motivation|idea|reasoning)s?\b.*\b(?:behind|for|of)\b|\bwhat (?:makes|made) you\b|\bhow did\b.*\b(?:get|end|land|make|come|wind|show|appear)\b|为什么|为啥|为何|怎么会|凭(?:什么|啥)|逻辑|理由|道理|依据"),
    ("hide", r"\balready\b.*\b(?:read|seen|know|knew|watched)\b|\b(?:have|'ve) (?:read|seen|watched)\b|^(?:seen|read|know) (?:this|that|it)\b|\bI (?:just |once )?(?:read|saw|finished|watched|know|knew) (?:this|that|it|the|#|number)\b|(?:看|读|刷)(?:过|完)"),
    ("summarise", r"\bsum(?:med|ming)? (?:it |this |that |them )?up\b|\bsummar(?:y|ies|i[sz]e\w*)\b|\btl;?\s?dr\b|\bgist\b|\b(?:condense|shorten|paraphrase|overview|synopsis|sentences?|words)\b|\bgoing on about\b|\bin (?:short|brief|a nutshell)\b|\bboil\b.*\bdown\b|\b(?:brief|fill|clue) me\b|\b(?:main|key) (?:points?|ideas?|messages?|takeaways?)\b|\btake-?aways?\b|\bshort(?:er|en)?\b|\brecap\b|\bwhat(?:'s| is| are| does| do| did)\b.*\b(?:about|say|says|in|inside|contain\w*|mean|answer\w*|conclu\w+|claim\w*|argu\w+)\b|\btell me (?:more |what )?|\bmore (?:about|on|info|details?)\b|\bdetails?\b|\b(?:open|read|explain|describe|outline|elaborate|expand|digest|condense)\b|\bwalk me\b|\banswers? (?:in|to|of)\b"),
    ("summarise", r"总结|概括|概述|摘要|归纳|概要|简述|大意|要点|重点|主要|核心|结论|讲(?:的是|了|些)?(?:什么|啥)|说(?:的是|了|些)?(?:什么|啥)|是?关于什么|写(?:的是|了)(?:什么|啥)|的内容|内容是|展开|详细|具体|细说|[讲说](?:说|讲|一下)|[一两几三]句话|长话短说|简单|简要|浓缩|精简|缩|读一下|打开|看看第|答案|太长"),
    ("hide", r"\b(?:hide|remove|dismiss|delete|drop|skip|discard|cross|throw|toss|wipe|bin|ditch|kick|lose|take|get rid|away|clear|close|block|mute|bin|chuck|trash|banish|disappear|vanish|gone|go|out)\b|\b(?:not|no)\b(?! (?:like|similar|for me|my|interested|into|really|a fan|good|keen|fond))|\b(?:don'?t|do not|never|no need)\b.*\b(?:show|want|see|display|need|bring|again|come)\b|\b(?:already|have|'ve) (?:\w+ )?(?:read|seen|know|knew|watched)\b|\b(?:read|seen|know) (?:this|that|it)\b.*\b(?:already|before)?|\bnot interested\b"),
    ("hide", r"隐藏|删|去掉|移除|移走|划掉|拿走|拿掉|藏|屏蔽|跳过|略过|不要|别(?:再)?(?:给我|让我)?(?:显示|出现|看|推)|不想(?:再)?(?:看到?|见)|看过|读过|看完|不感兴趣|没兴趣|不是[这那]|踢|走开|滚|消失|撤|免了|再出现|扔|清掉|关掉"),
)  # fmt: skip

_NEGATED = r"(?:don'?t|do not|never|no longer|not)"
_TASTE = r"(?:interested in|into|keen on|fond of|a (?:big |huge )?fan of|curious about|fascinated by|obsessed with|crazy about|passionate about)"
STEER = _rules(
    ("less_like", r"^(?:posts?|things?|stuff|articles?|anything|ones) like (?P<t>.+?) (?:are|is|isn't|aren't|was|were) (?:not|a waste|boring|no |never|what I don't).*$|^像(?P<u>.+?)[这那]样的.*(?:别|不|少|浪费)"),
    ("less_like", r"^(?:(?:even|much|a (?:bit|little|lot)|some|way|far|rather|show(?: me)?|give(?: me)?|with) )*(?:less|fewer)(?: of)? (?P<t>.+)"),
    ("less_like", r"^(?!what|which|how|why|who|is |are |does |do |when |where |tell|could|more)(?:[\w']+ ){1,5}?(?:fewer|less)(?: of)? (?P<t>(?!than\b).+)"),
    ("less_like", r"^(?:please )?(?:lay off|ease (?:off|up)(?: on)?|go (?:easy|light) on|back off(?: on)?|cool it (?:with|on)|take a break from|hold off(?: on)?|knock off|steer clear of|be done with|give up on|scale back|wind down)(?: (?:the|all))* (?P<t>.+)|^(?P<u>.+?) (?:leaves? me cold|puts? me off|does nothing for me|do nothing for me|wears? me out|gets? on my nerves|makes? me yawn|drives? me (?:mad|crazy))\b|^give (?P<v>.+?) a (?:rest|break)"),
    ("less_like", r"^(?:and |but )?(?:absolutely |really |please )*(?:no|not|without|nothing|none of|zero)(?: more| any ?more| any| so (?:much|many)| too (?:much|many))? (?P<t>(?!sure|now|bad|idea|problem|thanks|worries|one\b|yet|interested|into|keen|fond|a (?:big |huge )?fan|for me|my|really|at all|that into|very|particularly).+)"),
    ("less_like", rf"^(?:stop|quit|cease|no need (?:for|to)|enough|refrain from)(?: (?:it )?(?:with|of))?(?: (?:showing|sending|recommending|suggesting|giving|pushing|serving|feeding|posting|show|offering)(?: me)?)?(?: (?:with|of|about|so much|so many|any|all))* (?P<t>.+)"),
    ("less_like", rf"^(?:I )?(?:really |just |honestly )?{_NEGATED}(?: really| ever| want you to| wanna| want| need| like| love| enjoy| care(?: much)?(?: about| for)| show| recommend| suggest| send| give| push| bother| feed| be| to)+(?: (?:me|us|to|see|read|hear|seeing|reading|hearing|about|anything|with|any|more|so|much|many|too|another|posts|of))* (?P<t>.+)"),
    ("less_like", r"^(?:I )?(?:really |absolutely |totally |just )?(?:hate|dislike|loathe|detest|despise|can'?t stand|couldn'?t care less about|could do without|can do without|could live without|had enough of|didn'?t (?:like|enjoy|care for)) (?P<t>.+)"),
    ("less_like", rf"^(?:I(?:'m| am) |I'?ve (?:got|become|grown) )?(?:(?:really|so|just|quite|a bit|getting|totally|a little|pretty|very) )*(?:(?:not|no longer|never)(?: (?:at all|really|that|very|particularly|too|much|so|all that))* (?:{_TASTE}|for|about)|uninterested in|(?:sick|tired|bored|fed up|done|finished|over)(?: and tired)?(?: (?:of|with|by))?) (?:any )?(?P<t>.+)"),
    ("less_like", r"^(?:I(?:'ve| have) )?(?:had |seen |read |heard |got |getting |there(?:'s| is| are) )?(?:more than |quite |way |far |already )*(?:enough|too much|too many)(?: of| about| on)? (?P<t>.+?)(?: (?:in here|here|in my \w+|lately|for (?:one|a) (?:day|lifetime)|already))*$"),
    ("less_like", r"^(?:please |kindly )?(?:avoid|mute|block|exclude|filter(?: out)?|ban|drop|skip|leave out|cut(?: down on| out| back on| down| back)?|tone down|turn down|dial (?:down|back)|go easy on|ease (?:off|up) on|reduce|limit|decrease|lower|downrank|minimi[sz]e|spare (?:me|us)|hold|hide|remove|get rid of|take out|keep out|kill|lose|minus|unfollow|except|anything but|anything except|pass on)(?: (?:the amount of|all|any|everything|posts|anything))?(?: (?:about|on|with))? (?P<t>.+)"),
    ("less_like", r"^(?:keep|leave|take|tone|turn|cut|filter|get|dial|throw|kick|chuck)(?: all)? (?P<t>.+?) (?:away|out|down|off|aside|to a minimum)(?: .{0,25})?$"),
    ("less_like", r"^(?P<t>.+?) (?:bores?|annoys?|irritates?|tires?|wearies?|depresses?) me\b|^(?P<u>.+?) (?:(?:is|are)(?: really| so| just| all)? )?(?:boring|dull|(?:not|isn'?t|aren'?t) (?:for me|my (?:thing|cup of tea|taste|style)|interesting)|overrated|a turn-?off|annoying)\b|^(?P<v>.+?) (?:isn'?t|aren'?t|ain'?t) (?:for me|my (?:thing|cup of tea))"),
    ("more_like", r"^(?:(?:even|some|a (?:bit|little|lot)|much|lots?|way|far|ever|yes|show(?: me)?|give(?: me)?|with|see|there was|there were|add) )*more(?: of)? (?P<t>.+)"),
    ("more_like", r"^(?:(?:something|anything|things?|posts?|stuff|others?|find|show|give|me|another|one|exactly|just|a few|further) )*(?:like|similar to|along the lines of|in the (?:vein|style) of|close to|akin to) (?P<t>.+)"),
    ("more_like", rf"^(?:I )?(?:(?:really|absolutely|totally|do|also|just|always|quite|rather|particularly|have) )*(?:like|love|adore|enjoy|liked|loved|enjoyed|fancy|prefer|am {_TASTE}|care (?:a lot |deeply )?about|can'?t get enough(?: of)?) (?P<t>(?!to\b).+?)(?:,? (?:keep (?:it|them) coming|the most|a lot|very much))?$"),
    ("more_like", r"^(?:please )?keep (?:on (?:showing|sending)(?: me)? )?(?:the |up the )?(?P<t>.+?) (?:coming|flowing|up)$|^(?:I(?:'m| am) )?(?:a )?(?:big|huge|massive|great|real)? ?fan of (?P<u>.+?)(?: here)?$|^(?:give me |send me |I want )?(?:extra|additional|further|another) (?:helpings?|doses?|servings?|portions?) of (?P<v>.+)"),
    ("more_like", rf"^(?:I(?:'m| am)|I'?ve (?:got|become|been))(?: (?:really|very|quite|so|super|also|getting|now|recently|lately|pretty|rather))* {_TASTE} (?P<t>.+?)(?: (?:these days|lately|recently|now))?$"),
    ("more_like", r"^(?:(?:give|show|I want|send)(?: me)? )?(?:plenty|lots|tons|loads|heaps) of (?P<t>.+)|^(?:please )?(?:increase|boost|bump up|turn up|dial up|prioriti[sz]e|favou?r|focus on|concentrate on|add|include|put back|allow|unmute|unblock|re-?enable|emphasi[sz]e|pile on|start (?:showing|recommending|sending)(?: me)?|bring back)(?: the amount of| some| back)? (?P<u>(?!what).+?)(?: (?:to|into|in) my (?:list|feed|interests|recommendations))?$"),
    ("more_like", r"^(?:show|recommend|suggest|send|bring|put|give|let)?(?: me)? ?(?P<t>.+?) (?:more often|more frequently|back in|is welcome|are welcome|is (?:fine|ok|okay) again|would be nice)\b|^(?P<u>.+?) (?:is|are|was|were)(?: (?:really|just|so|pretty|very|absolutely))* (?:great|good|brilliant|excellent|lovely|perfect|amazing|awesome|fantastic|spot on|interesting|fun|wonderful|my (?:favou?rite|thing|jam)|nice|what I want\w*)\b.*$"),
    ("less_like", r"^(?:请)?[把将](?P<t>.+?)(?:都|全|给我|给)?(?:去掉|屏蔽|删掉|删了|拿掉|过滤掉?|减少|排除|拉黑|静音|剔除|隐藏|关掉)"),
    ("less_like", r"^(?:我)?(?:想|要|请)?(?:再)?少(?:给我|跟我|帮我|让我)?(?:推荐|推送|推销|推|来|看到|看|发|放|显示|安排|提|讲|弄|出现|上|刷)?(?:一点儿?|一些|点儿?|些)?(?:跟|和|关于)?(?P<t>[^的].*)"),
    ("less_like", r"^(?:我)?(?:都|也|再|可)?(?:别|不要|不用|不必|甭|请勿|勿|停止|不许|不准|拒绝|避开|避免|屏蔽|过滤掉?|排除|去掉|去除|删掉|拉黑|减少|降低|隐藏|讨厌|烦|反感|受够了?|厌倦了?|看腻了?|看烦了?|跳过|除了|远离|禁止|杜绝|谢绝)(?:再)?(?:老是?|总是?|一直|天天)?(?:给我|向我|跟我|让我)?(?:推荐|推送|推销|安利|推|看到|看见|看|来|显示|展示|出现|发|放|提|讲|有|碰|上|塞)?(?:任何|那么多|这么多|太多|一切|所有)?(?:跟|和|关于)?(?P<t>[^的].*?)(?:有关|相关|的比重|的比例|的数量|以外|之外)?的?(?:内容)?$"),
    ("less_like", r"^(?:我)?(?:真的|完全|根本|实在|一点(?:都|也)|并|也|都|就|又|可)*(?:不|没)(?:太|是很|怎么|大|再|是)?(?:喜欢|爱|想|要|爱看|感冒|关心|在乎)(?:再|要)?(?:看到|看见|看|读|听|刷到|见到?|收到)?(?:任何|那么多|这么多|跟|关于)?(?P<t>.+)"),
    ("less_like", r"^(?:我)?(?:对)(?P<t>.+?)(?:真的|实在|完全|一点(?:都|也)|都|也|并|已经|可|是|根本)*(?:没(?:有)?(?:什么|啥|多大|多少)?(?:兴趣|感觉)|不(?:太|怎么|是很|大)?(?:感兴趣|感冒|关心)|无感|提不起(?:兴趣|劲))"),
    ("less_like", r"^(?P<t>.+?)我?(?:实在|真的|真|完全|一点(?:都|也)|也|都|根本|已经)*(?:提不起|没有?|失去)(?:什么|啥|多大)?(?:兴趣|劲|感觉)"),
    ("less_like", r"^(?:最近|这里|列表里|里面)?(?P<t>.+?)(?:的)?(?:帖子|内容|文章)?(?:就|都|也|真的|实在|可以|还是|请|给我|有点|已经)*(?:太多|过多|少(?:给我|来|推|放|看|发|出现|上|提)|少(?:一)?点|少一些|看(?:烦|腻|够)|免了|免谈|不要了|不要$|别推|别再|没意思|没劲|(?<!好)(?<!真)很?无聊|不适合我|不合我|不想看|不感兴趣|烦死|去掉|不看|退散|够了|刷屏)"),
    ("more_like", r"^(?:我)?(?:想|要|请|希望|以后|可以|能)*(?:再)?多(?:给我|跟我|帮我|让我)?(?:推荐|推送|推|来|看到|看|发|放|安排|加|整|上|刷)?(?:一点儿?|一些|点儿?|些|几[篇个条])?(?:跟|和|关于)?(?P<t>[^的].*)"),
    ("more_like", r"^(?:我)?(?:想|要|希望|能|还|给我|看到|推荐)*更多(?:的|关于|有关)?(?P<t>.+)|^(?:再)?(?:增加|增添|提高|加大|加强|恢复|放开|解除|重新推荐?|加(?:入|回来?|一点|点|些|上)?)(?:对)?(?P<u>[^的].*?)(?:的)?(?:比重|比例|数量|屏蔽|内容|权重|分量|力度)?$"),
    ("more_like", r"^(?:更多|再多来?|再来|多来|找|推|给我|给我找|推荐|帮我找|一些|几[篇个]|点|有没有|来)*(?P<u>类似|差不多|同类|相近)的.{0,5}$|^(?:更多|再多来?|再来|多来|来|找|推|给我|给我找|推荐|帮我找|一些|几[篇个]|点|有没有)*(?:像|跟|和|与|类似于?)(?P<t>.+?)(?:差不多|类似|相似|一样|这样|那样|这种|那种|同类|相近)?(?:的|这样的|那样的)(?:还有吗|再.*|帖子|内容|文章|有吗|多.*)*$"),
    ("more_like", r"^(?:我)?(?:真的|也|还|就|一直|最近|现在|其实)*(?:很|超级?|最|特别|非常|挺|好|蛮|比较|更|十分)*(?:喜欢|爱看|热爱|关注|迷上了?|爱上了?|偏爱|钟爱|痴迷|着迷于?|关心|感兴趣的是)(?:看)?(?P<t>[^的吗？?].*)|^(?:(?:我|也|还|就|真的|最近)*(?:我|很|超级?|最|特别|真|也|就|好)爱|爱(?=看))看?(?P<u>[^的吗？?].*)"),
    ("more_like", r"^(?:我)?(?:是|也是)(?:个)?(?P<t>.+?)的?(?:忠实|铁杆|资深|超级|狂热)?(?:粉丝|粉|爱好者|迷|控|发烧友)$|^(?P<u>.+?)(?:那样|这样|那种|这种|类似)的?(?:再|多|来|推|还|可以)+.*$"),
    ("more_like", r"^(?:我)?(?:最近)?对(?P<t>.+?)(?:很|特别|非常|挺|超|比较|蛮|更|最|十分|一直|也|还|真的|有点)*(?:感兴趣|有(?:点|很大|浓厚的)?兴趣|着迷|上瘾|上头)"),
    ("more_like", r"^(?P<t>.+?)(?:的)?(?:帖子|内容|文章)?(?:可以|能|请|应该|再|要|继续|希望|还|得)*(?:多(?:来|推|看|加|给|放|发)?(?:一点|一些|点|些|推荐)|太少|再多)|^[把将](?P<u>.+?)(?:加|放|找)(?:回来|回去|进来|上|到|入)|^(?P<v>(?:第.{1,3}|最后.{1,2}|这.?|那.?|它).*?)(?:真|很|挺|太|非常|蛮|还)*(?:不错|好看|好|有意思|有趣|喜欢|对(?:我|胃口)|精彩|合我|棒|赞|绝)"),
)  # fmt: skip

OTHERS = re.compile(
    r"\b(?:others|something else|anything else|what else|something different|anything different|another (?:one|batch|set|round|few)|next (?:batch|page|ones?|set|few)|(?:some|any|a few|\d+|two|three|four|five) more|more(?: please| posts| options)?$|"
    r"(?:different|new|other|fresh) (?:ones|posts|list|suggestions|recommendations|things|stuff|batch|picks)|refresh|reload|reshuffle|shuffle|try again|none of these|not these|keep going|continue|next)\b"
    r"|换(?:一?批|一?组|换|点|一些|几|个|别|一下)|再(?:来|推荐?|给我?)(?:一些|几|点|一批|[一二三四五六七八九十\d])|别的|其他(?:的)?|还有(?:吗|没|什么|别)|下一(?:批|页|组)|刷新|这些都不|看腻了|不一样的|继续",
    re.IGNORECASE,
)

_GENERIC = r"(?:something|anything|things?|stuff|posts?|articles?|reads?|ideas?|recommendations?|suggestions?|content|some|a few|list|feed|picks?|one|ones|reading|options?)"
RECOMMEND = _rules(
    ("recommend", r"\bwhat (?:should|shall|can|could|would|do|might|must) (?:I|we|you)(?: \w+)? ?(?:read|look at|suggest|recommend|see|check out|watch|browse|start with|try|have)\b(?!.*\b(?:about|on)\b \w)|\bwhat(?:'s| is| are| has)?(?: there| been| you)? ?(?:good|hot|new|up today|trending|interesting|worth|popular|happening|going on|on today|for me|next|got|have you got)\b(?!.*\b(?:about|on|in|with)\b \w)|\bsurprise me|\b(?:I'?m|am|so|feeling) bored|\bentertain me|\bwhat did i miss|\bwhat have you got|\bjust show me (?:stuff|things)"),
    ("recommend", rf"^(?:(?:any|some|got|have|do you have|is there|are there|show|give|get|find|recommend|suggest|pick|choose|bring|send|list|see|read|me|us|a|an|the|few|my|new|good|great|interesting|best|top|today'?s|worth|more|other|else|nice|fresh|random|hidden|for|to|want|need|like|of|what|can you|could you|please|\d+|one|two|three|four|five|six|seven|eight|nine|ten|next|fun|cool|different)\s+)*{_GENERIC}(?:\s+(?:for me|to read|to look at|please|else|good|new|interesting|nice|fun|today|now|worth reading|worth my time|to me|tonight|this morning|this week|i'?d (?:like|enjoy|love)|more|different|fresh|for (?:today|tonight|the|my) ?\w*))*[.!?]*$|^(?:recommend|suggest|show me|more|next|others?|another|refresh|go on|continue|feed|list)[.!?]*$"),
    ("recommend", r"(?:看|读|瞧)(?:点)?(?:什么|啥|哪些|哪篇)(?!时候)|什么(?:好看|值得|可看|新鲜|有意思|有趣|好文|好帖|推荐|适合我)|有(?:啥|什么|没有|哪些)(?:好看|值得|可看|推荐|适合我|新鲜|有意思|有趣|可以看|好东西|新内容|新帖子)(?:的)?|随便(?:来|看|推|挑)|惊喜|(?:好|真|很|太)?无聊|^(?:请|再|帮我|给我|随便|能不能|可以|麻烦)*(?:推荐|来|挑|选|推|找|看看|给)(?:我|给我|一下|一些|点|些|几|[一二两三四五六七八九十\d]+|篇|个|条|好的|有趣的|有意思的|好看的|合适的|适合我的|好|新|新的|别的|东西|帖子|文章|内容|我会喜欢的|能看的|今天的|列表|给我|吧|吗|呗|呢|看|读|的)*[。！!？?]*$|^(?:列表|推荐|推荐呢|有推荐吗)$|错过了(?:什么|啥)|你(?:帮我|替我)(?:选|挑)|我会喜欢(?:哪些|什么|的)|今天的(?:列表|推荐)"),
)  # fmt: skip

_QUESTION = r"(?:do|does|did|can|could|should|would|will|is|are|was|were|to|might|must|has|have)"
SEARCH = _rules(
    ("search", rf"(?:^|\b)(?:something|anything|info(?:rmation)?|news|videos?|clips?|products?|artists?|bands?|guides?|tutorials?|introductions?|explanations?|resources|papers?|book|books|tips|advice|links|opinions?|question|help|everything|reading|{NOUN})(?: (?:that'?s |that is |which is )?(?:good|new|nice|interesting|cool|fun|else|more|worth reading|for me|to read|useful|decent|recent|available|out there))*,? (?:{ABOUT}|with|from|by|of|to do with|that (?:discuss|cover|explain|mention|talk about|deal with)s?|discussing|explaining|mentioning|for|to|in) (?P<t>.+)"),
    ("search", rf"^(?:what|is there|are there|have you got|do you have|got|any(?:thing)?)(?:'s| is| are| has)?(?: (?:there|been|people|you|folks|everyone|going on|happening|new|happen\w*|say\w*|talk\w*|hot|good|interesting|discuss\w*|written|any(?:thing)?|posted|the latest|the news|up|the buzz))* (?:in|on|about|with|around|regarding) (?P<t>.+)|^(?:the )?latest (?:on|in|from|about|news on) (?P<u>.+)"),
    ("search", rf"^(?:(?:tell|teach|inform|educate)(?: me)?(?: more| something| a bit| everything)?(?: about)?|talk(?: to me)? about|(?:learn|read|hear|know|find out|understand)(?: more| something| a bit| up)?(?: about| on)?|(?:dig|pull) up(?: something| anything)?(?: about| on)?|(?:where|how) (?:can|could|do|should|would|might) I (?:find out|read|learn|find|see|hear)(?: more| something| up)?(?: about| on)?|help(?: me)?(?: with| understand)|question about|read up on) (?P<t>.+)"),
    ("search", rf"^(?:find|search(?: for)?|look(?:ing)?(?: for| up| into)?|show|give|get|recommend|suggest|bring|fetch|list|browse|explore|google|check|see|discover|hunt(?: for)?|need|want|interested in)(?: me| us)?(?: (?:some|any|a few|more|good|all|the best|best|great|\d+|one|two|three|four|five|six|ten|interesting|new|recent|nice|decent))*(?: {NOUN})?(?: (?:{ABOUT}|with|for|of))? (?P<t>.+)"),
    ("search", r"\b(?:has|have|did) (?:anyone|anybody|someone|people|we) (?:here )?(?:ever )?(?:written?|wrote|posted?|asked?|said|talked?|discussed?|tried)(?: anything)?(?: about| on)? (?P<t>.+)|^what (?:does|do|did)(?: the (?:term|word))? (?P<u>.+?) (?:mean|stand for|refer to)\W*$|^I'?m (?:after|researching|studying|working on|learning about|reading up on|looking into)(?: (?:some|any|material|info|information|posts))*(?: on| about)? (?P<v>.+)"),
    ("search", r"^how (?:do|does|did|would)(?: an?| the)? (?P<t>.+?) (?:work|function)s?\W*$"),
    ("search", rf"^(?:what(?:'s| is| are| was| were) the difference between|what(?:'s| is| are| was| were| does| do)(?: exactly)?|who (?:is|was)|define|explain|describe|introduce(?: me to)?|why|how(?: (?:long|much|many|often|far|hard|big|old|fast))? {_QUESTION}|how|when {_QUESTION}|where {_QUESTION}|which|is it (?:true|possible) (?:that|to)|can (?:you|I|one|we))(?: (?:{_QUESTION}|I|we|you|one|people|the))* (?P<t>.+)"),
    ("search", rf"^(?P<t>.+?) (?:posts|articles|threads|questions|videos|stuff|content|news|discussions)(?: please)?$"),
    ("search", r"^(?:我)?(?:最近)?(?:正在|在)(?:研究|学习|学|了解|琢磨|写)(?P<t>[^,，]+)"),
    ("search", r"(?:有没有|有什么|有啥|有哪些|哪里有|有无|有)(?:好看的|不错的|新的|人|什么|谁)*(?:讲到?|关于|有关|介绍|聊到?|谈到?|说到?|讨论过?|涉及|提到|写|教)(?P<t>.+)|^(?:请问|这里|你这|你)*(?:有没有|有什么|有啥|有哪些|有无|有)(?:好看的|不错的|新的|跟|和)*(?P<u>.+?)(?:的|有关的?|相关的?)(?:帖子?|文章|内容|视频|东西|讨论|资料|消息|新闻|好文)?(?:吗|么|没有)?[？?]*$"),
    ("search", r"(?:给我|帮我)?(?:推荐|找找|找|搜索|搜搜|搜|查查|查|来|给我|想看看?|想读|想学习?|想了解|想知道|看看|了解|给我看看?|要看|想听|想找|检索|求|需要|介绍|讲讲|说说|聊聊|发)(?:我|给我)?(?:讲讲|说说|聊聊|介绍|看看|找找)?(?:一下|一些|几[篇个条部]|[一二两三四五六七八九十\d]+[篇个条部]|点儿?|些)?(?:好看的|不错的|有趣的|新的|好的)?(?:关于|有关|讲|介绍|讨论|跟|和|与|涉及)?(?P<t>[^我你一].*?)(?:有关|相关)?(?:的)?(?:资料|视频|讨论|消息)?$"),
    ("search", r"^(?:到底)?(?:什么是|啥是|什么叫|何谓)(?P<t>.+)|^(?P<u>.+?)(?:到底|究竟)?(?:是什么(?:意思|东西|原理)?|是啥(?:意思)?|指什么|怎么样|如何|怎么回事|有什么用)[？?啊呢]*$|^(?P<v>.+?)(?:最近|现在|有没有)?(?:都)?有(?:什么|啥|哪些)(?:区别|好看|新|值得|意思|推荐|进展|讨论|不同|动态|消息|帖子|内容).*$"),
    ("search", r"^(?:关于|有关|讲|介绍)(?P<t>.+?)(?:的)?(?:讨论|帖子|文章|内容|资料|视频|问题)?(?:有吗|有没有|吗)?[？?]*$|^(?:为什么|为啥|为何)(?P<u>.+)$|^(?P<v>.+?)(?:的)?(?:帖子|文章|视频|相关内容|方面的内容|资料)(?:有吗|有没有|吗)?[？?]*$"),
    ("search", r"^(?P<t>.+?)(?:能放多久|能存多久|保质期).*$|^(?P<w>.{2,}(?:怎么|如何|为什么|能不能|好不好|是不是|要不要|会不会).+)$|^(?:怎么|如何|怎样)(?P<u>.+)$|^(?:哪里|哪儿)(?:可以|能)?(?:看到|找到|学到?)(?P<v>.+)$"),
)  # fmt: skip

OUT = _rules(
    ("out_of_scope", r"\b(?:weather|forecast|temperature outside|my homework|what time is it|the time now|tell me a (?:joke|story)|(?:set|start) (?:a|an|the|my) (?:timer|alarm|reminder)|remind me to|translate|stock price|exchange rate|capital (?:city )?of|who won|password|(?:write|draft|compose|type)(?: me| up)? (?:my|a|an|the|some)|(?:book|order|buy)(?: me)? (?:a|an|some|two|tickets)|(?:turn|switch) (?:on|off)|call (?:my|a|the)|(?:send|email|text) (?:an?|my|the|him|her|to)|play (?:some|a|the|me)|debug|fix (?:my|the|this) (?:code|bug)|drop the (?:database|table)|order(?: me)? (?:a|some)|what(?:'s| is) \d+ ?(?:times|plus|minus|divided|[x*+/-])|calculate|solve)\b"),
    ("out_of_scope", r"\b(?:what|which|show|list|tell|see)\b.*\b(?:other (?:users|people|members)|(?-i:[A-Z][a-z]+))(?:'s)? (?:has |have |is |are )?(?:liked|reads?|reading|saved|clicked|likes|history|profile|password)\b|\bonly recommend my\b|\bput \w+ (?:first|on top|at the top)\b"),
    ("out_of_scope", r"天气|气温|下雨|作业|几点了|闹钟|定时器|提醒我|翻译|股价|汇率|首都|谁赢|讲个?笑话|讲个故事|外卖|订.{0,6}(?:票|房|餐|酒店)|(?:帮我|替我|给我)?写(?:一|首|封|篇|段|个|作)|放首?歌|打电话|发(?:封|个)?(?:邮件|短信)|关灯|(?:把)?(?:灯|空调).{0,3}(?:关|开)|密码(?!学)|改代码|解.{0,4}方程|清空数据库|删库|等于(?:多少|几)|\d+\s*(?:乘|加|减|除)|(?:别的|其他|别)(?:用户|人).{0,4}(?:在看|点赞|喜欢|看)|排第一"),
)  # fmt: skip

# w is wanted, o is not.
EXCHANGE = re.compile(
    r"^(?:(?:more|show me|give me|rather|some) )?(?P<w>.+?),? (?:instead of|rather than) (?P<o>.+)$|^(?:replace|swap|exchange)(?: the| all)? (?P<o2>.+?) (?:with|for|by) (?P<w2>.+)$"
    r"|^(?:instead of|rather than) (?P<o3>.+?),? (?:more|show me|give me|I(?:'d| would) (?:like|prefer))? ?(?P<w3>.+)$"
    r"|^[把将]?(?P<o4>.+?)换成(?P<w4>.+)$|^(?:用)?(?P<w5>.+?)(?:代替|取代|替代)(?P<o5>.+)$|^与其(?:看|推)?(?P<o6>.+?)[，,]?不如(?:看|推|来)?(?P<w6>.+)$",
    re.IGNORECASE,
)
EXCEPT = re.compile(
    r",? +(?:but +(?:not|no|nothing about|without)|without|except(?: +for)?|excluding|other than|apart from|minus|and not)(?: +(?:any|about|the))* +|[，,]?(?:但是?)?(?:不要|不含|不包括|除了)(?:讲|关于)?",
    re.IGNORECASE,
)

COMPARE = re.compile(r"\bwhich of (?:the|these|those) two\b|[这那]两.{0,3}(?:不同|区别|差)|\bcompar(?:e|ing|ison)\b(?= (?:\d|these|those|them|the|this|it|both|all)|$)|^(?:比较|对比|比一比)(?:一下)?", re.IGNORECASE)
NOT_OTHERS = re.compile(r"[这那](?:样|种|类)的|\blike\b|\bdon'?t\b|\bstop\b|\bnever\b|\bno\b|像|类似|差不多|别(?!的)|不要再", re.IGNORECASE)
WHY_NOT_TAIL = re.compile(
    r"(?: (?:recommended|shown|included|suggested|mentioned|listed|appear\w*|show(?:ing)? up|here|go(?:ne)?|anymore|any more|from (?:me|my \w+|show\w+ up)|(?:in|on|to) (?:my|the|this) \w+))+\W*$"
    r"|(?:不?见|没有?|不)?(?:出现|推荐|显示|藏|看到)?(?:起来)?[了呢吗啊]*$",
    re.IGNORECASE,
)
LIKE = re.compile(r"\b(?:like|similar to) (?:the|this|that|number|post|#|\d|these|those)|[这那](?:样|种|类)|像|类似", re.IGNORECASE)
