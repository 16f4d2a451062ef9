"""What a span says as a number: which of its numbers is meant, and its exact value."""

import re
from decimal import Context, Decimal, Inexact
from fractions import Fraction

from selfrefine.tasks.places import CONCLUDES, CONCLUDING, UNDECIDED, sentences

LONGEST = 300  # characters of a number: what a student repeats without end is text, and no arithmetic is done on it
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_NUMBER = re.compile(rf"""(?x)
    (?P<other>\d+(?::\d+)+|\d+/\d+/\d+)                                   # 3:30 and 1/2/2024 are no numbers
    | (?P<sign>(?<![\w)\]}}.])(?<![\d)\]}}%]\s)-)?(?:[$€£¥]\s?)?(?P<sign2>(?<=[$€£¥])-)?  # nor does 7 -3 hold -3
      (?: (?P<whole>\d+)\ +(?=\d+/\d)(?P<part>\d+/[1-9]\d*)(?![\d/])        # 2 1/2
        | (?P<ratio>(?:{_DIGITS})/[1-9]\d*)(?![\d/]|\.\d)                   # 1/2, not 1/2/2024
        | (?P<plain>(?:{_DIGITS})(?:\.\d+)?|\.\d+)(?P<exponent>[eE][+-]?\d{{1,2}}(?!\w))? )
      (?:\s*(?P<scale>thousand|million|billion|trillion)\b)?""")
_NAMES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand""".split()  # noqa: SIM905
_WORDS = dict(zip(_NAMES, [*range(20), *range(20, 100, 10), 100, 1000], strict=True))
_WORD = f"(?:{'|'.join(reversed(_NAMES))})"
_IN_WORDS = re.compile(rf"(?i)\b{_WORD}(?:[ -](?:and )?{_WORD})*\b(?! of\b)")
_RANGE = re.compile(r"\bbetween\s+\S*\d\S*\s+and\s+\S*\d|(?<![\d/=(])\d+\s?(?:-|to)\s?\d+\b(?!\s*[=\d(])")
_BARE = r"-?[$€£]?\s?-?\d[\d,./]*%?(?:\s+[a-z]+){0,3}[.!]?"
_FORMS = (
    (r"[−–—‒](?=\s?[$€£]?\d)", "-"),
    (r"(?<=\d)(?:\\[,!;: ]|\{,\}|[\u00a0\u2009\u202f])(?=\d{3}\b)", ","),
    (r"\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?", r" \1/\2"),
    (r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r" \1 "),
    (r"\\([$%#])", r"\1"),
    (r"\\(?:\(|\)|\[|\]|!|,|;|quad\b)", " "),
    (r"((?<=[$€£])\d{1,3}) (?=\d{3}(?!\d))|(?<![\d.,])(\d{1,3}) (?=000(?![\d.,]?\d))", r"\1\2"),  # 9 500
    (r"(?<![\d.,])(\d{1,3})\.(\d{3}),(?=\d\d\b)", r"\1\2."),  # 1.250,00
    (r"(€\d+),(?=\d\d\b)", r"\1."),
    (r"(?<=\d)\s*(?:x|×|\*|\\times|\\cdot)\s*10\s?\^\s?\{?(-?\d\d?)\}?", r"e\1"),
    (r"(?<![\d:])(\d\d?):00(?![\d:])", r"\1"),  # an hour
    (r"(?m)^([^\w\n]*+)\d+[.)]\s+(?=[A-Za-z*])", r"\1"),  # the number of a list's item
    (r"(?m)^\s*A:", "Answer:"),  # GSM8K's older form
    (r"\*\*|__|`|(?<!\d)\*(?=[$\d])|(?<=\d)\*(?!\s*[\d(])", ""),
)
# words before the outcome of a calculation or an inference: the number meant stands after the last of them
_OUTCOME = re.compile(r"""(?ix)= | ≈ | \bequals?\b | \bequ(?:al|ivalent)\ to\b | \bso\b(?!\ as\b|[^.,]{0,60}enough\b)
    | \b(?:or|get|then|to\ find|left\ with|giv(?:es?|ing)|leav(?:es?|ing)|total\ of|means?\ that)\b
    | \b(?:which|that)(?:'s|\ (?:is|are|was|gives|leaves|means|makes|equals|totals))\b""")
# "In 5 days, she makes $18": a clause that comes before what the sentence says
_OPENING = re.compile(rf"""(?ix)^(?:{CONCLUDING})?\W*(?:in|after|for|on|with|if|since|at|over|when|given|by|out\ of|to
    |from|because|during|before|once|as)\b(?:[^,]|(?<=\d),(?=\d)){{0,200}}?(?:(?<=[a-z]),\s+|,\s+(?=\D))""")
# what a sentence adds behind its outcome: "in order to transport 80 stones", "after she ate 3"
_PURPOSE = re.compile(r"""(?isx)\s(?:(?:in\ order\ (?:to|for)|so\ that(?!'s|\ (?:means|leaves|is|makes|gives))|so\ as
    \ to|to\ (?:have|be|reach|make|secure|fill|complete))\b.* | (?:after|if|when|to\ get\ (?!the))\b[^,=]*$)""")
_SAYS = re.compile(r"""(?ix)\b(?:is|are|was|were|be|costs?|ha[sd]|have)\s+
    ((now|only|just|about|approximately|exactly|still)\s+)?$""")
_KNOWN = re.compile(r"""(?ix)\b(?:(?:the|these|those)(?:\ last|\ first|\ next|\ other|\ remaining)?
    |each|every|both|per|than|step|in|within|after)\s+\$?$""")
# "10 candies will cost $5": a number with which the sentence opens, and the verb that follows it
_SUBJECT = re.compile(rf"(?ix)(?:{CONCLUDING})?[\W\d]*$")
_VERB = re.compile(r"""(?ix)\b(?:(?:will|would|can|could)\ \w+|is|are|was|were|be|ha[sd]|have|costs?|takes?|weighs?
    |equals?)\s(?:[a-z]+\s){0,2}(?=[$€£]?\d)""")
_EXACT = Context(prec=3 * LONGEST, traps=[Inexact])


def plain(text: str) -> str:
    """`text` with the many ways to typeset a number reduced to one: signs, LaTeX, thousands, powers of ten, bold."""
    for pattern, form in _FORMS:
        text = re.sub(pattern, form, text)
    return text


def value(text: str) -> Fraction | None:
    """The exact value of a text that is one number ("$1,234.50", "-3", "1/2", "1.0e3", "18."), else None."""
    match = _NUMBER.fullmatch(plain(text).strip().rstrip(".").strip("$% "))
    return _value(match) if match else None


def _value(match: re.Match) -> Fraction | None:
    if match["other"] or len(match[0]) > LONGEST:
        return None
    written = match["ratio"] or match["part"] or match["plain"] + (match["exponent"] or "")
    number = (int(match["whole"] or 0) + Fraction(written.replace(",", ""))) * _SCALES.get(match["scale"], 1)
    return -number if match["sign"] or match["sign2"] else number


def canonical(number: Fraction) -> str:
    """One string for each value: "1234.5" where it is a finite decimal, else "1/3"."""
    try:
        decimal = _EXACT.divide(Decimal(number.numerator), Decimal(number.denominator))
    except Inexact:
        return f"{number.numerator}/{number.denominator}"
    return f"{decimal.normalize(_EXACT):f}"


def numbers_in(text: str) -> list[str]:
    """The numbers of `text` in order, in canonical form; a time such as "3:30" stays as it is."""
    found = ((match[0], _value(match)) for match in _NUMBER.finditer(text))
    return [written if number is None else canonical(number) for written, number in found]


def _in_digits(match: re.Match) -> str:
    total = 0
    for word in re.findall(r"[a-z]+", match[0].lower().replace(" and ", " ")):
        below = total % 1000  # what "hundred" and "thousand" multiply
        total += _WORDS[word] if _WORDS[word] < 100 else max(below, 1) * _WORDS[word] - below
    return str(total)


def outcome(sentence: str) -> str | None:
    """The number that a sentence comes to, among the others that it may repeat; None where it has none.

    After the last "=", "which is", "so" that a number follows; there the first number that is not part of
    an opening clause ("In 5 days, ...") and does not refer to something known ("the 8 adults"). A range is no number.
    """
    maths = re.search(r"(?i)\b(?:add|subtract|multipl|divid)\w*\b.*\bto get\b", sentence)
    said = sentence if maths else _PURPOSE.sub("", sentence, count=1)
    said = said if _NUMBER.search(said) else sentence
    last = max((match.start() for match in _NUMBER.finditer(said)), default=0)
    start = max((match.end() for match in _OUTCOME.finditer(said) if match.end() <= last), default=0)
    said = rest if _NUMBER.search(rest := _OPENING.sub("", said[start:], count=1)) else said[start:]
    found = [(match, said[max(0, match.start() - 40) : match.start()]) for match in _NUMBER.finditer(said)]
    new = [match for match, before in found if not _KNOWN.search(before)] or [match for match, _ in found]
    if not new or _RANGE.search(said):
        return UNDECIDED if new else None
    direct = [match for match, before in found if match in new and _SAYS.search(before)]
    if not direct and _SUBJECT.match(said[: new[0].start()]):
        verb = _VERB.search(said, new[0].end())
        direct = [match for match in new[1:] if verb and verb.end() <= match.start()]
    return numbers_in((direct or new)[0][0])[0]


class Numbers:
    """The reader for a question whose target is a number."""

    plain = staticmethod(plain)
    same = staticmethod(lambda read, target: value(read) == value(target))

    def head(self, span: str) -> str | None:
        """The number that the span's first sentence comes to, in digits or words: "5 + 13 = $18.", "thirteen"."""
        said = (sentences(span.lstrip(" :*")) or [""])[0]
        return outcome(said if re.search(r"\d", said) else _IN_WORDS.sub(_in_digits, said))

    def line(self, span: str) -> str | None:
        """The number that is the first line: "$18.00", "18 dollars"."""
        first = span.strip().split("\n")[0]
        return numbers_in(first)[0] if re.fullmatch(rf"[\s:=]*{_BARE}", first) else None

    def sentence(self, span: str) -> str | None:
        """The number that the sentence comes to: "So in 5 days, she makes $18."."""
        words = CONCLUDES.match(span) and not re.search(r"\d|\bone\b", span)
        return outcome(_IN_WORDS.sub(_in_digits, span) if words else span)

    tail = sentence
