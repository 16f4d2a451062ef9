"""What a span says as MATH's answer: its formula, brought to one LaTeX form, compared without any algebra."""

import re
from fractions import Fraction
from itertools import accumulate, pairwise

from selfrefine.tasks import numbers

_TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it)|mbox)"
_FORMULA = re.compile(r"-?\$[^$]+\$")
_FORMULAS = r"[\d.]*-?\$[^$]+\$(?:,?\s*(?:,|and\b|or\b)\s*-?\$[^$]+\$)*"
_VARIABLE = r"(?:[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z]\)|\\(?!frac|sqrt|text)[a-z]+)"
_RELATION = r"=|\\equiv(?![a-z])"
_FUNCTIONS = r"(?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|sqrt|and|mod|infinity"
_WORDS = re.compile(rf"""(?ix)(?<![\\a-z])(?!(?:{_FUNCTIONS})(?![a-z]))
    (?:[a-z]{{3,}} | (?:is|in|so|of|to|we|it|if|as|by|be|at|on)\b)""")
_COPULA = r"""(?x:(?:\b(?:is\ in|is|are|equals?|be|was|(?:equal|equivalent|simplifies|reduces|factors|comes)\ to
    |factors\ as|becomes|get|gives?(?:\ us)?|has|have) | = | :\s)\s*:?\s*(?:the\ )?(?=[-$\d(\[\\]))"""
_ASIDE = re.compile(r"""(?x)\s*\((?:[a-zA-Z']{2,}[\ ,]*)+\)
    | ,?\s+(?:which(?!\s(?:is|equals|gives))|where|when|because|since|as|for|if)\b[^$]*$""")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:(?:,|\s*\{\s*,\s*\}\s*|,\s*\\!\s*|\\,|\\?[ ](?=\d*00\b))\d{3})+(?!\d)")
_TERM = r"(?:\d*(?:\\pi|\\sqrt\{\w+\}|[a-z])+|\d+|\([^()]*\))"
_SIGNS = {"π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "√": r"\sqrt", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
_SIGNS |= {"×": r"\cdot ", "·": r"\cdot ", "*": r"\cdot ", "−": "-", "–": "-", "°": ""}
# in this order: what only changes the look goes, and of several names of one thing a single one stays
_FORMS = (
    (r"(?<!\\)\\ |~", " "),
    (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
    (r"\\[dtc](frac|binom)(?![a-zA-Z])", r"\\\1"),
    (r"\\(le|ge|ne)(?:q|qslant)(?![a-zA-Z])", r"\\\1 "),
    (r"\\times(?![a-zA-Z])", r"\\cdot "),
    (r"\\begin\{[bp]matrix\}(.*?)\\end\{[bp]matrix\}", r"(\1)"),  # a matrix is the list of its cells
    (r"&|\\\\", ","),
    (r"\\[vdt]?(?:math(?:bf|rm|it|sf|bb)|text(?:bf|it|rm|sf|tt|normal)|operatorname|mbox)(?![a-zA-Z])", r"\\text"),
    (r"(?<![\\a-zA-Z])(pi|sqrt)(?![a-zA-Z])", r"\\\1 "),
    (r"(?<![\\a-zA-Z])inf(?:inity|ty)?(?![a-zA-Z])", r"\\infty "),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+", ","),
    (r"(?<=\d)(?:\^?\{?\\text\{(?:st|nd|rd|th)\}\}?|(?:st|nd|rd|th)\b)|\^\{(?:st|nd|rd|th)\}", ""),
    (r"(?<=[\d})])\s+(?:[a-zA-Z]{2,}+\.?\s*)+(?:\^\{?[23]\}?)?$", ""),  # 10 square units
    (r"(?<=\d)\s+(?=\d+/\d)", r"\\mixed"),
    (r"(?<!\\)\\[!,;:> ]|\\q?quad(?![a-zA-Z])|\\?\$|\\[()\[\]](?![a-zA-Z\d])|\\?%|\s+", ""),
    (r"\^\{?\\circ\}?|\^(?![\w{\\(-])|\\degree(?![a-zA-Z])", ""),
    (r"(?<=[\d})])\\text\{[^{}]*\}(?:\^\{?[23]\}?)?$", ""),  # 10\text{ cm}^2
    (r"\\text\{([^{}]*)\}", r"\1"),
    (r"(?<=[\d})])\\cdot(?=[a-zA-Z\\(])", ""),  # 2 * pi
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
    (r"^\((\w)\)$|^\{([^{}]*)\}$", r"\1\2"),  # (C)
    (r"^\+|[,;:]+$", ""),
)


class Latex:
    """The reader for MATH, and for any other target that is no number."""

    same = staticmethod(lambda read, target: equal(read, target, normalised=True))

    def plain(self, text: str) -> str:
        """`text` without Markdown, money and doubled backslashes, and every formula as $...$ on one line."""
        doubled = r"(?:[dt]?frac|sqrt|boxed|begin|text|left|cdot|times|pi|circ|[lg]e|[()\[])(?![a-z])"
        if re.search(rf"(?<!\\)\\\\{doubled}", text):
            text = text.replace("\\\\", "\\")
        text = re.sub(r"\[asy\].*?\[/asy\]", "", text, flags=re.DOTALL)
        text = re.sub(r"\\(?:begin|end)\{(?:align|equation|gather)\*?\}", "$$", text)
        text = re.sub(r"\$\\\$\$|\\\$|\*\*+|`+|^\s*#+\s", "", text, flags=re.MULTILINE)
        text = re.sub(rf"{_TEXT}\{{([^{{}}]*\b[Aa]nswer\b[^{{}}]*)\}}", r"\1", text)

        def inline(display: re.Match) -> str:
            formula = " ".join("".join(filter(None, display.groups())).split())
            return formula if "nswer" in formula else f"${formula}$"

        text = re.sub(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", inline, text, flags=re.DOTALL)
        money = re.compile(r"\$(?=\d[\d,.]*(?:[\s.,;)\"]|$))")  # a dollar without its other half
        return "\n".join(money.sub("", line) if line.count("$") % 2 else line for line in text.split("\n"))

    def head(self, span: str) -> str | None:
        """What stands behind "the answer is": a formula or number, a name, or a sentence that comes to one of them."""
        said = re.split(r"\.(?:\s|$)|\n", span.strip(" \n:*_").lstrip("}"))[0]
        said = _ASIDE.sub("", said.strip())
        if said.count("$") % 2 or said.count("{") != said.count("}"):
            return None  # cut off
        if not _prose(said):
            return _value(said.replace("$", ""))
        opens = re.match(r"[\d.]*-?\$|-?\d", said) and not re.match(rf"(?:-?\$[^$]+\$|-?\d\S*)\s*{_COPULA}", said)
        if found := _opening(said) if opens else _comes_to(said):
            return found
        name = re.search(r"(?:\b(?:is|are)\s+|^)((?:\S+\s?){1,4})$", said)
        return _value(name[1]) if name else None

    def line(self, span: str) -> str | None:
        """An expression that is the first line, and nothing else: "(3, 4)", "= 2x + 1"."""
        line = span.strip().split("\n")[0].strip("*#`$ ")
        return None if _prose(line) or "$" in line else _value(line)

    def sentence(self, span: str) -> str | None:
        """What a sentence with a formula or number comes to: "Hence the area is $2 + 3 = 5$ for all $x$"."""
        return _comes_to(span.strip(" \n.,:")) if re.search(r"\$|\d", span) else None

    tail = sentence


def _prose(text: str) -> bool:
    return bool(_WORDS.search(re.sub(rf"\\(?:begin|end)\{{\w+\}}|{_TEXT}\{{[^{{}}]*\}}|\$[^$]*\$", "", text)))


def _comes_to(said: str) -> str | None:
    """What a sentence comes to: what stands behind its last "so" or "is", else its last formula or number."""
    said = _ASIDE.sub("", said.strip())
    so = r",\s+(?:and\s+)?(?:so|thus|therefore|hence|giving)\b"
    when = r",?\s+(?:when|where|attained|achieved|because|since)\b"
    for cut, part in ((so, -1), (when, 0)):
        said = rest if re.search(r"\d|\$", rest := re.split(cut, said)[part].strip()) else said
    masked = _FORMULA.sub(lambda formula: "$" * len(formula[0]), said)
    start = max((found.end() for found in re.finditer(_COPULA, masked)), default=0)
    if found := _opening(said[start:]):
        return found
    if formulas := re.findall(_FORMULAS, said):
        telling = [each for each in formulas if re.search(r"\d|\\(?:frac|sqrt|pi|infty|text)", each)]  # not "$x$"
        return _value((telling or formulas)[-1].replace("$", ""))
    return numbers.outcome(numbers.plain(said))


def _opening(said: str) -> str | None:
    """The formulas ("$x = 1$ or $x = 2$") or the plain expression with which `said` opens."""
    if formulas := re.match(_FORMULAS, said):
        return _value(formulas[0].replace("$", ""))
    prose = _WORDS.search(said)
    plain = said[: prose.start()].strip() if prose else said
    whole = "$" not in plain and re.search(r"\d", plain) and plain.count("(") == plain.count(")")
    return _value(plain) if whole and (not prose or "=" not in said[prose.start() :]) else None


def _value(formula: str) -> str | None:
    """One answer normalised: exact rather than rounded, and of a calculation without variables its outcome."""
    exact, _, rounded = re.sub(r"≈|\\approx(?![a-z])", "≈", formula).partition("≈")
    formula = rounded if rounded and re.fullmatch(rf"\s*{_VARIABLE}\s*", exact) else exact
    formula = re.sub(r"^[\s&]+|(?:[\s&.,;]|\\\\)+$", "", formula).strip("\"'“” ")
    left, _, right = formula.rpartition("=")
    calculation = not re.search(r"(?<![\\a-z])[a-z]", re.sub(rf"^\s*{_VARIABLE}\s*=", "", left), re.IGNORECASE)
    found = normalise(right if calculation else formula)
    return found if re.search(r"\w|\\", found) else None


def normalise(answer: str) -> str:
    """One form for the many ways to typeset an answer, after Hendrycks et al. (2021): no sizes, spaces, units."""
    text = answer.strip().rstrip(".")
    if not re.match(r"\$?(?:\\left)?\s*(?:\\\{|[(\[])", text):  # 1,234 is a number, (1,234) a point
        text = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = re.sub(r"[<>]=", lambda sign: "≤" if sign[0] == "<=" else "≥", text).translate(str.maketrans(_SIGNS))
    for pattern, form in _FORMS:
        text = re.sub(pattern, form, text)
    names = re.findall(rf"(?:^|,)({_VARIABLE})(?:=|\\in(?![a-z]))(?=.)", text)
    if len(set(names)) == 1:  # x=5, and x=1,x=2
        text = re.sub(rf"(^|,){re.escape(names[0])}(?:=|\\in(?![a-z]))", r"\1", text)
    if re.fullmatch(r"[^,]*\\pm(?![a-z])[^,]*", text):
        text = ",".join(text.replace("\\pm", sign).removeprefix("+") for sign in "+-")
    return text.lower() if re.fullmatch(r"[a-zA-Z]{2,}", text) else text


def equal(one: str, other: str, normalised: bool = False) -> bool:
    """Whether two answers are the same once normalised: as text, as plain numbers, or part by part in a list.

    A list without brackets or in braces is a set of solutions, so that its order does not matter. Of an equation beside
    a value its right side counts, and of "(B) Circle" beside the option "(B)" its letter. `normalised`: `one` is.
    """
    option = re.fullmatch(r"\(([A-Z])\)", re.sub(rf"{_TEXT}\{{([^{{}}]*)\}}", r"\1", other).strip("$ "))
    one, other = one if normalised else normalise(one), normalise(other)
    if option and re.match(rf"\(?{option[1]}[).:]", one):
        return True
    if bool(re.search(_RELATION, one)) != bool(re.search(_RELATION, other)):
        one, other = (re.sub(r"\\pmod.*", "", re.split(_RELATION, side)[-1]) for side in (one, other))
    (brackets, parts), (brackets2, parts2) = _parts(one), _parts(other)
    if {brackets, brackets2} <= {"", "\\{\\}"}:
        parts, parts2 = (sorted(each, key=lambda part: str(_number(part) or part)) for each in (parts, parts2))
    elif brackets != brackets2:
        return False
    return bool(one and other) and len(parts) == len(parts2) and all(map(_same, parts, parts2))


def _parts(text: str) -> tuple[str, list[str]]:
    """The brackets around a list, tuple or interval ("" where there are none), and its parts."""
    whole = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text)
    for brackets, inner in [("", text)] + ([(whole[1] + whole[3], whole[2])] if whole else []):
        depths = list(accumulate((sign in "([{") - (sign in ")]}") for sign in inner))
        commas = [at for at, sign in enumerate(inner) if sign == "," and depths[at] == 0]
        if commas:
            return brackets, [inner[a + 1 : b] for a, b in pairwise([-1, *commas, len(inner)])]
    return "", [text]


def _number(text: str) -> Fraction | None:
    """The value of a normalised answer that is one plain number, fraction or mixed number."""
    plain = re.fullmatch(r"-?\d*(?:\.\d+)?(?:\\frac\{\d+\}\{\d+\})?", text)
    return numbers.value(re.sub(r"^-(?=\\frac)", "-0", text)) if plain else None


def _same(one: str, other: str) -> bool:
    if one == other or (_number(one) is not None and _number(one) == _number(other)):
        return True
    base = r"([0-9A-F]+)_\d+"  # 2516_8 beside 2516: the base is in the question
    return any((found := re.fullmatch(base, a)) and found[1] == b for a, b in ((one, other), (other, one)))
