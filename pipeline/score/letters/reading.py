"""Reads an answer from its first mention of an option to its end.

The mentions of a response in, an `Answer` out. Mentions in the position of the first one belong to the answer. Denied
ones, those of a reason (`потому что ...`) and those of a further sentence do not. Any other mention in the answer's own
lines makes it unclear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.score.letters.option_letters import Letters
from pipeline.score.letters.option_mentions import Mention, Place


@dataclass(frozen=True, slots=True)
class Answer:
    """The letters of an answer, and the other options that may belong to it: if there are any, it is unclear.

    Without letters it is none: every option is denied or, if it `is_vague`, the first one names no choice (`A или B`).
    `last` is the index of the last mention that was examined; `is_cut` means that the text ends within the answer.
    """

    letters: Letters
    others: Letters = frozenset()
    is_vague: bool = False
    is_cut: bool = False
    last: int = -1


def read(text: str, mentions: list[Mention], first: int, stop: int) -> Answer:
    """Return the answer that begins with a mention.

    Args:
        text: The whole text.
        mentions: All mentions in it.
        first: The index of the answer's first mention.
        stop: Where the text ends for this answer, such as at the next words that introduce one.
    """
    block = _Block(text)
    last = first
    for index in range(first, len(mentions)):
        mention = mentions[index]
        if mention.first >= stop or block.ends_before(mention):
            break
        block.add(mention)
        last = index
        if block.is_vague:
            break
    return Answer(frozenset(block.letters), frozenset(block.others - block.letters), block.is_vague, block.is_cut, last)


_REASON = re.compile(
    r"(?<!\w)(?:потому|так как|т\. ?к\.|поскольку|ибо|ведь|из-за|в отличие|тогда как|в то время как|по сравнению"
    r"|не путать|чем"
    r"|because|since|as|due|unlike|while|whereas|than)(?!\w)|\" ?, ?\"\w+\" ?:",  # the last: the next key in JSON
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"(?<!\w)(?:или|либо|возможн\w*|может|можно|тоже|также|хотя|or|maybe|possibly|perhaps|also|although)(?!\w)"
    r"[^.!?;]{0,30}\Z",
    re.IGNORECASE,
)
"""Shortly before a mention: it may belong to the answer, and makes it unclear."""
SENTENCE_BREAK = re.compile(r"(?:[^\W\d_]{2}|\d|[)\"])[\")]?[.!?…]\s|[!?]\s")
_PARENTHESES = re.compile(r"[\")\]]*[:—]? ?\([^()\n]{0,200}\)[\"]* ?(?:[,;] ?)?(?:(?:и|and|а также) )?", re.IGNORECASE)
_NEXT_OBJECT = re.compile(r"\" ?, ?\"(?:letter|option|choice|answer|буква|вариант|ответ)\" ?: ?\Z")
"""In JSON, the key of an option of the same list."""
_NOTHING = re.compile(r"[ .,;\")(\]\[]*")
_LONGEST_TEXT = 400
"""Characters after an option up to which its text can be one of a list."""
_OPEN_END = re.compile(r"[ \")\]]*(?:[,;/&—:]|[ \n](?:и|and)|\n\s*(?:•|\d{1,2}[.)]))\s*", re.IGNORECASE)


@dataclass(slots=True)
class _Block:
    """The lines of an answer while they are read.

    `model` is the first mention that is not denied: those in its position belong to the answer. `is_aside` is True
    from a reason or a further sentence to the end of its line. `is_vague` is True once the model names no choice.
    """

    text: str
    model: Mention | None = None
    previous: Mention | None = None
    letters: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    num_items: int = 0
    is_aside: bool = False
    is_vague: bool = False

    def ends_before(self, mention: Mention) -> bool:
        """Return whether a mention is in other lines than the answer.

        It is after a line that does not begin with an option, and after a blank one if its position is another one.
        """
        if self.previous is None:
            return False
        gap = self.text[self.previous.end : mention.start]
        if "\n" not in gap:
            return False
        if mention.place is not Place.LINE or gap[gap.index("\n") : gap.rindex("\n")].strip():
            return True
        if self.model is None:
            return False
        if mention.has_noun and mention.mark == " " and not self.model.has_noun:
            return True  # a sentence about an option
        return gap.count("\n") > 1 and mention.mark != self.model.mark

    def add(self, mention: Mention) -> None:
        """Take a mention into the answer, leave it out, or count it among those that make the answer unclear."""
        gap = self.text[self.previous.end : mention.start] if self.previous else ""
        if "\n" in gap:
            self.is_aside = False
        elif self.previous and not self.is_aside:
            self.is_aside = self._leaves(mention, gap)
        is_denied = mention.verdict is False and (self.previous is not None or not mention.is_quotable)
        self.previous = mention
        if is_denied or (self.is_aside and mention.verdict is not True) or mention.letters <= self.letters:
            return
        if self.model is None:
            self.model = mention
            self.is_vague = not mention.is_clear
            if self.is_vague:
                return
        if self.model is mention or (mention.is_clear and not self.is_aside and self._is_like(mention, gap)):
            self.letters |= mention.letters
            self.num_items += 1
        elif mention.is_known or mention.place is not Place.TEXT:
            self.others |= mention.letters

    def _leaves(self, mention: Mention, gap: str) -> bool:
        """Return whether a reason begins between two mentions, or a sentence that is not an option itself."""
        if _DOUBT.search(gap[-60:]) or _NEXT_OBJECT.search(gap):
            return False
        if _REASON.search(gap):
            return True
        if mention.place is Place.SENTENCE:
            return mention.has_noun and mention.mark == " "
        return SENTENCE_BREAK.search(gap) is not None

    def _is_like(self, mention: Mention, gap: str) -> bool:
        """Return whether a mention is in the position of the model, or is joined to the one before it."""
        assert self.model is not None
        if "\n" in gap:
            is_list = self.model.place is Place.LINE or gap.count("\n") == 1
            return is_list and mention.mark == self.model.mark
        if _NEXT_OBJECT.search(gap):
            return True
        if _PARENTHESES.fullmatch(gap) or (not mention.mark and _NOTHING.fullmatch(gap)):
            return True
        is_ascending = not mention.mark or min(mention.letters) > max(self.letters)
        return mention.place is not Place.TEXT and mention.mark == self.model.mark and is_ascending

    @property
    def is_cut(self) -> bool:
        """Whether the text ends after a separator, or on a line of the answer that another option may follow."""
        if self.previous is None or self.model is None:
            return False
        rest = self.text[self.previous.end : self.previous.end + _LONGEST_TEXT]
        if _OPEN_END.fullmatch(rest):
            return True
        is_list = self.num_items > 1 and bool(self.previous.mark)
        is_below = self.model.place is Place.LINE and self.model.start > 0
        return (is_list or is_below) and "\n" not in rest and len(rest) < _LONGEST_TEXT
