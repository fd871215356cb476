"""Variations: what do everyday texts hold that a corpus of plain sentences does not?

Two names make up most of those in the corpus, numbers are rare in it, and so are brackets, quotation marks,
prices and symbols. Here pairs of an English and a French sentence get such things, on both sides alike, so
that a translator learns to keep them. Quotation marks and what stands in digits stay as they are written.
"""

import gzip
import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

NAME = re.compile(r"\b[A-Z][a-zé]+\b")
NUMBER = re.compile(r"(?<![\d.,:])\d+(?![\d.,:]*\d)")
VOWELS = "aeiouyàâéèêîôAEIOUYÉÈH"
WORD = re.compile(r"(?<![\w'’-])[^\W\d_]{3,}(?![\w'’-])")
LEAST_COUNT, LEAST_DICE = 15, 0.5  # of a word and its translation, see `anchors`
ENDS = re.compile(r"\s*[.!?]+$")
QUOTED = re.compile(r"«\s*([^«»]*?)\s*»")
COUNTED = {
    "two": "deux", "three": "trois", "four": "quatre", "five": "cinq", "six": "six", "seven": "sept",
    "eight": "huit", "nine": "neuf", "ten": "dix", "eleven": "onze", "twelve": "douze", "twenty": "vingt",
    "thirty": "trente", "forty": "quarante", "fifty": "cinquante", "hundred": "cents",
}  # fmt: skip
SUBJECTS = [
    (re.compile(rf"{english} (?=[a-z])"), re.compile(rf"{french} (?=[a-zéê])(?!y |faut|s'agit)"))
    for english, french in (
        ("A man", "Un homme"), ("A woman", "Une femme"), ("A boy", "Un garçon"), ("A girl", "Une fille"),
        ("The man", "L'homme"), ("The woman", "La femme"), ("He", "Il"), ("She", "Elle"),
    )
]  # fmt: skip
# Marks around a word or a sentence, and how often in so many; guillemets are the French ones.
AROUND = {
    ("(", ")"): 6, ("“", "”"): 6, ('"', '"'): 5, ("« ", " »"): 4, ("‘", "’"): 2, ("[", "]"): 2, ("«", "»"): 1,
    ("'", "'"): 1, ("*", "*"): 1, ("{", "}"): 1, ("<", ">"): 1, ("_", "_"): 1, ("|", "|"): 1, ("~", "~"): 1,
    ("`", "`"): 1, ("„", "“"): 1,
}  # fmt: skip
LINKS = {
    (": ", " : "): 3, ("; ", " ; "): 3, (" – ", " – "): 3, (" — ", " — "): 3, (" - ", " - "): 2,
    (" / ", " / "): 1, (" & ", " & "): 1, (" + ", " + "): 1, ("... ", "... "): 1, (" | ", " | "): 1,
    (" > ", " > "): 1, (" = ", " = "): 1, ("! ", " ! "): 1, ("? ", " ? "): 1,
}  # fmt: skip
LISTED = {" & ": 6, ", ": 2, " / ": 2, " + ": 2, " - ": 1, "/": 1, " – ": 1, " = ": 1, "; ": 1, " | ": 1}
ACCENTED = "".join(
    map(
        chr,
        [
            *range(0xC0, 0xD7),
            *range(0xD8, 0xF7),
            *range(0xF8, 0x132),
            *range(0x134, 0x149),
            *range(0x14A, 0x17F),
        ],
    )
)
SYMBOLS = string.punctuation + "°€£–—×§"
Pair = tuple[str, str]


class Renamer:
    """Swaps a name or number that stands in both sentences for another, so that copying is learnt.

    Without this the model knows no others than those of the corpus.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        self.random = random.Random(seed)
        self.known = sorted({name for pair in pairs for name in shared(NAME, *pair)})

    def name(self) -> str:
        """One from the corpus, the halves of two of them, or syllables."""
        kind = self.random.random() if self.known else 1
        if kind < 0.35:
            return self.random.choice(self.known)
        if kind < 0.7:
            first, second = self.random.choices(self.known, k=2)
            return first[: self.random.randint(2, 4)] + second[len(second) // 2 :].lower()
        length = self.random.choice((1, 2, 2, 3))
        word = "".join(
            self.random.choice("bcdfgjklmnprstvwz") + self.random.choice("aeiouy") for _ in range(length)
        )
        word = word[self.random.random() < 0.3 :]
        return (word + self.random.choice(("", "", "n", "r", "l", "s", "ck", "t", "nd", "rt"))).capitalize()

    def number(self) -> str:
        length = self.random.choice((1, 2, 2, 3, 4, 4, 5))
        return str(self.random.randrange(10 ** (length - 1), 10**length))

    def __call__(self, source: str, target: str) -> Pair:
        for word in sorted(shared(NAME, source, target)):
            # "de Tom" must not become "de Anna": a vowel stays a vowel.
            new = self.name()
            if self.random.random() < 0.5 and (new[0] in VOWELS) == (word[0] in VOWELS):
                source, target = swapped(word, new, source, target)
        for word in sorted(shared(NUMBER, source, target)):
            if self.random.random() < 0.8 and word != "1":  # which has a singular
                source, target = swapped(word, self.number(), source, target)
        return source, target


class Varied(Renamer):
    """Renames with names and numbers of all kinds, and puts in what the corpus lacks.

    pairs: English and French, from which words are taken; names: rare ones besides; french: whether French
    is what is read. Called with English and French it gives English and French.
    """

    def __init__(
        self, pairs: Sequence[Pair], seed: int, names: Sequence[str] = (), french: bool = False
    ) -> None:
        super().__init__(pairs, seed)
        self.french = french
        self.anchors = anchors(pairs)
        self.listed = sorted(self.anchors.items())
        self.short = [pair for pair in pairs if len(pair[0].split()) <= 5 and len(pair[1].split()) <= 6]
        words = {word for pair in pairs for side in pair for word in WORD.findall(side)}
        self.words = sorted(word for word in words if word.islower())
        self.names = sorted(set(names) - words - {word.capitalize() for word in self.words})
        self.ways: list[tuple[float, Callable[[str, str], Pair]]] = [
            (0.45, self.named),
            (0.5, self.in_digits),
            (1.0, super().__call__),
            (0.25, self.joined_by_a_sign),
            (0.06, self.enclosed_word),
            (0.02, self.raised),
            (0.06, self.beside),
            (0.08, self.added),
            (0.03, self.led),
            (0.06, self.ended),
            (0.08, self.enclosed),
            (0.04, self.lowered),
            (0.06, self.curled),
        ]

    def __call__(self, english: str, french: str) -> Pair:
        english, french = self.alike(english, french)
        if self.listed and self.random.random() < 0.03:
            return self.of_words()
        for share, way in self.ways:
            if self.random.random() < share:
                english, french = way(english, french)
        return english, french

    # What is copied

    def name(self) -> str:
        """A name as in `Renamer`, a rare one, any word, capitals, or with more than one part."""
        kind = self.random.random()
        if kind < 0.4 and self.names:
            word = self.random.choice(self.names)
        elif kind < 0.55 and self.words:
            word = self.random.choice(self.words).capitalize()
        elif kind < 0.6:
            word = "".join(self.random.choices(string.ascii_uppercase, k=self.random.randint(2, 5)))
        elif kind < 0.63:
            word = self.random.choice(("O'", "Mc", "D'", "Mac", "Al-")) + super().name()
        elif kind < 0.66:
            word = f"{super().name()}-{super().name()}"
        elif kind < 0.74:
            word = super().name()
            at = self.random.randrange(len(word))
            word = f"{word[:at]}{self.random.choice(ACCENTED)}{word[at + 1 :]}"
            word = word[:1].upper() + word[1:].lower()
        else:
            word = super().name()
        more = self.random.random()
        if more < 0.06:
            return f"{word} {self.random.choice(string.ascii_uppercase)}. {super().name()}"
        if more < 0.12:
            return f"{self.random.choice(string.ascii_uppercase)}. {word}"
        return f"{word} {self.name()}" if more < 0.3 else word

    def number(self) -> str:
        """A number of one to ten digits, now and then a price, a time, a date, a share or the like."""
        draw = self.random
        plain = super().number()
        if draw.random() < 0.55:
            return plain
        long = str(draw.randrange(10 ** (length := draw.randint(4, 9)), 10 ** (length + 1)))
        cents = f"{draw.randrange(1000)}{draw.choice('.,')}{draw.randrange(100):02}"
        hour, minute = draw.randrange(24), draw.randrange(60)
        day, month, year = draw.randint(1, 31), draw.randint(1, 12), draw.randint(1500, 2099)
        grouped = f"{int(long):,}".replace(",", draw.choice((",", " ", ".")))
        return draw.choice(
            (
                long, grouped, cents, f"{hour}:{minute:02}", f"{hour}h{minute:02}", f"{plain}%", f"{plain} %",
                f"${plain}", f"${cents}", f"€{plain}", f"{plain} €", f"{cents} €", f"£{plain}", f"{plain}°",
                f"-{plain}", f"+{plain}", f"#{plain}", f"{day}/{month}/{year}", f"{day:02}.{month:02}.{year}",
                f"{year}-{month:02}-{day:02}", f"{day}/{month}", f"{plain}-{super().number()}", f"{plain}th",
                f"{draw.choice(string.ascii_uppercase)}{plain}",
                f"{plain}{draw.choice(string.ascii_letters)}",
                f"+{draw.randrange(1, 99)} {draw.randrange(100, 999)} {draw.randrange(10**4, 10**6)}",
            )
        )  # fmt: skip

    def item(self) -> str:
        """A number, a name, or now and then characters of all kinds."""
        kind = self.random.random()
        if kind < 0.06:
            everything = string.ascii_letters + string.digits + string.punctuation
            return "".join(self.random.choices(everything, k=self.random.randint(2, 6)))
        return self.name() if kind < 0.5 else self.number()

    def drawn(self, weighted: dict[Pair, int]) -> Pair:
        return self.random.choices(list(weighted), list(weighted.values()))[0]

    def marks(self) -> tuple[Pair, Pair]:
        """What stands around something in English and in French.

        French guillemets that are read become typographic quotation marks in English.
        """
        around = self.drawn(AROUND)
        return ("“", "”") if self.french and "«" in around[0] else around, around

    # What is done to a pair

    def alike(self, english: str, french: str) -> Pair:
        """Quotation marks and the name that the corpus translates now and then, the same way each time."""
        if re.search(r"\bMary\b", english) and not self.french:
            french = re.sub(r"\bMarie\b", "Mary", french)
        if '"' in english and "«" in french:
            if not self.french:
                french = QUOTED.sub(r'"\1"', french)
            elif english.count('"') % 2 == 0:
                english = re.sub(r'"([^"]*)"', r"“\1”", english)
        return english, french.replace("’", "'")

    def named(self, english: str, french: str) -> Pair:
        """A name in place of the man or woman that both begin with."""
        for one, other in SUBJECTS:
            if one.match(english) and other.match(french):
                name = self.name()
                return one.sub(f"{name} ", english, 1), other.sub(f"{name} ", french, 1)
        return english, french

    def in_digits(self, english: str, french: str) -> Pair:
        """A number in digits in place of one in letters."""
        for one, other in COUNTED.items():
            first, second = (re.compile(rf"\b{word}\b", re.IGNORECASE) for word in (one, other))
            if len(first.findall(english)) == len(second.findall(french)) == 1:
                number = self.number() if self.random.random() < 0.6 else str(self.random.randint(2, 999))
                if number == "1":
                    continue
                return first.sub(number, english), second.sub(number, french)
        return english, french

    def joined_by_a_sign(self, english: str, french: str) -> Pair:
        """ "and" and "or" as signs, where there is one of them."""
        for one, other, signs in ((" and ", " et ", "&&&&+"), (" or ", " ou ", "/|")):
            if english.count(one) == french.count(other) == 1:
                sign = f" {self.random.choice(signs)} "
                return english.replace(one, sign), french.replace(other, sign)
        return english, french

    def places(self, english: str, french: str) -> tuple[re.Match[str], re.Match[str]] | None:
        """Where a word and its translation stand, or a name on both sides, each once."""
        found = [{match[0]: match for match in WORD.finditer(side)} for side in (english, french)]
        pairs = [
            (match, found[1][other])
            for word, match in found[0].items()
            for other in (self.anchors.get(word.lower()), word if word.istitle() else None)
            if other in found[1]
        ]
        return self.random.choice(pairs) if pairs else None

    def enclosed_word(self, english: str, french: str) -> Pair:
        places = self.places(english, french)
        if not places:
            return english, french
        one, other = self.marks()
        return put(english, places[0], *one), put(french, places[1], *other)

    def raised(self, english: str, french: str) -> Pair:
        """A word in capitals."""
        places = self.places(english, french)
        if not places:
            return english, french
        english, french = (
            side[: at.start()] + at[0].upper() + side[at.end() :]
            for side, at in zip((english, french), places, strict=True)
        )
        return english, french

    def beside(self, english: str, french: str) -> Pair:
        """Something to copy behind a word, in brackets or as it is, or a symbol there."""
        places = self.places(english, french)
        if not places:
            return english, french
        symbol = self.random.choice(SYMBOLS)
        thing = self.random.choice((f" ({self.item()})", f" {self.item()}", f" {symbol}", symbol))
        if thing == "'":
            return english, french
        return put(english, places[0], "", thing), put(french, places[1], "", thing)

    def added(self, english: str, french: str) -> Pair:
        """A short sentence more: in brackets or quotation marks, or behind a colon, a dash and the like."""
        if not self.short:
            return english, french
        more = self.alike(*self.random.choice(self.short))
        first = [ENDS.sub("", side) for side in (english, french)]
        end = self.random.choice((".", ".", ""))
        kind = self.random.random()
        if kind < 0.4:
            links = self.drawn(LINKS)
            if self.random.random() < 0.5:
                more = initial(*more)
            return first[0] + links[0] + more[0], first[1] + links[1] + more[1]
        one, other = self.marks()
        if kind < 0.7:  # He said: “I am tired.”
            links = self.random.choice(((": ", " : "), (", ", ", "), (" ", " ")))
            return (
                f"{first[0]}{links[0]}{one[0]}{more[0]}{one[1]}",
                f"{first[1]}{links[1]}{other[0]}{more[1]}{other[1]}",
            )
        inner = [ENDS.sub("", side) for side in initial(*more)]
        return (
            f"{first[0]} {one[0]}{inner[0]}{one[1]}{end}",
            f"{first[1]} {other[0]}{inner[1]}{other[1]}{end}",
        )

    def led(self, english: str, french: str) -> Pair:
        """Something to copy before a sentence or behind it."""
        item = self.item()
        kind = self.random.random()
        if kind < 0.4:
            return f"{item}: {english}", f"{item} : {french}"
        if kind < 0.6:
            return f"{item} {english}", f"{item} {french}"
        if kind < 0.8:
            return f"{english} {item}", f"{french} {item}"
        symbol = self.random.choice(SYMBOLS)
        return (
            (f"{symbol} {english}", f"{symbol} {french}")
            if kind < 0.9
            else (f"{english} {symbol}", f"{french} {symbol}")
        )

    def ended(self, english: str, french: str) -> Pair:
        """Without its last mark, or with others."""
        ends = self.random.choice(
            (("", ""), ("", ""), ("...", "..."), ("!", " !"), ("!!", " !!"), (":", " :"), (";", " ;"))
        )
        return ENDS.sub("", english) + ends[0], ENDS.sub("", french) + ends[1]

    def enclosed(self, english: str, french: str) -> Pair:
        """All of it in brackets or quotation marks, its last mark inside, behind or left out."""
        one, other = self.marks()
        kind = self.random.random()
        if kind < 0.5:
            return f"{one[0]}{english}{one[1]}", f"{other[0]}{french}{other[1]}"
        if self.random.random() < 0.5:
            english, french = initial(english, french)
        end = "." if kind < 0.7 else ""
        english, french = ENDS.sub("", english), ENDS.sub("", french)
        return f"{one[0]}{english}{one[1]}{end}", f"{other[0]}{french}{other[1]}{end}"

    def lowered(self, english: str, french: str) -> Pair:
        return initial(english, french)

    def curled(self, english: str, french: str) -> Pair:
        return tuple(re.sub(r"(?<=\w)'(?=\w)", "’", side) for side in (english, french))  # type: ignore[return-value]

    def of_words(self) -> Pair:
        """A list of words: salt & pepper."""
        words = self.random.sample(self.listed, min(len(self.listed), self.random.choice((1, 2, 2, 2, 3))))
        sides = [list(side) for side in zip(*words, strict=True)]
        sign = self.random.choices(list(LISTED), list(LISTED.values()))[0]
        last = sign if self.random.random() < 0.7 else " & "
        one, other = (sign.join(side[:-1]) + last * (len(side) > 1) + side[-1] for side in sides)
        kind = self.random.random()
        if kind < 0.5:
            one, other = one.capitalize(), other.capitalize()
        if self.random.random() < 0.25:
            item = self.item()
            one, other = self.random.choice(
                (
                    (f"{item} {one}", f"{item} {other}"),
                    (f"{one}: {item}", f"{other} : {item}"),
                    (f"{one} ({item})", f"{other} ({item})"),
                )
            )
        return self.enclosed(one, other) if self.random.random() < 0.2 else (one, other)


def shared(pattern: re.Pattern[str], source: str, target: str) -> set[str]:
    """What `pattern` finds in both sentences."""
    return set(pattern.findall(source)) & set(pattern.findall(target))


def swapped(word: str, new: str, source: str, target: str) -> Pair:
    """Both sentences with another word in the place of `word`, or as they were if it stands there already."""
    if new in source or new in target:
        return source, target
    whole = re.compile(rf"\b{word}\b")
    return whole.sub(new, source), whole.sub(new, target)


def put(text: str, at: re.Match[str], before: str, behind: str) -> str:
    """The text with what stands before and behind a word of it put there."""
    return f"{text[: at.start()]}{before}{at[0]}{behind}{text[at.end() :]}"


def initial(english: str, french: str) -> Pair:
    """Both with a small letter at the beginning, unless a name or "I" is there."""
    word = re.match(r"\w+", english)
    if not word or word[0] == "I" or not word[0].istitle() or french.startswith(word[0]):
        return english, french
    return english[:1].lower() + english[1:], french[:1].lower() + french[1:]


def anchors(pairs: Sequence[Pair]) -> dict[str, str]:
    """Words that are translated by one word nearly always, with it: by Dice's coefficient over sentences."""
    alone: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    together: Counter[Pair] = Counter()
    for pair in pairs:
        first, second = ({word.lower() for word in WORD.findall(side)} for side in pair)
        alone[0].update(first)
        alone[1].update(second)
        together.update((one, other) for one in first for other in second)
    best: dict[str, tuple[float, str]] = {}
    back: dict[str, tuple[float, str]] = {}
    for (one, other), count in together.items():
        if count >= LEAST_COUNT:
            dice = 2 * count / (alone[0][one] + alone[1][other])
            best[one] = max(best.get(one, (LEAST_DICE, "")), (dice, other))
            back[other] = max(back.get(other, (LEAST_DICE, "")), (dice, one))
    return {one: other for one, (_, other) in sorted(best.items()) if other and back[other][1] == one}


def rare_names(data: Path) -> list[str]:
    """Names of people in the named entities of `data`/ner, if they are there."""
    path = data / "ner" / "train.jsonl.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return sorted(
        {
            token
            for row in rows
            for token, tag in zip(row["tokens"], row["tags"], strict=True)
            if tag.endswith("PER") and token.isalpha() and token.istitle() and 2 < len(token) < 14
        }
    )
