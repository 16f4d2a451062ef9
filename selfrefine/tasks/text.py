"""Reading a free-text answer ("Paris", "no", "10 km"): where it may stand, then equality in SQuAD's normal form.

A target that is a text must be what the answer says, as a whole (the exact match of SQuAD; Rajpurkar et al., 2016), but
need not stand alone: "The capital of France is Paris, of course."
"""

import re
import unicodedata

_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{\s*(?:\\text\w*\s*\{)?([^{}]*)\}")
_STATED = re.compile(r"(?i)\b(?:answer|solution|result)\b[^.:\n]{0,60}?(?:\b(?:is|are|was|were|be)\b|:)[\s:]*|####\s*")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\bSt\.)(?<!\b[DM]r\.)(?<!\bMrs\.)\s+(?=[\w'(])|\n+")
_COPULA = re.compile(r"\b(?:is|are|was|were|equals)\b|:|=", re.IGNORECASE)
_OF_THE_SUBJECT = re.compile(r"(?i)\s*(?:the|an?|called|known as|named)\b")  # "Paris is the capital of France"
_LEADING = re.compile(
    r"(?i)(?:just|simply|indeed|called|named|known as|(?:\w+(?:ed|en)|made|in|at|on)(?: by| in| at| as)?|by|from) "
)
_TRAILING = re.compile(
    r"[,;(]|\s[-–—]\s|\.\s|\s(?:because|since|as|which|who|that|where|when|while|in|on|at|of|for|from|by|with|has|had|won|wrote|made|did)\s"
)
_RETHOUGHT = re.compile(r"\b(?:wait|actually|correction|instead|rather|mistake)\b", re.IGNORECASE)
_UNDER_WAY = re.compile(r"[:?]\s*$|\b(?:let|first|step|think|we|I)\b", re.IGNORECASE)


def is_text(target: str) -> bool:
    """Whether a target is words, with or without a number, and no formula."""
    if re.search(r"[\\^_{}$=<>|]", target):
        return False
    return bool(re.search(r"[^\W\d_]{2,}", target)) or not re.search(r"[-+*/()\[\],.\d]", target)


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no articles, no punctuation but that of numbers ("1.5", "-3"), single spaces."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|['’.](?!\d)", "", text)
    text = re.sub(r"(?<=\d)(?=[^\W\d_])", " ", text)  # 10km
    text = re.sub(r"(?!(?<=\d)\.\d|(?<!\w)-\d)[^\w\s]|_", " ", text)
    return " ".join(re.sub(r"\b(?:an?|the)\b", " ", text).split()) or " ".join(text.split())


def read(text: str, target: str) -> tuple[str | None, str]:
    """(what an answer reads as, in normal form, and the rule that found it): right where it is `normalise(target)`.

    The final statement first: the last box, the last "the answer is", a bare phrase that the answer opens with, its
    last sentence. (None, "none") where nothing is said.
    """
    text = re.sub(r"[*`\"“”$]", "", text.replace("’", "'")).strip()
    find = _truth if target.strip(" .").lower() in _TRUTH else _phrase
    places = {"boxed": _BOX.findall(text)[-1:], "stated": _stated(text), "opening": _opening(text)}
    places["concluding"] = _concluding(text)
    return next(((found, rule) for rule, said in places.items() if (found := find(said, target))), (None, "none"))


def _phrase(places: list[str], target: str) -> str | None:
    """The target where one of the forms of what is said is it, else the first; a bare number has the target's unit."""
    forms, wanted = [], normalise(target)
    for place in places:  # as it stands, and without what may lead up to it or follow
        bare = _LEADING.sub("", place.strip(), count=1) if _LEADING.match(place.strip()) else place
        forms += [normalise(form) for whole in (place, bare) for form in (whole, _TRAILING.split(whole.strip())[0])]
    if wanted in forms or re.sub(r"(?<=\d) \D+$", "", wanted) in forms:
        return wanted
    return next(filter(None, forms), None)


def _truth(places: list[str], target: str) -> str | None:
    """Yes or no, by whichever of their names, as the target spells it; they open what is said, or end it."""
    for place in places:
        words = re.findall(r"\w+", place.lower())
        for word in (*words[:1], *words[-1:]):
            if word in _TRUTH:
                same = _TRUTH[word] == _TRUTH[target.strip(" .").lower()]
                return normalise(target) if same else word
    return None


def _stated(text: str) -> list[str]:
    """The rest of the line after the last "the answer is", as sentence and whole."""
    found = [text[match.end() :] for match in _STATED.finditer(text) if text[match.end() :].strip()]
    line = found[-1].strip().split("\n")[0] if found else ""
    return list(dict.fromkeys([_SENTENCE.split(line)[0], line])) if line else []


def _opening(text: str) -> list[str]:
    """A phrase that is no sentence, at the beginning: a direct answer, explained or not."""
    first, *others = _SENTENCE.split(text)
    answers = _COPULA.search(first) is None or re.match(r"(?i)(?:yes|no|true|false)\b\s*(?:[,.;:!]|$)", first)
    bare = answers and len(first.split()) <= 12 and not _UNDER_WAY.search(first)
    return [first] if bare and not any(map(_RETHOUGHT.search, others)) else []


def _concluding(text: str) -> list[str]:
    """The last sentence: what it says of its subject, or the subject of which it says "is the ..."."""
    last = _SENTENCE.split(text)[-1]
    copulas = list(_COPULA.finditer(last))
    if not copulas:
        return [last]
    subject = re.sub(r"^.*,\s*|^(?:so|thus|hence|therefore)\s+", "", last[: copulas[0].start()], flags=re.IGNORECASE)
    places = [last[copulas[-1].end() :], last[copulas[0].end() :]]
    return [*places, subject] if _OF_THE_SUBJECT.match(places[1]) else places
