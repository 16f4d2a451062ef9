"""What a span says as MATH's answer: its formula, brought to one LaTeX form, compared without any algebra."""

import re
from fractions import Fraction

from selfrefine.tasks import numbers
from selfrefine.tasks.places import CONCLUDES, sentences

_THOUSANDS = re.compile(
    r"(?<![\d,.])\d{1,3}(?:(?:,|\s*\{\s*,\s*\}\s*|,\s*\\!\s*|\\,|\\ | (?=\d{3} ?0?00\b))\d{3})+(?![\d])"
)
_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)"
_FORMULA = re.compile(r"-?\$([^$]+)\$")
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|sqrt|arcsin|arccos|arctan|and|mod|infinity"
_SHORT = "is|in|so|of|to|we|it|if|as|by|be|at|on"
_WORDS = re.compile(rf"(?<![\\a-zA-Z])(?!(?:{_FUNCTIONS})(?![a-zA-Z]))(?:[a-zA-Z]{{3,}}|(?:{_SHORT})\b)", re.IGNORECASE)
_TELLING = re.compile(r"\d|\\(?:frac|sqrt|pi|infty|text)")  # more than a variable's name
_MONEY = re.compile(r"\$(?=\d[\d,.]*(?:[\s.,;)\"]|$))")
_COPULA = re.compile(
    r"(?:\b(?:is in|is|are|equals?|be|was|(?:equal|equivalent|simplifies|reduces|factors|comes) to|factors as|becomes|get|gives?(?: us)?|"
    r"has|have)|=|:\s)\s*:?\s*(?:the )?(?=[-$\d(\[\\])"
)
_ASIDE = re.compile(
    r"\s*\((?:[a-zA-Z']{2,}[ ,]*)+\)|,?\s+(?:which(?!\s(?:is|equals|gives))|where|when|because|since|as|for|if)\b[^$]*$"
)
_RELATION = r"=|\\equiv(?![a-z])"
# in this order: what only changes the look goes, and of several names of one thing a single one stays
_LOOK = [
    (re.compile(pattern), form)
    for pattern, form in (
        (r"(?<!\\)\\ ", " "),
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\le(?:q|qslant)?(?![a-zA-Z])|≤|<=", r"\\le "),
        (r"\\ge(?:q|qslant)?(?![a-zA-Z])|≥|>=", r"\\ge "),
        (r"\\neq?(?![a-zA-Z])|≠|!=", r"\\ne "),
        (r"\\(?:cdot|times)(?![a-zA-Z])|[×·*]", r"\\cdot "),
        (r"\{bmatrix\}", "{pmatrix}"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (
            r"\\[vdt]?(?:mathbf|mathrm|mathit|mathsf|mathbb|textbf|textit|textrm|operatorname|mbox)(?![a-zA-Z])",
            r"\\text",
        ),
        (r"π|(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"∞|(?<![\\a-zA-Z])inf(?:inity|ty)?(?![a-zA-Z])", r"\\infty "),
        (r"∪", r"\\cup "),
        (r"√|(?<![\\a-zA-Z])sqrt(?![a-zA-Z])", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"[−–]", "-"),
        (r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+", ","),
        (r"\\text\s*\{\s*([^{}]*?)\s*\}", r"\\text{\1}"),
        (r"(?<=\d)(?:\^?\{?\\text\{(?:st|nd|rd|th)\}\}?|(?:st|nd|rd|th)\b)|\^\{(?:st|nd|rd|th)\}", ""),
        (r"(?<=[\d})])\s+(?:[a-zA-Z]{2,}+\.?\s*)+(?:\^\{?[23]\}?)?$", ""),  # 10 square units
        (r"(?<=\d)\s+(?=\d+/\d)", "\\\\mixed"),
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![a-zA-Z])|\\?\$|\\[()\[\]](?![a-zA-Z\d])|\\?%|\s+", ""),
        (r"\^\{?\\circ\}?|\^?°|\\degree(?![a-zA-Z])", ""),
        (r"(?<=[\d})])\\text\{[^{}]*\}(?:\^\{?[23]\}?)?$", ""),  # 10\text{ cm}^2
        (r"\\text\{([^{}]*)\}", r"\1"),
        (r"(?<=[\d})])\\cdot(?=[a-zA-Z\\(])", ""),  # 2 * pi
        (r"^\+", ""),
    )
]
_TERM = r"(?:\d*(?:\\pi|\\sqrt\{\w+\}|[a-z])+|\d+|\([^()]*\))"
_SHAPE = [
    (re.compile(pattern), form)
    for pattern, form in (
        (r"\\(frac|binom)(?:\{([^{}])\}|([^{}\\]))", r"\\\1{\2\3}"),  # \frac12 and \frac1{2} are \frac{1}{2}
        (r"\\(frac|binom)(\{[^{}]*\})([^{}\\])", r"\\\1\2{\3}"),
        (r"\\sqrt([^{\[\\])", r"\\sqrt{\1}"),
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"(\.\d*?)0+(?!\d)", r"\1"),
        (r"\.(?!\d)", ""),
        (rf"(?:(?<![^(,\[{{}}&+\-=\\])|\\mixed)({_TERM})/({_TERM})(?![\w{{^])", r"\\frac{\1}{\2}"),
        (r"\\frac\{\(([^()]*)\)\}", r"\\frac{\1}"),
        (r"\\frac\{-([^{}+-]*)\}", r"-\\frac{\1}"),
        (r"^\((\w)\)$", r"\1"),  # (C)
        (r"^\{([^{}]*)\}$", r"\1"),
        (r"[,;:]+$", ""),
    )
]
_VARIABLE = r"(?:[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z]\)|\\(?!frac|sqrt|text)[a-z]+)"


class Latex:
    """The reader for MATH, and for any other target that is no number."""

    options = ()

    def plain(self, text: str) -> str:
        r"""`text` without Markdown and doubled backslashes, every formula as $...$ on one line.

        >>> Latex().plain(r"**So**\n\[ \\frac{2}{7} \]")
        'So\\n$\\frac{2}{7}$'
        """
        commands = r"[dt]?frac|sqrt|boxed|begin|text|left|cdot|times|pi|circ|le|ge|[()\[]"
        if re.search(rf"(?<!\\)\\\\(?:{commands})(?![a-z])", text):
            text = text.replace("\\\\", "\\")
        text = re.sub(r"\[asy\].*?\[/asy\]", "", text, flags=re.DOTALL)
        text = re.sub(r"\\(?:begin|end)\{(?:align|equation|gather)\*?\}", "$$", text)
        text = re.sub(r"\$\\\$\$|\\\$|\*\*+|`+|^\s*#+\s", "", text, flags=re.MULTILINE)
        text = re.sub(rf"{_TEXT}\{{([^{{}}]*\b[Aa]nswer\b[^{{}}]*)\}}", r"\1", text)
        text = re.sub(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", _inline, text, flags=re.DOTALL)
        lines = text.split("\n")  # a dollar without its other half is money, or a formula that was cut off
        return "\n".join(_MONEY.sub("", line) if line.count("$") % 2 else line for line in lines)

    def head(self, span: str) -> str | None:
        """The formula, number or name with which the span opens, or to which its first sentence comes.

        >>> [Latex().head(span) for span in (" $x=-4$ and $x=1$.", "The value of $y$ is $y = 9$.", "7 (no quotes)")]
        ['-4,1', '9', '7']
        """
        said = re.split(r"\.(?:\s|$)|\n", span.strip(" \n:*_").lstrip("}"))[0].strip()
        return _says(said)

    def tail(self, span: str) -> str | None:
        """The formula or number that closes the span.

        >>> Latex().tail("So $x$ or $9$ ")
        '9'
        """
        found = re.search(r"\$([^$]+)\$\s*$", span)
        return _value(found[1]) if found else numbers.Numbers().tail(numbers.plain(span))

    def line(self, span: str) -> str | None:
        """An expression that is the first line, and nothing else.

        >>> [Latex().line(span) for span in ("(3, 4)", "= 2x + 1", "So it is 4")]
        ['(3,4)', '2x+1', None]
        """
        line = span.strip().split("\n")[0].strip("*#`$ ")
        return None if _prose(line) or "$" in line else _value(line)

    def sentence(self, span: str) -> str | None:
        """The formula to which a concluding sentence comes.

        >>> Latex().sentence("Hence the area is $2 + 3 = 5$ for all $x$.")
        '5'
        """
        so = CONCLUDES.match(span)
        says = _FORMULA.search(span) or re.search(r"\d", span)
        return _comes_to(span[so.end() if so else 0 :].strip(" \n.,:")) if says else None

    def last(self, text: str) -> str | None:
        """The last line, where it is an expression, else what the last sentence that has a formula or number comes to.

        >>> Latex().last("so $z = 4$ for all $x$")
        '4'
        """
        line = self.line(text.strip().split("\n")[-1])
        if line is not None:
            return line
        return next(filter(None, map(self.sentence, reversed(sentences(text)))), None)

    def same(self, read: str, target: str) -> bool:
        """Whether both are the same, as `equal` says."""
        return equal(read, target)


def _inline(display: re.Match) -> str:
    formula = " ".join("".join(filter(None, display.groups())).split())
    return formula if "nswer" in formula else f"${formula}$"


def _says(said: str) -> str | None:
    """What stands behind "the answer is": a formula or number, a name, or a sentence that comes to one of them."""
    said = _ASIDE.sub("", said.strip())
    if said.count("$") % 2 or said.count("{") != said.count("}"):
        return None  # cut off
    if not _prose(said):
        return _value(said.replace("$", ""))
    opens = re.match(r"[\d.]*-?\$|-?\d", said) and not re.match(rf"(?:-?\$[^$]+\$|-?\d\S*)\s*{_COPULA.pattern}", said)
    if found := _opening(said) if opens else _comes_to(said):
        return found
    name = re.search(r"(?:\b(?:is|are)\s+|^)((?:\S+\s?){1,4})$", said)
    return _value(name[1]) if name else None


def _comes_to(said: str) -> str | None:
    """What a sentence comes to: what stands behind its last "is" or "so", else its last formula or number."""
    said = _ASIDE.sub("", said.strip())
    *_, so = re.split(r",\s+(?:and\s+)?(?:so|thus|therefore|hence|giving)\b", said)
    said = so.strip() if re.search(r"\d|\$", so) else said
    main = re.split(r",?\s+(?:when|where|attained|achieved|because|since)\b", said)[0]
    said = main if re.search(r"\d|\$", main) else said
    masked = _FORMULA.sub(lambda formula: "$" * len(formula[0]), said)
    start = max((found.end() for found in _COPULA.finditer(masked)), default=0)
    if found := _opening(said[start:]):
        return found
    if formulas := _FORMULA.findall(said):
        return _value(([formula for formula in formulas if _TELLING.search(formula)] or formulas)[-1])
    return numbers.outcome(numbers.plain(said))


def _opening(said: str) -> str | None:
    """The formulas ("$x = 1$ or $x = 2$") or the plain expression with which `said` opens."""
    if formulas := re.match(r"[\d.]*-?\$[^$]+\$(?:,?\s*(?:,|and\b|or\b)\s*-?\$[^$]+\$)*", said):
        return _value(formulas[0].replace("$", ""))
    prose = _WORDS.search(said)
    plain = said[: prose.start()].strip() if prose else said
    whole = "$" not in plain and re.search(r"\d", plain) and plain.count("(") == plain.count(")")
    return _value(plain) if whole and (not prose or "=" not in said[prose.start() :]) else None


def _prose(text: str) -> bool:
    return bool(_WORDS.search(re.sub(rf"\\(?:begin|end)\{{\w+\}}|{_TEXT}\{{[^{{}}]*\}}|\$[^$]*\$", "", text)))


def _value(formula: str) -> str | None:
    """One answer normalised: exact rather than rounded, and of a calculation without variables its outcome."""
    exact, _, rounded = re.sub(r"≈|\\approx(?![a-z])", "≈", formula).partition("≈")
    formula = rounded if rounded and re.fullmatch(rf"\s*{_VARIABLE}\s*", exact) else exact
    formula = re.sub(r"^[\s&]+|(?:[\s&.,;]|\\\\)+$", "", formula)
    formula = formula.strip("\"'“” ")
    left, _, right = formula.rpartition("=")
    calculation = not re.search(r"(?<![\\a-z])[a-z]", re.sub(rf"^\s*{_VARIABLE}\s*=", "", left), re.IGNORECASE)
    found = normalise(right if calculation else formula)
    return found if re.search(r"\w|\\", found) else None


def normalise(answer: str) -> str:
    """One form for the many ways to typeset an answer, after Hendrycks et al. (2021): no sizes, spaces, units."""
    text = answer.strip().rstrip(".")
    if not re.match(r"\$?(?:\\left)?\s*(?:\\\{|[(\[])", text):  # 1,234 is a number, (1,234) a point
        text = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    for pattern, form in _LOOK:
        text = pattern.sub(form, text)
    names = re.findall(rf"(?:^|,)({_VARIABLE})(?:=|\\in(?![a-z]))(?=.)", text)
    if len(set(names)) == 1:  # x=5, and x=1,x=2
        text = re.sub(rf"(^|,){re.escape(names[0])}(?:=|\\in(?![a-z]))", r"\1", text)
    for pattern, form in _SHAPE:
        text = pattern.sub(form, text)
    if re.fullmatch(r"[^,]*\\pm(?![a-z])[^,]*", text):
        text = ",".join(text.replace("\\pm", sign).removeprefix("+") for sign in "+-")
    return text.lower() if re.fullmatch(r"[a-zA-Z]{2,}", text) else text


def equal(one: str, other: str) -> bool:
    """Whether two answers are the same once normalised: as text, as plain numbers, or part by part in a list.

    A list without brackets or in braces is a set of solutions, so that its order does not matter.
    """
    option = re.fullmatch(r"\(?([A-Z])\)", re.sub(rf"{_TEXT}\{{([^{{}}]*)\}}", r"\1", other).strip("$ "))
    one, other = normalise(one), normalise(other)
    if not one or not other:
        return False
    if option and re.match(rf"\(?{option[1]}[).:]", one):
        return True
    if bool(re.search(_RELATION, one)) != bool(re.search(_RELATION, other)):
        one, other = (re.sub(r"\\pmod.*", "", re.split(_RELATION, side)[-1]) for side in (one, other))
    (opening, parts, closing), (opening2, parts2, closing2) = _parts(one), _parts(other)
    unordered = {opening, opening2} <= {"", "\\{"}
    if len(parts) != len(parts2) or (not unordered and (opening, closing) != (opening2, closing2)):
        return False
    if unordered:
        parts, parts2 = sorted(parts, key=_order), sorted(parts2, key=_order)
    return all(_same(a, b) for a, b in zip(parts, parts2, strict=True))


def _parts(text: str) -> tuple[str, list[str], str]:
    """A list, tuple or interval as (opening, parts, closing), split at the commas outside of all brackets."""
    opening, inner, closing = "", text, ""
    if match := re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text):
        opening, inner, closing = match.groups()
    parts, depth = [""], 0
    for sign in inner:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:  # "(1,2),(3,4)": the outer signs are not a pair
            return _split_plain(text)
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return (opening, parts, closing) if len(parts) > 1 else ("", [text], "")


def _split_plain(text: str) -> tuple[str, list[str], str]:
    return "", re.split(r"(?<=[)\]]),(?=[(\[])", text), ""


def _number(text: str) -> Fraction | None:
    """The value of a normalised answer that is one plain number, fraction or mixed number."""
    if len(text) > numbers.LONGEST:
        return None
    found = re.fullmatch(r"(-?)(\d*)\\frac\{(-?\d+)\}\{(-?\d*[1-9]\d*)\}", text)
    if found:
        value = int(found[2] or 0) + Fraction(int(found[3]), int(found[4]))
        return -value if found[1] else value
    return numbers.value(text) if re.fullmatch(r"-?\d+(?:\.\d+)?", text) else None


def _order(part: str) -> str:
    number = _number(part)
    return part if number is None else numbers.canonical(number)


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if _number(one) is not None and _number(other) is not None:
        return _number(one) == _number(other)
    if all("{pmatrix}" in side for side in (one, other)):
        cells, cells2 = (re.split(r"&|\\\\", re.sub(r"\\(?:begin|end)\{pmatrix\}", "", side)) for side in (one, other))
        return len(cells) == len(cells2) and all(map(_same, cells, cells2))
    base = r"([0-9A-F]+)_\d+"  # 2516_8 beside 2516: the base is in the question
    return any((found := re.fullmatch(base, a)) and found[1] == b for a, b in ((one, other), (other, one)))
