"""Reading the final number of an answer: which number is meant, and its exact value."""

import re
from fractions import Fraction

LONGEST = 300  # characters of a number: what a student repeats without end is text, and no arithmetic is done on it
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_NUMBER = re.compile(
    rf"""
    (?P<other>\d+(?::\d+)+|\d+/\d+/\d+)                                   # 3:30 and 1/2/2024 are no numbers
    | (?P<sign>(?<![\w)\]}}.])(?<![\d)\]}}%]\s)-)?                          # nor do 7-3 and 7 -3 hold a -3
      (?:[$€£¥]\s?)?(?P<sign2>(?<=[$€£¥])-)?
      (?:
        (?P<whole>\d+)\ +(?=\d+/\d)(?P<part>\d+/[1-9]\d*)(?![\d/])        # 2 1/2
        | (?P<ratio>(?:{_DIGITS})/[1-9]\d*)(?![\d/]|\.\d)                 # 1/2, not 1/2/2024
        | (?P<plain>(?:{_DIGITS})(?:\.\d+)?|\.\d+)(?P<exponent>[eE][+-]?\d{{1,2}}(?!\w))?
      )
      (?:\s*(?P<scale>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE,
)

_BARE = r"-?[$€£]?\s?-?\d[\d,./]*%?(?:\s+[a-z]+){0,3}[.!]?"


def plain(text: str) -> str:
    """`text` with the many ways to typeset a number reduced to one: signs, LaTeX commas, spaces, bold."""
    text = re.sub(r"[−–—‒](?=\s?[$€£]?\d)", "-", text)
    text = re.sub(r"(?<=\d)(?:\\[,!;: ]|\{,\}|[\u00a0\u2009\u202f])(?=\d{3}\b)", ",", text)
    text = re.sub(r"\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?", r" \1/\2", text)
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\([$%#])", r"\1", text)
    text = re.sub(r"\\(?:\(|\)|\[|\]|!|,|;|quad\b)", " ", text)
    return re.sub(r"\*\*|__|`|(?<!\d)\*(?=[$\d])|(?<=\d)\*(?!\s*[\d(])", "", text)


def _value(match: re.Match) -> Fraction | None:
    if match["other"] or len(match[0]) > LONGEST:
        return None
    if match["whole"]:
        value = Fraction(match["whole"]) + Fraction(match["part"])
    elif match["ratio"]:
        value = Fraction(match["ratio"].replace(",", ""))
    else:
        value = Fraction(match["plain"].replace(",", "") + (match["exponent"] or ""))
    value *= _SCALES.get(match["scale"], 1)
    return -value if match["sign"] or match["sign2"] else value


def value(text: str) -> Fraction | None:
    """The exact value of a text that is one number ("$1,234.50", "-3", "1/2", "1.0e3", "18."), else None."""
    text = plain(text).strip().rstrip(".").strip("$% ")
    match = _NUMBER.fullmatch(text)
    return _value(match) if match else None


def canonical(number: Fraction) -> str:
    """One string for each value: "1234.5" where it is a finite decimal, else "1/3"."""
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{number.numerator}/{number.denominator}"
    digits = 0
    while (number * 10**digits).denominator != 1:
        digits += 1
    scaled = f"{abs(int(number * 10**digits)):0{digits + 1}d}"
    text = f"{scaled[:-digits]}.{scaled[-digits:]}" if digits else scaled
    return f"-{text}" if number < 0 else text


def numbers_in(text: str) -> list[str]:
    """The numbers of `text` in order, in canonical form; a time such as "3:30" stays as it is."""
    found = []
    for match in _NUMBER.finditer(text):
        number = _value(match)
        found.append(match[0] if number is None else canonical(number))
    return found


_STATED = re.compile(
    r"""(?:\b(?:final|correct|numerical|numeric)?\s*answer\b
           (?:\s*\([^()\n]*\))?(?:\s+(?:to|for|of|in|here)\b[^.:\n=]{0,100}?)?\s*
           (?:\b(?:is|are|was|would\ be|will\ be|must\ be|should\ be)\b|[:=])
        | ^\s*A:)""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_SENTENCE = re.compile(r"(?<=[.!?])(?<!i\.e\.)(?<!e\.g\.)\s+(?=[\"'(\[$A-Z\d])|\n+")
# what is said after the answer
_AFTERWORD = re.compile(r"(?:^|\s)(?:Note\b|Please note|I hope|Hope this|Let me know|Feel free|Remember|\(Note)")
# words before the outcome of a calculation or an inference: the number meant stands after the last of them
_OUTCOME = re.compile(
    r"=|≈|\bequals?\b|\bequal to\b|\b(?:which|that)(?:'s| is| are| was| gives| leaves| means| makes| equals| totals)\b"
    r"|\bso\b(?! as\b|[^.,]*\benough\b)|\bor\b|\bthen\b|\bget\b|\bto find\b"
    r"|\bgiv(?:es?|ing)\b|\bleav(?:es?|ing)\b|\btotal of\b|\bleft with\b|\bmeans? that\b",
    re.IGNORECASE,
)
# "In 5 days, she makes $18": a clause that comes before what the sentence says
_OPENING = re.compile(
    r"\b(?:in|after|for|on|with|if|since|at|over|when|given|by|out of|because|to|from|during|before|once|as)\b"
    r"(?:[^,]|(?<=\d),(?=\d)){0,200}?(?:(?<=[a-z]),\s+|,\s+(?=\D))",
    re.IGNORECASE,
)
# what a sentence adds behind its outcome: "in order to transport 80 stones"
_PURPOSE = re.compile(
    r"\s(?:in order (?:to|for)|so that(?!'s| means| leaves| is| makes| gives)|so as to|"
    r"to (?:have|be|reach|make|secure|fill))\b.*",
    re.DOTALL,
)
_SAYS = re.compile(
    r"\b(?:is|are|was|were|be|costs?|have|has|had)\s+(?:(?:now|only|just|about|approximately|exactly|still)\s+)?$",
    re.I,
)
_KNOWN = re.compile(
    r"\b(?:(?:the|these|those)(?: last| first| next| other| remaining)?|"
    r"each|every|both|per|than|step|in|within|after)\s+\$?$",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\W*(?:\d+\.\s*)?\[?(?:final solution\W*)?"
    r"(?:so|thus|therefore|hence|in total|altogether|in conclusion|finally|overall)\b",
    re.IGNORECASE,
)
# "10 candies will cost $5": a number with which the sentence opens, and the verb that follows it
_SUBJECT = re.compile(rf"(?:{_CONCLUDES.pattern})?[\W\d]*$", re.IGNORECASE)
_VERB = re.compile(
    r"\b(?:(?:will|would|can|could)(?! be (?:needed|required))|is|are|was|were|has|have|had|costs?|takes?)\b",
    re.IGNORECASE,
)


def sentences(text: str) -> list[str]:
    """The sentences and lines of `text`, without closing remarks ("I hope this helps")."""
    return [part for part in _SENTENCE.split(text) if part.strip() and not _AFTERWORD.match(part)]


def _without(aside: re.Pattern, text: str) -> str:
    """`text` without its first `aside`, unless its numbers are all in there."""
    rest = aside.sub("", text, count=1)
    return rest if _NUMBER.search(rest) else text


def _before(text: str, match: re.Match) -> str:
    """The words just before a match."""
    return text[max(0, match.start() - 40) : match.start()]


def outcome(sentence: str) -> str | None:
    """The number that a sentence comes to, among the others that it may repeat; None where it has none.

    After the last "=", "which is", "so" that a number follows; there the first number that is not part of
    an opening clause ("In 5 days, ...") and does not refer to something known ("the 8 adults").
    """
    said = _without(_PURPOSE, sentence)
    last = max((match.start() for match in _NUMBER.finditer(said)), default=0)
    start = max((match.end() for match in _OUTCOME.finditer(said) if match.end() <= last), default=0)
    said = _without(_OPENING, said[start:])
    found = list(_NUMBER.finditer(said))
    new = [match for match in found if not _KNOWN.search(_before(said, match))] or found
    if not new:
        return None
    direct = [match for match in new if _SAYS.search(_before(said, match))]
    if not direct and _SUBJECT.match(said[: new[0].start()]):
        direct = [match for match in new[1:] if _VERB.search(said[new[0].end() : match.start()])]
    return numbers_in((direct or new)[0][0])[0]


def hashes(text: str) -> str | None:
    """GSM8K's own form, the first "#### 18"."""
    found = re.search(rf"####[ \t]*({_BARE})[ \t]*$", text, re.MULTILINE)
    return numbers_in(found[1])[0] if found else None


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}."""
    found = re.findall(r"\\f?box(?:ed)?\s*\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    return outcome(found[-1]) if found else None


def stated(text: str) -> str | None:
    """The number of the last "the answer is 18", "Answer: $18", "A: 18"."""
    reading = None
    for match in _STATED.finditer(text):
        tail = text[match.end() : match.end() + 1000]  # bounds the work on a text that repeats itself
        said = sentences(tail)
        if len(said) > 1 and (not text[: match.start()].strip() or re.match(r"[ ]*\n", tail)):
            continue  # a heading over the whole answer: `opening` reads it where nothing is concluded
        reading = (said and outcome(said[0])) or reading
    return reading


def concluding(text: str) -> str | None:
    """The number of the last sentence that has one, where it begins with "Therefore", "So", "In total", ..."""
    said = [sentence for sentence in sentences(text) if _NUMBER.search(sentence)]
    return outcome(said[-1]) if said and _CONCLUDES.match(said[-1]) else None


def opening(text: str) -> str | None:
    """A number that is the first line, as "18", "$18.00" or "Answer: 18 dollars"."""
    first = text.strip().split("\n")[0]
    return numbers_in(first)[0] if re.fullmatch(rf"(?:[Aa]nswer)?[\s:=]*{_BARE}", first) else None


def last(text: str) -> str | None:
    """The number of the last sentence that has one."""
    return next(filter(None, map(outcome, reversed(sentences(text)))), None)
