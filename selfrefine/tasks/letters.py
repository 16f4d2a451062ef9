"""What a span says as the answer to a multiple-choice question: one letter of that question's own options."""

import re
from collections.abc import Iterable, Sequence

from selfrefine.tasks.places import CONCLUDES, UNDECIDED, sentences
from selfrefine.tasks.questions import LETTERS

_NEGATION = r"""\b(?:not|never|cannot|neither|nor|none|except|unlike|rather\ than|instead\ of|rul(?:e[sd]?|ing)\s+out
    | eliminat\w+|exclud\w+|discard\w*|reject\w*|\w+n't)\b"""
_NEGATED = re.compile(f"(?ix){_NEGATION}")
_HEDGED = re.compile(rf"(?ix){_NEGATION} | \b(?:could|might|may|possib\w+|if)\b")
_DENIED = re.compile(r"""(?ix)[\s"').:,\]]*(?:[\w-]+\s+){0,3}?
    (?: (?:is|are|was|does|do|can|could|would|has|have|may|might)\b(?:\s+\w+)?\s*(?:not|never)\b | \w+n't\b | cannot\b
    | (?:is|are|was|be|seems?)\s+(?:\w+\s+)?(?:excluded|incorrect|wrong|false|irrelevant|un\w+|eliminated|ruled))""")
_TURN = re.compile(r"(?i);|\bbut\b|\bleav\w+\b|,\s+(?:so|therefore|hence|thus)\b")
_FILLER = re.compile(r"""(?ix)(?:[\s:,=>"'\[({<] | -(?!\d) | (?:option|choice|letter|answer|either|both|therefore|thus
    |indeed|most|the|that|is|to|I\ think\ it|going\ to\ be|(?!only)[a-z]+ly)(?=[\s:,]))*""")


class Letters:
    """The reader for a question with `options`."""

    same = staticmethod(str.__eq__)

    def __init__(self, options: Sequence[str]):
        self.options, self.letters = options, LETTERS[: len(options)]
        self.by_letter = dict(zip(self.letters, map(key, options), strict=False))
        letters, either = self.letters, self.letters + self.letters.lower()
        # an unmistakable form: "(C)", "C)", "option C", "C.", "C or", "is C", "C remains", "or C"
        self.mention = re.compile(rf"""(?x)[(\[<{{"']\s*([{either}])\s*[)\]>}}"'][.:]? | (?<![\w'.°-])([{either}])\)
            | \b(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer|OPTION|ANSWER)s?[\s:]+["'(]?([{letters}])\b(?!'\w)
            | (?:^|(?<=\s))([{letters}])(?:[.:](?=\s|$)|(?=,?\s+(?:or|and)\s+\(?[{letters}]\b)
              |(?=\s+(?:remains|fits|works|it\s+is|is\s+(?:left|better|best|right|correct))\b))
            | (?:\b(?:is|be|or|and|but|with|choose|pick)|'s|:)\s+([{letters}])(?=\s*$|\s+(?:that|but)\b|,)
            | (?<=[{letters}]\s)(?:or|and)\s+([{letters}])\b""")

    def plain(self, text: str) -> str:
        """`text` undressed, with the letter in place of an option that itself names letters, such as "Both A and C"."""
        text = re.sub(r"^\s*A:\s*(?=\(?[A-J][).])", "Answer: ", plain(text))
        for letter, option in zip(self.letters, self.options, strict=False):
            if re.search(r"\b[A-J]\W+(?:and|or|nor|&)\W+[A-J]\b", option) and self.options.count(option) == 1:
                text = re.sub(re.escape(plain(option).rstrip(".")), f"({letter})", text, flags=re.IGNORECASE)
        return text

    def head(self, span: str) -> str | None:
        """The option that `span` opens with ("most likely (B)", "ice"), else the one that its first sentence names."""
        if self._walks(span):
            return None
        found = self._opens(span)
        return self._affirmed(sentences(span.lstrip())[:1]) if found is None else found

    def tail(self, span: str) -> str | None:
        """The option that `span` closes with: "Unlike A, option B", "So water"."""
        if _NEGATED.search(_TURN.split(span)[-1].rpartition(",")[2]):
            return None
        named = [match[match.lastindex].upper() for match in self.mention.finditer(span)]
        named += re.findall(rf"(?:^|[\s(\"'])([{self.letters}])[\")',]*\s*$", span)
        several = re.search(rf"\b(?:or|and)\s+[(\"']*(?:option\s+)?[{self.letters}]\b[^.]{{0,40}}$", span)
        return (UNDECIDED if several else named[-1]) if named else self._named(span)

    def line(self, span: str) -> str | None:
        """The option that is the first line ("(b)", "Water."), or with which it opens: "C) text. Because ..."."""
        first, letters = span.strip().split("\n")[0], self.letters
        if self._walks(span):
            return None
        form = rf"""(?x)["'(\[]*(?:[{letters}](?:[)\].:,"'] | \s*$ | \s+(?:[-–—:]|because\b|since\b|as\b) | --)
            | [{letters.lower()}](?:[)\]] | \.?\s*$ | \.\s))"""
        text = re.match(rf"[\"'(\[]*[{letters}]\s(.*)", first)  # "C water"
        opens = re.match(form, first) or (text and any(begin == 0 for begin, _, _ in self._texts(key(text[1]))))
        whole = self._whole(span) or self._whole(first)
        return whole or (self._opens(first[:1].upper() + first[1:]) if opens else None)

    def sentence(self, span: str) -> str | None:
        """The one option that it names and does not deny ("not A but B"), or closes with by text ("So ice")."""
        named = self._affirmed([span])
        complete = re.search(r"[.!\"')]\s*$", span)
        closes = named is None and complete and CONCLUDES.match(span) and not _HEDGED.search(span)
        return self._named(span) if closes else named

    def last(self, text: str) -> str | None:
        """The one option that the last line names, or the only one that the text does, unless both are a walk's end."""
        lines, every = [line for line in text.split("\n") if sentences(line)] or [""], sentences(text)
        said = sentences(lines[-1]) or [""]
        item = re.compile(rf'[\s(\[-]*(?:[Oo]ption |[Cc]hoice )?[("]?([{self.letters}])(?:[).:\]",]|\s+(?:says|is)\b)')
        items = {found[1] for part in [*lines, *said] if (found := item.match(part))}
        walk = len(items) > 1 and (item.match(said[-1]) or item.match(lines[-1]))
        tries = [] if walk else [self._whole(lines[-1]), self.sentence(said[-1]), self._affirmed(said)]
        tries += [self._affirmed(every), self._named(text) if len(every) <= 2 else None]
        return next((named for named in tries if named is not None), None)

    def _opens(self, span: str) -> str | None:
        """The option that `span` opens with, after fillers: "C", "(C) text", "most likely option C", or its text."""
        letters, bare = self.letters, span.lstrip(" \n:")
        span = span[_FILLER.match(span).end() :]
        lower = rf"[{letters.lower()}](?=[)\]}}>\"'.]*\s*(?:\n|$)|[)\]])"
        head = re.match(rf"([{letters}]|{lower})(?![\w'/^·*+=°]|-\w|\.\d|\(\w|\s[=+])[)\]}}>\"'.:]*", span)
        if not head:
            named = self._opening_text(bare)
            named = self._opening_text(span) if named is None else named
            unknown = re.match(rf"[A-Z](?:\)|[.,]?\s*(?:\n|$))|[{letters}]{{2,}}[.)]?\s*(?:\n|$)", span)
            return UNDECIDED if unknown and named is None else named
        letter, rest = head[1].upper(), span[head.end() :].split("\n")[0]
        if re.match(r"A\s+\w", span) and self._opening_text(rest):
            return self._opening_text(rest)  # "The answer is A good friend": an article
        own = re.escape(self.by_letter[letter]).replace(r"\ ", r"\s+")
        also = re.match(
            rf"\W*(?:\bor\b|\band\b|/|&|,)\W*(?:or\s+|and\s+)?(?:option\s+)?\(?([{letters}])\b(?!'|\s+(?!or\b|and\b|are\b)\w+)"
            rf"|[.,;\s]*\(([{letters}])\)|\s+([{letters}])\s*$",
            re.sub(rf"^[\s–—:-]*{own}", "", rest, flags=re.IGNORECASE),
        )
        return UNDECIDED if also and letter not in also.groups() else letter

    def _whole(self, text: str) -> str | None:
        """The option that is all of `text`: its letter, letter and text, or a text that no other option has."""
        whole = key(text)
        same = [letter for letter, own in self.by_letter.items() if own == whole]
        bare = re.fullmatch(rf"\W*(?:([{self.letters}])|([{self.letters.lower()}]))\W*", text)
        if bare and (bare[1] or not same):
            return (bare[1] or bare[2]).upper()
        both = [x for x, own in self.by_letter.items() if re.fullmatch(rf"\W*{x.lower()}\W+{re.escape(own)}", whole)]
        return both[0] if both else _one(same)

    def _walks(self, span: str) -> bool:
        """Whether `span` begins a walk through the options, "A) ... B) ...", as Table 6's demonstration does."""
        lines = [line for line in span.split("\n") if line.strip()]
        item = re.compile(rf"[\s(\[-]*([{self.letters}])[).:\]]")
        items = [(at, found[1]) for at, line in enumerate(lines) if (found := item.match(line))]
        if [letter for _, letter in items[:2]] != ["A", "B"] or items[0][0] != 0:
            return False
        # "A) ice", then other lines, then "B) steam is a gas": that is an answer, and why not another
        return items[1][0] == 1 or self._whole(lines[0]) is None

    def _affirmed(self, said: Iterable[str]) -> str | None:
        """The one letter that sentences name and do not deny ("not A", "A is wrong", "eliminated: (A), (C)")."""
        kept = set()
        for sentence in said:
            for match in self.mention.finditer(sentence):
                start = match.start(match.lastindex)
                before = _TURN.split(sentence[max(0, start - 120) : start])[-1]
                if not _NEGATED.search(before) and not _DENIED.match(sentence, match.end()):
                    kept.add(match[match.lastindex].upper())
        return _one(kept)

    def _texts(self, text: str) -> list[tuple[int, int, str]]:
        """Where `text`, a key, holds options' texts, as (start, end, letter); not those inside a longer one found."""
        spans = []
        for letter, own in self.by_letter.items():
            bare = re.sub(r"^(?:that|the|an?|to) (?=\S)", "", own)
            for form in {own} | ({bare} - set(self.by_letter.values())):
                pattern = rf"(?<![\w/^-])(?<!\d[.,]){re.escape(form)}(?![\w/^]|[.,]\d|-\w)"
                spans += [(match.start(), match.end(), letter) for match in re.finditer(pattern, text) if form]
        return [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o[1] - o[0] > s[1] - s[0] for o in spans)]

    def _named(self, text: str) -> str | None:
        """The one option whose text occurs in `text`, behind its last "="."""
        return _one(letter for _, _, letter in self._texts(key(text.rpartition("=")[2])))

    def _opening_text(self, text: str) -> str | None:
        """The option whose text `text` opens with, an article aside."""
        opening = key(text[: 50 + 2 * max(map(len, self.options))])
        starts = {0, re.match(r"(?:(?:an?|the|to|that) )?", opening).end()}
        return _one(letter for begin, _, letter in self._texts(opening) if begin in starts)


def plain(text: str) -> str:
    """`text` without Markdown and LaTeX dress, so that "**(C)**" and "$\\text{C}$" are "(C)" and "C"."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|textit|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[()\[\]]|\*\*+|(?<![\w)\]])\*|\*(?![\w(\[])|`+|\$|^[#>]+\s*", "", text, flags=re.MULTILINE)
    return text.translate(str.maketrans("“”‘’", "\"\"''"))


def key(text: str) -> str:
    """An option's text in the form in which texts are compared."""
    return re.sub(r"\s+", " ", plain(text)).strip(" \"'").rstrip(".").lower()


def _one(letters: Iterable[str]) -> str | None:
    """The letter, where all agree on one; UNDECIDED where they differ; None where there is none."""
    distinct = set(letters)
    return distinct.pop() if len(distinct) == 1 else (UNDECIDED if distinct else None)
