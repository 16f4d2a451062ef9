"""Where the final answer of a text stands: one list of rules for all tasks, in the order in which they count.

A rule gives spans in the text's order, each with the method of a reader (letters.py, numbers.py, latex.py) that reads
it: "head" (the answer opens it), "tail" (the answer closes it), "line" (its first line is the answer and little else),
"sentence" (what that sentence comes to). A reading is a value, None where the span holds none, or UNDECIDED ("A or B"),
after which no later rule may guess.
"""

import re

Span = tuple[str, str]
UNDECIDED = ""
MOST = 50  # statements that are looked at, from the end: a text may repeat itself without end

_FIELD = re.compile(r"""(?ix)<(?P<tag>(?:final_?)?answer)>(?P<tagged>[^<]*)</(?P=tag)>
    | \[answer\](?P<square>[^\[\]]*)\[/answer\]
    | (?P<quote>["'])(?:your|final|correct)?[ _]?(?:answer|choice|option)(?:[ _]letter)?(?P=quote)\s*:\s*
      (?:(?P<json>"(?:[^"\\]|\\.)*")|'(?P<single>[^'\n]*)'|\[(?P<list>[^\[\]]*)\]|(?P<value>-?[\d.,/]+|[A-J]\b))
    | \b(?:Answer|Finish|Submit)[(\[](?:["'](?P<said>[^"'\n]*)["']|(?P<call>[A-J]|-?\d[\d.,/]*))[)\]]""")
_ESCAPE = re.compile(r"\\(?:([\\\"/])|u([0-9a-fA-F]{4})|n(?![a-z]))")  # of JSON; LaTeX in it is often not escaped
_HASHES = re.compile(r"####[ \t]*(-?[$€£]?[ ]?-?\d[\d,/]*+(?:\.\d++)?+(?:[eE]\d++)?+%?)(?![.):]\s*[A-Za-z]|[):])")
_BOX = re.compile(r"(?:[=$(\[]\s*(?P<minus>-)\s*)?\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_BESIDE = re.compile(r"(?:[\s$,;.]|\\[()\[\]]|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\}|\b[a-zA-Z]\s*=)*")

_IS = r"(?:is|are|was|(?:would|will|must|should|(?:has|seems|appears)\ to)\ be|remains|becomes|'s)"
_RIGHT = r"(?:correct|right|best|final|true|only|valid|(?:most|more|least)\ [\w-]+|closest)"
_STATED = re.compile(rf"""(?imx)(?:
          (?<!other\ )(?<!one\ )(?<!possible\ )(?<!wrong\ )(?<!incorrect\ )(?<!previous\ )(?<!initial\ )(?<!first\ )
          (?:\banswer | (?P<weak>\b(?:response|solution|conclusion|result\b(?!\ in))))
        | \b(?:{_RIGHT}|the|my|our|answer)\s+(?:option|choice|selection) )
      (?:\s*\([^()\n]{{3,60}}\))?                                               # "(arabic numerals)"
      (?:\s+(?:to|for|among|from|here|of|in|that|which)\b[^.:=\n]{{0,100}}?)?   # "to the question"
      (?:,[^,.\n]{{1,40}},)?                                                    # ", then,"
      \s*(?:{_IS}(?!\w)\s?:?|(?P<colon>[:=→])|\s[-–—]\s(?=\S{{1,12}}\s*$))
    | \banswer\s*(?=\(?[A-J]\b) | ^[^\w\n]*+(?:final\ |correct\ )?answer[ \t]*$
    | \b(?:I(?:'d|\s+would|\s+will|'ll)?|we|you)\s+(?:should\s+|would\s+|can\s+)?
      (?:choose|chose|pick|select|selected|go\s+with|opt\s+for|vote\s+for)\b""")
_VERDICT = re.compile(rf"""(?ix)(?:\b{_IS}|\bas|\bmak(?:ing|es)\s+it)\s+
      (?:(?!(?:not|never|also|in?correct|good)\b|possibl|plausibl|potential|partial|wrong)[\w-]+\s+){{0,3}}?
      (?:{_RIGHT}\s+(?:answer|option|choice|response|solution|conclusion|selection|one)|(?:the|my|our)\s+answer)\b
      (?!\s+(?:if|had|only|to\s+(?:another|a\s+different))\b)""")
_JUDGED = re.compile(rf"""(?imx)\b{_IS}\s+(?:(?!(?:not|never|in?correct)\b|partial)[\w-]+\s+){{0,2}}?
      (?:correct|right)(?!\s+(?:that|answer|option|choice)|\w)
    | \b(?:seems|appears|looks|is)\s+(?:the\s+)?most\s+(?:plausible|appropriate|suitable|reasonable|logical|accurate)\b
    | (?:[:–—-]\s*(?:correct|right|yes|true)|(?<![✅✓✔])[✅✓✔]++)[^\w\n]*$       # "C) rose: correct" """)
CONCLUDING = r"""\W*+(?:\d+\.\s*)?\[?(?:final\ solution\W*)?(?:so|thus|therefore|hence|in\ total|altogether|overall
    |in\ conclusion|finally|given|based\ on|considering|consequently|in\ summary|(?:this|that)\ (?:means|leaves))\b
    | [^.\n]*?,\s+(?:so|thus|therefore|hence)\b"""
CONCLUDES = re.compile(CONCLUDING, re.VERBOSE | re.IGNORECASE)
_TAKEN_BACK = re.compile(r"""(?ix)\b(?:wait | hmm+ | on\ second\ thought | scratch\ that | correction
    | I\ made\ an?\ (?:mistake|error) | let\ me\ (?:re-?\w+|correct) | (?<=[.!?\n]\ )Actually)\b""")
# "A. ice" and "e.g. ice" are not the end of one, "It is A. Ice melts" is
_SENTENCE = re.compile(r"""(?x)\n+ | (?:(?<=[.!?])(?<!\b[A-J]\.)(?<!i\.e\.)(?<!e\.g\.) | (?<=\b(?:is|be)\ [A-J]\.)
    | (?<=(?:was|ion)\ [A-J]\.))\s+(?=["'(\[$]*[A-Z\d])""")
_AFTERWORD = re.compile(r"\s*(?:\(?Note\b|Please note|I hope|Hope this|Let me know|Feel free|Remember)")
_REFUSED = re.compile(r"(?i)\banswer is(?: not|n't)\b(?!.*\bbut\b)")
# where a model stops answering and goes on to invent the next exercise, or its end-of-turn marks
_NEXT = re.compile(r"""(?x)\n\s*(?:\*\*|\#+\s*)?(?:Question|Q|Instruction|Human|User|Problem)\s*:
    | \n\s*(?:Choose\ the\ answer\ to\ the\ question\ only\ from|Answer\ the\ following\ (?:mathematical\ )?question)
    | </?s> | <EOS | <\|[\w\ ]+\|> | <end_of_turn> | \[/?INST\]""")
# "Great, let's solve this!", after which the question itself is repeated
_RESTATES = re.compile(r"""(?isx)\s*(?:sure|great|ok(?:ay)?|of\ course|certainly|let|here|hello|topic|context
    |given|problem|variables|relevant)\b(?:(?!\b(?:answer|option|choice)\b\W*(?:is|:)\W*\w|\\boxed).)*""")


def own_part(text: str) -> str:
    """The answer itself: what follows the reasoning (which must have ended), up to a next question that is invented."""
    if "<think>" in text.rpartition("</think>")[2]:
        return ""
    text = re.sub(r"\s{9,}", lambda gap: "\n\n" if "\n" in gap[0] else " ", text.rsplit("</think>", 1)[-1])
    ends = (text[: match.start()] for match in _NEXT.finditer(text))
    return next((own for own in ends if re.search(r"\w", own) and not _RESTATES.fullmatch(own)), text)


def sentences(text: str) -> list[str]:
    """The sentences and lines of `text`, without closing remarks ("I hope this helps")."""
    return [part for part in _SENTENCE.split(text) if part.strip() and not _AFTERWORD.match(part)]


def field(text: str, _=None) -> list[Span]:
    """What stands in a mark made for the answer alone: JSON's "answer", <answer>, Answer("C")."""
    found: list[tuple[str, int]] = []
    for match in _FIELD.finditer(text):
        said = match[match.lastgroup]
        if match["json"]:
            said = _ESCAPE.sub(lambda escape: escape[1] or (chr(int(escape[2], 16)) if escape[2] else " "), said[1:-1])
        if re.search(r"[^\W_]|\\", said):  # not a blank to fill in, "___"
            said = " ".join(said.split())
            joined = found and re.fullmatch(r"[\s,]*(?:or|and)[\s,]*", text[found[-1][1] : match.start()])
            found.append((f"{found[-1][0]} or {said}" if joined else said, match.end()))
    return [("head", said) for said, _ in found]


def hashes(text: str, _=None) -> list[Span]:
    """GSM8K's own form; a line of its own ends the answer, so that nothing behind it counts."""
    found = list(_HASHES.finditer(text))
    alone = [match for match in found if not text[: match.start()].rpartition("\n")[2].strip()]
    return [("head", match[1]) for match in alone[:1] or found]


def boxed(text: str, _=None) -> list[Span]:
    r"""The contents of the closed, filled \boxed{...}, \fbox{...} and "\boxed 2"; neighbours are one answer."""
    found, end, matches = [], 0, list(_BOX.finditer(text))[-MOST:]
    for match in matches:
        braces = text[match.end() : match.end() + 1] == "{"
        content = group(text, match.end()) if braces else re.match(r"[^$\s]*", text[match.end() :])[0].rstrip(".")
        if not content or not content.strip() or match.start() < end:
            continue
        said = (match["minus"] or "") + " ".join(content.split())
        if found and _BESIDE.fullmatch(text, end, match.start()):
            found[-1] += f",{said}" if said not in found[-1].split(",") else ""
        else:
            found.append(said)
        end = match.end() + len(content) + 2 * braces
    return [("head", said) for said in found] or [("head", UNDECIDED)] * bool(matches)


def group(text: str, start: int) -> str | None:
    """The content of the braces that open at `start`, None where they are not closed."""
    depth = 0
    for match in re.compile(r"(?<!\\)[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start + 1 : match.start()]
    return None


def stated(text: str, _=None) -> list[Span]:
    """After "the answer is", "Answer:", "I would choose", and before "is the correct answer"; not "is not"."""
    found = [(match.start(), _after(text, match)) for match in list(_STATED.finditer(text))[-MOST:]]
    found += [(match.start(), _before(text, match)) for match in list(_VERDICT.finditer(text))[-MOST:]]
    return [span for _, span in sorted(found, key=lambda place: place[0]) if span]


def judged(text: str, reader) -> list[Span]:
    """Before a weaker verdict on an option, such as "is correct" and "seems most plausible"."""
    found = list(_JUDGED.finditer(text))[-MOST:] if hasattr(reader, "options") else []
    return [span for match in found if (span := _before(text, match))]


def concluding(text: str, reader) -> list[Span]:
    """The last sentence that says anything, where it begins with "Therefore", "So", "In total", ..."""
    said = next((said for said in reversed(sentences(text)) if reader.sentence(said) is not None), "")
    return [("sentence", said)] if CONCLUDES.match(said) else []


def opening(text: str, _=None) -> list[Span]:
    """The first line, where it is the answer."""
    return [("line", text.strip())]


def last(text: str, reader) -> list[Span]:
    """What is named last, or alone: nothing but a guess."""
    if hasattr(reader, "last"):
        return [("last", text)]
    return [*(("sentence", said) for said in sentences(text)), ("line", text.strip().rpartition("\n")[2])]


# an explicit mark beats a statement, a statement beats a conclusion, and anything beats a guess
RULES = (field, hashes, boxed, stated, judged, concluding, opening, last)


def find(text: str, reader, ended: bool = True) -> tuple[str | None, str]:
    r"""What the first rule with a finding reads, and that rule's name; of its spans the last that says anything.

    What follows "Wait" or "I made a mistake" comes first, where it states or concludes anything itself. Nothing is
    guessed of a text that was cut off (`ended` is False), or beside a field or "the answer is not". By each rule:

    >>> from selfrefine.tasks.numbers import Numbers
    >>> find("5 + 13 = #### 18", Numbers())
    ('18', 'hashes')
    >>> from selfrefine.tasks.letters import Letters
    >>> answers = '{"answer": "C"}', r"\boxed{C}", "Answer: C. B?", "C is right.", "So, C. Good.", "C) ice", "It is C"
    >>> print(*(find(answer, Letters(("steam", "water", "ice")))[1] for answer in answers))
    field boxed stated judged concluding opening last
    """
    text = own_part(text)
    marked, text = field(text), reader.plain(text)  # a field is JSON, and its backslashes mean something
    guess = ended and not _REFUSED.search(text)
    again = [(text[match.end() :], RULES[1:6]) for match in _TAKEN_BACK.finditer(text)][-1:]
    for part, rules in [*again, (text, RULES[:4] if marked else RULES if guess else RULES[:-1])]:
        for rule in rules:
            for form, span in reversed(marked if rule is field else rule(part, reader)):
                if rule is field and (len(sentences(span)) > 1 or "\\boxed" in span):
                    found = find(span, reader)[0]  # an answer of several sentences has an answer in it
                else:
                    found = getattr(reader, form)(reader.plain(span) if rule is field else span) if span else UNDECIDED
                if found is not None:
                    return (found, rule.__name__) if found else (None, "none")
    return None, "none"


def _after(text: str, match: re.Match) -> Span | None:
    tail = text[match.end() : match.end() + 2000]  # bounds the work on a text that repeats itself
    denied = re.match(r"\s*(?:(?:also\s+)?(?:not|never)\b|n't\b)", tail)
    if not tail.strip() or denied or (match["weak"] and len(sentences(tail[:600])) > 3):
        return None  # cut off, denied, or the solution of a step
    heading = not text[: match.start()].strip() or re.match(r"[ \t]*\n", tail) or (match["weak"] and match["colon"])
    return "line" if heading and len(sentences(tail)) > 1 else "head", tail


def _before(text: str, match: re.Match) -> Span | None:
    line = text[max(0, match.start() - 1000) : match.start()].rpartition("\n")[2]
    said = (sentences(line) or [""])[-1]
    if re.match(r"\W*(?:this|that|it|which)\b\s*$", said, re.IGNORECASE):
        said = line  # "A) ice: It is solid. This is the correct answer."
    return ("tail", said) if said.strip() else None
