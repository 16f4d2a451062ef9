"""Where the final answer of a text stands: one list of rules for all tasks, in the order in which they count.

A rule finds spans and says how to read each: "head" (the answer opens the span), "tail" (it closes the span),
"line" (the span's first line is the answer and little else), "sentence" (it is what the sentence says).
What a span says is the business of a reader: letters.py, numbers.py, latex.py.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

MOST = 50  # statements that are looked at, from the end: what a text repeats without end says nothing more
UNDECIDED = ""  # what a reader gives for a text that answers, but not with one answer ("A or B")


class Span(NamedTuple):
    """A piece of a text that may hold the answer, and the reader's method that reads it."""

    form: str
    text: str


class Reader(Protocol):
    """What a span says: a value, None where it holds none, or UNDECIDED, after which no later rule may guess."""

    options: Sequence[str]

    def plain(self, text: str) -> str: ...
    def head(self, span: str) -> str | None: ...
    def tail(self, span: str) -> str | None: ...
    def line(self, span: str) -> str | None: ...
    def sentence(self, span: str) -> str | None: ...
    def last(self, text: str) -> str | None: ...
    def same(self, read: str, target: str) -> bool: ...


_FIELD = re.compile(
    r"""
    <(?P<tag>(?:final_?)?answer)>(?P<tagged>[^<]*)</(?P=tag)>
    | (?P<quote>["'])(?:(?:your|final|correct)?[ _]?(?:answer|choice|option)(?:[ _]letter)?)(?P=quote)\s*:\s*
      (?:(?P<json>"(?:[^"\\]|\\.)*")|'(?P<single>[^'\n]*)'|\[(?P<list>[^\[\]]*)\]|(?P<value>-?[\d.,/]+|[A-J]\b))
    | \[answer\](?P<square>[^\[\]]*)\[/answer\]
    | \b(?:Answer|Finish|Submit)[(\[](?:["'](?P<said>[^"'\n]*)["']|(?P<call>[A-J]|-?\d[\d.,/]*))[)\]]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:f?boxed|fbox|framebox)(?![a-zA-Z])\s*")
_BESIDE = re.compile(r"(?:[\s$,;.]|\\[()\[\]]|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\}|\b[a-zA-Z]\s*=)*")
_HASHES = re.compile(r"####[ \t]*(-?[$€£]?[ ]?-?\d[\d,/]*+(?:\.\d++)?+(?:[eE]\d++)?+%?)(?![.):]\s*[A-Za-z]|[):])")

_IS = r"(?:is|are|was|would\ be|will\ be|must\ be|should\ be|has\ to\ be|seems\ to\ be|appears\ to\ be|remains|becomes|'s)"
_RIGHT = r"(?:correct|right|best|final|true|only|valid|most\ [\w-]+|more\ [\w-]+|least\ [\w-]+|closest)"
_STATED = re.compile(
    rf"""
    (?: (?<!another\ )(?<!other\ )(?<!one\ )(?<!possible\ )(?<!wrong\ )(?<!incorrect\ )(?<!previous\ )(?<!initial\ )(?<!first\ )
        (?:\banswer | (?P<weak>\b(?:response|solution|conclusion|result\b(?!\ in))))
      | \b(?:{_RIGHT}|the|my|our|answer)\s+(?:option|choice|selection) )
    (?:\s*\([^()\n]{{3,60}}\))?
    (?:\s+(?:to|for|among|from|here|of|in|that|which)\b[^.:=\n]{{0,100}}?)?  # "to the question", "for part 2"
    (?:,[^,.\n]{{1,40}},)?                                                 # ", then,"
    \s*(?:{_IS}(?!\w)\s?:?|(?P<colon>[:=→])|\s[-–—]\s(?=\S{{1,12}}\s*$))
    | \banswer\s*(?=\(?[A-J]\b)
    | ^[^\w\n]*+(?:final\ |correct\ )?answer[ \t]*$
    | \b(?:I(?:'d|\s+would|\s+will|'ll)?|we|you)\s+(?:should\s+|would\s+|can\s+)?
      (?:choose|chose|pick|select|selected|go\s+with|opt\s+for|vote\s+for)\b
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_FILLER = r"(?:(?!not\b|never\b|also\b|in?correct\b|possibl|plausibl|potential|partial|wrong|good\b)[\w-]+\s+){0,3}?"
_VERDICT = re.compile(
    rf"""
    (?:\b{_IS}|\bas|\bmak(?:ing|es)\s+it)\s+{_FILLER}
    (?:{_RIGHT}\s+(?:answer|option|choice|response|solution|conclusion|selection|one)\b|(?:the|my|our)\s+answer\b)
    (?!\s+(?:if|had|only|to\s+(?:another|a\s+different))\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_JUDGED = re.compile(
    rf"""
    \b{_IS}\s+(?:(?!not\b|never\b|in?correct\b|partial)[\w-]+\s+){{0,2}}?(?:correct|right)(?!\s+(?:that|answer|option|choice)|\w)
    | \b(?:seems|appears|looks|is)\s+(?:the\s+)?most\s+(?:plausible|appropriate|suitable|reasonable|logical|accurate)\b
    | (?:[:–—-]\s*(?:correct|right|yes|true)|(?<![✅✓✔])[✅✓✔]++)[^\w\n]*$                          # "C) rose: correct"
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
CONCLUDES = re.compile(
    r"\W*+(?:\d+\.\s*)?\[?(?:final solution\W*)?(?:so|thus|therefore|hence|in total|altogether|in conclusion|finally|"
    r"overall|given|based on|considering|consequently|in summary|this means|that means|this leaves|that leaves)\b"
    r"|[^.\n]*?,\s+(?:so|thus|therefore|hence)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\n+|(?:(?<=[.!?])(?<!\b[A-J]\.)(?<!i\.e\.)(?<!e\.g\.)|(?<=\b(?:is|be) [A-J]\.)|(?<=(?:was|ion) [A-J]\.))\s+"
    r"(?=[\"'(\[$]*[A-Z\d])"
)
_AFTERWORD = re.compile(
    r"\s*(?:Note\b|Please note|I hope|Hope this|Let me know|Feel free|Remember|\(Note|[^.]*\banswer is(?: not|n't)\b(?!.*\bbut\b))"
)
_TAKEN_BACK = re.compile(
    r"\b(?:wait|hmm+|on second thought|scratch that|correction|I made an? (?:mistake|error)|"
    r"let me (?:re-?\w+|correct)|(?<=[.!?\n] )Actually)\b",
    re.IGNORECASE,
)
# where a model stops answering and goes on to invent the next exercise, or its end-of-turn marks
_NEXT = re.compile(
    r"\n\s*(?:\*\*|\#+\s*)?(?:Question|Q|Instruction|Human|User|Problem)\s*:"
    r"|\n\s*(?:Choose the answer to the question only from|Answer the following mathematical question)"
    r"|</?s>|<EOS|<\|[\w ]+\|>|<end_of_turn>|\[/?INST\]"
)
# "Great, let's solve this!", after which the question itself is repeated
_RESTATES = re.compile(
    r"\s*(?:sure|great|okay|ok|of course|certainly|alright|let|here|hello|hi|topic|context)\b"
    r"(?:(?!\b(?:answer|option|choice)\b\W*(?:is|:)|\\boxed).)*",
    re.IGNORECASE | re.DOTALL,
)


def own_part(text: str) -> str:
    """The answer itself: after a reasoning block, up to the next question that the model goes on to invent."""
    text = re.sub(r"\s{9,}", _gap, text.rsplit("</think>", 1)[-1])
    for match in _NEXT.finditer(text):
        before = text[: match.start()]
        if re.search(r"\w", before) and not _RESTATES.fullmatch(before):
            return text[: match.start()]
    return text


def _gap(spaces: re.Match) -> str:
    return "\n\n" if "\n" in spaces[0] else " "


def sentences(text: str) -> list[str]:
    """The sentences and lines of `text`, without closing remarks ("I hope this helps"); "A. ice" ends none."""
    return [part for part in _SENTENCE.split(text) if part.strip() and not _AFTERWORD.match(part)]


def fields(text: str) -> list[Span]:
    r"""What stands in a mark made for the answer alone.

    >>> fields('<answer>C</answer>') == fields('{"why": "Option A", "answer": "C"}') == fields('Action: Answer("C")')
    True
    """
    found: list[tuple[str, int]] = []
    for match in _FIELD.finditer(text):
        kind = match.lastgroup
        said = match[kind]
        if kind == "json":
            said = re.sub(r"(?<!\\)\\(?=[a-zA-Z]{2}|[^\w\"\\/])", r"\\\\", said)  # LaTeX that was not escaped
            try:
                said = json.loads(said, strict=False)
            except ValueError:
                said = match[kind][1:-1]
        said = " ".join(said.split())
        if re.search(r"[^\W_]|\\", said):  # not a blank to fill in, "___"
            joined = found and re.fullmatch(r"[\s,]*(?:or|and)[\s,]*", text[found[-1][1] : match.start()])
            found.append((f"{found[-1][0]} or {said}" if joined else said, match.end()))
    return [Span("text" if len(sentences(said)) > 1 or "\\boxed" in said else "head", said) for said, _ in found]


def hashes(text: str) -> list[Span]:
    """GSM8K's own form; a line of its own ends the answer, so that nothing behind it counts.

    >>> hashes("So 5 + 13 = #### 18 eggs.")
    [Span(form='head', text='18')]
    """
    found = list(_HASHES.finditer(text))
    alone = [match for match in found if re.search(r"(?:^|\n)[ \t]*$", text[: match.start()])]
    return [Span("head", match[1]) for match in alone[:1] or found]


def boxes(text: str) -> list[Span]:
    r"""The contents of the closed, filled \boxed{...}, \fbox{...} and "\boxed 2"; neighbours are one answer.

    >>> boxes(r"$x=\boxed{3}$, so $\boxed{-1}$ and $\boxed{6}$")
    [Span(form='head', text='3'), Span(form='head', text='-1,6')]
    """
    found: list[str] = []
    end, any_box = -1, False
    for match in _matches(_BOX, text):
        any_box = True
        if text[match.end() : match.end() + 1] == "{":
            content = group(text, match.end())
            after = match.end() + len(content or "") + 2
        else:
            content = re.match(r"[^$\s]*", text[match.end() :])[0].rstrip(".")
            after = match.end() + len(content)
        if not content or not content.strip():
            continue
        sign = (
            "-" if re.search(r"(?:^|[=$(\s]|\\[(\[])\s*-\s*$", text[max(0, match.start() - 9) : match.start()]) else ""
        )
        content = sign + " ".join(content.split())
        if found and end <= match.start() and _BESIDE.fullmatch(text, end, match.start()):
            found[-1] += f",{content}" if content not in found[-1].split(",") else ""
        elif match.start() >= end:
            found.append(content)
        end = after
    return [Span("head", content) for content in found] or [Span("head", UNDECIDED)] * any_box


def last_boxed(text: str) -> str | None:
    """The content of the last box, None where there is none."""
    return (boxes(text) or [Span("", None)])[-1].text


def group(text: str, start: int) -> str | None:
    """The content of the braces that open at `start`, None where they are not closed."""
    depth = 0
    for match in re.compile(r"(?<!\\)[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start + 1 : match.start()]
    return None


def stated(text: str) -> list[Span]:
    """After "the answer is", "Answer:", "I would choose", and before "is the correct answer"; not "is not".

    >>> stated("Answer: C. Option D is a possible answer, too.")
    [Span(form='head', text=' C. Option D is a possible answer, too.')]
    >>> stated("So, steam is the correct answer.")
    [Span(form='tail', text='So, steam ')]
    """
    found = [(match.start(), _after(text, match)) for match in _matches(_STATED, text)]
    found += [(match.start(), _before(text, match)) for match in _matches(_VERDICT, text)]
    return [span for _, span in sorted(found, key=lambda place: place[0]) if span]


def _matches(rule: re.Pattern, text: str) -> list[re.Match]:
    return list(rule.finditer(text))[-MOST:]


def _after(text: str, match: re.Match) -> Span | None:
    tail = text[match.end() : match.end() + 2000]  # bounds the work on a text that repeats itself
    if denied := re.match(r"\s*(?:(?:also\s+)?(?:not|never)\b|n't\b)", tail):
        instead = re.match(r"[^.\n]{0,80}?\bbut\b", tail[denied.end() :])
        return Span("head", tail[denied.end() + instead.end() :]) if instead else None
    if not tail.strip():
        return None
    if match["weak"] and len(sentences(tail[:600])) > 3:
        return None  # the solution of a step
    heading = not text[: match.start()].strip() or re.match(r"[ \t]*\n", tail) or (match["weak"] and match["colon"])
    return Span("line" if heading and len(sentences(tail)) > 1 else "head", tail)


def _before(text: str, match: re.Match) -> Span | None:
    line = text[max(0, match.start() - 1000) : match.start()].rpartition("\n")[2]
    said = (sentences(line) or [""])[-1]
    if re.match(r"\W*(?:this|that|it|which)\b\s*$", said, re.IGNORECASE):
        said = line  # "A) ice: It is solid. This is the correct answer."
    return Span("tail", said) if said.strip() else None


def judged(text: str, reader: Reader) -> list[Span]:
    """Before a weaker verdict on an option, such as "is correct" and "seems most plausible".

    >>> from selfrefine.tasks.letters import Letters
    >>> judged("Ice melts, so B is correct.", Letters(("ice", "water")))
    [Span(form='tail', text='Ice melts, so B ')]
    """
    found = _matches(_JUDGED, text) if reader.options else []
    return list(filter(None, (_before(text, match) for match in found)))


def concluding(text: str, reader: Reader) -> list[Span]:
    """The last sentence that says anything, where it begins with "Therefore", "So", "In total", ...

    >>> from selfrefine.tasks.numbers import Numbers
    >>> concluding("So she has 8. They are red.", Numbers())
    [Span(form='sentence', text='So she has 8.')]
    """
    for said in reversed(sentences(text)):
        if reader.sentence(said) is not None:
            return [Span("sentence", said)] if CONCLUDES.match(said) else []
    return []


def opening(text: str) -> list[Span]:
    """The first line, where it is the answer.

    >>> opening("C) water. Because")
    [Span(form='line', text='C) water. Because')]
    """
    return [Span("line", text.strip())]


def last(text: str) -> list[Span]:
    """What is named last, or alone: nothing but a guess, and none for a text that was cut off.

    >>> last("It is 18...")
    [Span(form='last', text='It is 18...')]
    """
    return [Span("last", text)]


# an explicit mark beats a statement, a statement beats a conclusion, and anything beats a guess
RULES: tuple[tuple[str, Callable[..., list[Span]]], ...] = (
    ("field", fields),
    ("####", hashes),
    ("boxed", boxes),
    ("stated", stated),
    ("judged", judged),
    ("concluding", concluding),
    ("opening", opening),
    ("last", last),
)


def find(text: str, reader: Reader, ended: bool = True) -> tuple[str | None, str]:
    """What the first rule with a finding reads, and that rule's name; of its spans the last that says anything.

    What follows "Wait" or "I made a mistake" comes first, where it states or concludes anything itself.
    """
    text = own_part(text)
    marked, text = fields(text), reader.plain(text)  # a field is JSON, and its backslashes mean something
    again = [match.end() for match in _TAKEN_BACK.finditer(text)][-1:]
    # nothing is guessed of a text that was cut off, or beside a field that holds no answer
    parts = [(text[start:], RULES[1:6]) for start in again] + [
        (text, RULES[:4] if marked else RULES if ended else RULES[:-1])
    ]
    for part, rules in parts:
        for name, rule in rules:
            spans = marked if rule is fields else rule(part, reader) if rule in (judged, concluding) else rule(part)
            for span in reversed(spans):
                if span.form == "text":  # an answer of several sentences has an answer in it
                    found = find(span.text, reader)[0]
                elif span.text == UNDECIDED:
                    found = UNDECIDED
                else:
                    found = getattr(reader, span.form)(reader.plain(span.text) if rule is fields else span.text)
                if found is not None:
                    return (found, name) if found else (None, "none")
    return None, "none"
