"""Reading MATH's final answer: the last \\boxed{...}, brought to one LaTeX form, compared without any algebra."""

import re
from fractions import Fraction

from selfrefine.tasks import numbers

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\\begin\{align\*?\}(.+?)\\end\{align\*?\}",
    re.DOTALL,
)
_STATED = re.compile(r"\b(?:answer|solution|result)\b[^.:\n=$]{0,60}?(?:\b(?:is|are)\b|[:=])[\s:*_]*", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:(?:,|\s*\{\s*,\s*\}\s*|,\s*\\!\s*|\\,)\d{3})+(?![\d])")
# in this order: what only changes the look goes, and of several names of one thing a single one stays
_LOOK = [
    (re.compile(pattern), form)
    for pattern, form in (
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\le(?:q|qslant)?(?![a-zA-Z])|≤", r"\\le "),
        (r"\\ge(?:q|qslant)?(?![a-zA-Z])|≥", r"\\ge "),
        (r"\\neq?(?![a-zA-Z])|≠", r"\\ne "),
        (r"\\(?:cdot|times)(?![a-zA-Z])|[×·]", r"\\cdot "),
        (r"\{bmatrix\}", "{pmatrix}"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (
            r"\\[vdt]?(?:mathbf|mathrm|mathit|mathsf|mathbb|textbf|textit|textrm|operatorname|mbox)(?![a-zA-Z])",
            r"\\text",
        ),
        (r"π", r"\\pi "),
        (r"∞", r"\\infty "),
        (r"∪", r"\\cup "),
        (r"√", r"\\sqrt"),
        (r"[−–]", "-"),
        (r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+", ","),
        (r"\\text\s*\{\s*(.*?)\s*\}", r"\\text{\1}"),
        (r"\^\{?\\text\{(?:st|nd|rd|th)\}\}?", ""),
        (r"(?<=[\d})])\s+(?:[a-zA-Z]{2,}+\.?\s*)+(?:\^\{?[23]\}?)?$", ""),  # 10 square units
        (r"(?<=\d)\s+(?=\d+/\d)", "\\\\mixed"),
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![a-zA-Z])|\\?\$|\\[()\[\]](?![a-zA-Z\d])|\\?%|\s+", ""),
        (r"\^\{?\\circ\}?|\^?°|\\degree(?![a-zA-Z])", ""),
        (r"(?<=[\d})])\\text\{[^{}]*\}(?:\^\{?[23]\}?)?$", ""),  # 10\text{ cm}^2
        (r"\\text\{([^{}]*)\}", r"\1"),
    )
]
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
        (r"(?:(?<![^(,\[{}&+\-=\\])|\\mixed)(\d*(?:\\pi|\\sqrt\{\w+\}|[a-z])|\d+)/(\d+)(?![\w{])", r"\\frac{\1}{\2}"),
        (r"^\((\w)\)$", r"\1"),  # (C)
        (r"^\{([^{}]*)\}$", r"\1"),
        (r"[,;:]+$", ""),
    )
]
_VARIABLE = r"(?:[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z]\)|\\(?!frac|sqrt|text)[a-z]+)"


def _group(text: str, start: int) -> str | None:
    """The content of the braces that open at `start`, None where they are not closed."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] in "{}" and text[position - 1 : position] != "\\":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return text[start + 1 : position]
    return None


def last_boxed(text: str) -> str | None:
    """The content of the last closed, filled \\boxed{...}, \\fbox{...} or "\\boxed 2".

    None where there is no box, "" where all are empty or cut off.
    """
    boxes = list(_BOX.finditer(text))
    for match in reversed(boxes):
        if text[match.end() : match.end() + 1] == "{":
            content = _group(text, match.end())
        else:
            content = re.match(r"[^$\s]*", text[match.end() :])[0].rstrip(".")
        if content and content.strip():
            return content.strip()
    return "" if boxes else None


def stated(text: str) -> str | None:
    """What the last "the answer is" gives: the formula there, else the rest of its sentence."""
    found = None
    for match in _STATED.finditer(text):
        tail = re.split(r"\.(?:\s|$)|\n\s*\n|\*\*", text[match.end() :])[0].strip()
        formula = _FORMULA.search(text, match.end(), match.end() + len(tail) + 4)
        found = (next(filter(None, formula.groups())) if formula else tail.split("\n")[0]) or found
    calculation = found and not re.search(r"(?<![\\a-z])[a-z]", found.rpartition("=")[0], re.IGNORECASE)
    return _right_side(found) if calculation else found


def last_line(text: str) -> str | None:
    """The last line, where it is an expression and nothing else: "(3, 4)", "= 2x + 1"."""
    line = text.strip().split("\n")[-1].strip("*#`$ ")
    return None if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\$", line) else _right_side(line)


def last_formula(text: str) -> str | None:
    """The last formula of the text that is more than a variable's name, after its last "="."""
    found = ["".join(groups) for groups in _FORMULA.findall(re.sub(r"\[asy\].*?\[/asy\]", "", text, flags=re.DOTALL))]
    telling = [formula for formula in found if re.search(r"\d|\\(?:frac|sqrt|pi|infty|text)", formula)]
    return _right_side((telling or found or [""])[-1])


def last_number(text: str) -> str | None:
    """The last number of the text, as the reader of numbers finds it."""
    return numbers.last(numbers.plain(text))


def _right_side(formula: str) -> str | None:
    return re.sub(r"^[\s&]+|(?:[\s&.,;]|\\\\)+$", "", re.split(r"=|\\approx", formula)[-1]) or None


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
    one, other = normalise(one), normalise(other)
    if not one or not other:
        return False
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
    base = r"([0-9A-F]+)_\d+"  # 2516_8 beside 2516: the base is in the question
    return any((found := re.fullmatch(base, a)) and found[1] == b for a, b in ((one, other), (other, one)))
