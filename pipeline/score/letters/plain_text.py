"""Turns a response into plain text, once, before the rules of `pipeline/score/extraction.py`.

A response in, a `PlainText` out: its words without what surrounds them, that is special tokens, control
characters, tags, LaTeX and Markdown. What was bold or boxed stays known as spans. Only the letters metric uses it; the
exact metrics compare the response itself. Time is linear in the length of the response, for any response.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlainText:
    """`bold` and `boxed` are spans of `text`, in order; neither of them contains a span of its own kind."""

    text: str
    bold: tuple[Span, ...]
    boxed: tuple[Span, ...]


def plain_text(response: str) -> PlainText:
    """Return a response without markup, in Unicode's compatibility form (NFKC), with one kind of dash and quote."""
    text = response.replace("\r\n", "\n").rpartition(_LAST_CHANNEL)[2]
    text = _SPECIAL_TOKEN.sub("\n", _ANSI.sub("", text).translate(_CHARACTERS))
    text = _APOSTROPHE.sub('"', text)
    text = _CHINESE.sub(r" \g<0> ", text)  # it has no spaces between words and letters
    text = _without_latex(_TAG.sub(_without_tag, _STRUCK.sub(" ", text)))
    text = _JSON_COMMA.sub(", ", _COMMA_LINE.sub(",", text))
    return _with_spans(_without_markdown(text).strip())


_BOX, _BOX_END, _BOLD = "\x01", "\x02", "\x03"
"""Stand for markup until `_with_spans`; the response's own control characters are gone by then."""

_REPLACED = {
    **dict.fromkeys("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\n"),
    **dict.fromkeys("«»„“”‟‹›‘’‚‛′`´", '"'),
    **dict.fromkeys("‒–—―−", "—"),
    **dict.fromkeys("‐‑", "-"),
    **dict.fromkeys("→⇒➡➜⟶⟹", "—"),
    **dict.fromkeys("•▪◦‣●○■□►▶", "•"),
    **dict.fromkeys("✅✔☑✓", "✓"),
    **dict.fromkeys("❌✗✘✖☒", "✗"),
    "\t": " ",
    "、": ",",
    "。": ".",
    "°": "°",
}
_DROPPED = ("Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me")
"""Unicode categories of characters that have no width, or none of their own: control, format, unassigned, accents."""


class _Characters(dict[int, str]):
    """The table of `str.translate`, filled in as characters occur.

    Each character is normalized by itself: `unicodedata.normalize` of a text takes quadratic time if many combining
    characters follow each other.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        parts = character if character in _REPLACED else unicodedata.normalize("NFKC", character)
        found = "".join(_REPLACED.get(part, self._plain(part)) for part in parts)
        if code < 0x3000:  # the table stays small
            self[code] = found
        return found

    @staticmethod
    def _plain(character: str) -> str:
        category = unicodedata.category(character)
        if category in _DROPPED:
            return ""
        return " " if category in ("Zs", "So") else character


_CHARACTERS = _Characters()
_ANSI = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]?|\][^\x07\x1b\n]{0,200}\x07?)?")
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?(?:s|bos|eos|pad|end_of_turn|start_of_turn)>|\[/?INST\]")
_LAST_CHANNEL = "assistantfinal"
"""What is left of the tokens between reasoning and answer where a server drops special tokens from their text."""
_COMMA_LINE = re.compile(r"\n {0,80},")
_JSON_COMMA = re.compile(r",[ \n]{1,200}(?=[\"])")
"""The items of a list in JSON become one line."""
_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")
_CHINESE = re.compile(r"[\u4e00-\u9fff]+")
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")

_TAG = re.compile(r"<(/?)(ответ|[A-Z][A-Z0-9_-]{0,30})(?:\s{1,5}[\w:-]{1,30}=[^<>\n]{0,200})?\s?/?>", re.IGNORECASE)
_ANSWER_TAGS = {"answer": "Ответ", "ответ": "Ответ", "final": "Итоговый ответ", "final_answer": "Итоговый ответ"}
_LINE_TAGS = {"br", "p", "div", "li", "ul", "ol", "tr", "table", "pre", "hr", "h1", "h2", "h3", "h4"}
_BOLD_TAGS = {"b", "strong", "em", "i", "u"}


def _without_tag(match: re.Match[str]) -> str:
    """Return what stands for a tag. `<A>`, and `<b>` without its end, are letters in brackets."""
    end, tag = match[1], match[2].lower()
    if tag in _ANSWER_TAGS:
        return "\n" if end else f"\n{_ANSWER_TAGS[tag]}: "
    if tag in _LINE_TAGS:
        return "\n"
    is_pair = end or f"</{match[2]}>" in match.string[match.end() : match.end() + 200]
    if match[2].isupper() or (len(tag) == 1 and not is_pair):
        return match[0]
    return _BOLD if tag in _BOLD_TAGS else ""


_LATEX = re.compile(r"\\(?:begin|end)\{[a-z*]{1,20}\}|\\([A-Za-z]{1,30})( {0,3}\{)?|\\(.)|[{}$~]")
_BOXES = ("boxed", "fbox")
_BOLD_COMMANDS = ("textbf", "mathbf", "bf", "bm", "boldsymbol")
_SIGNS = {
    **dict.fromkeys(("rightarrow", "Rightarrow", "to", "longrightarrow", "implies"), "—"),
    "checkmark": "✓",
    "times": "×",
    "cdot": "·",
    "circ": "°",
    "degree": "°",
    "item": "\n• ",
}


def _without_latex(text: str) -> str:
    """Return the text without LaTeX's commands, braces, spaces and delimiters."""
    parts: list[str] = []
    braces: list[tuple[int, str]] = []  # the place of the sign of each open brace, and the sign of its end
    in_formula = False
    position = 0
    for match in _LATEX.finditer(text):
        parts.append(text[position : match.start()])
        position = match.end()
        command, brace, character = match.groups()
        sign = ""
        if brace or match[0] == "{":
            sign, end = (
                (_BOX, _BOX_END) if command in _BOXES else (_BOLD, _BOLD) if command in _BOLD_COMMANDS else ("", "")
            )
            braces.append((len(parts), end))
        elif match[0] == "}":
            sign = braces.pop()[1] if braces else ""
        elif command is not None:
            sign = _SIGNS.get(command, " ")
        elif character is not None:
            sign = _escaped(character, in_formula)
            in_formula = (in_formula or character == "(") and character != ")"
        elif match[0] == "~":
            sign = " "
        parts.append(sign)
    for place, _ in braces:
        parts[place] = "…" if parts[place] == _BOX else ""  # the rest of a box that was cut is unknown
    return "".join([*parts, text[position:]])


def _escaped(character: str, in_formula: bool) -> str:
    r"""Return what `\(`, `\,` or `\\` stands for. `\)` without `\(` is Markdown's, and so is `\.`."""
    if character == "\\":
        return "\n"
    return " " if character in " ,;:!>[]{}(" or (character == ")" and in_formula) else character


_NO_TEXT = re.compile(r"^ {0,3}(?:\"\"\"|~~~)[^\n\"]{0,40}(?:\n|$)|^ {0,9}\|[ :|-]*\| {0,9}(?:\n|$)", re.MULTILINE)
"""Lines that begin or end a block of code, or divide a table."""
_RULE = re.compile(r"^ {0,3}(?:[-*_=] ?){3,200}+$", re.MULTILINE)
_LINE_START = re.compile(r"^(?=[ >#*+•—-]) {0,40}(?:> {0,3}){0,9}+(?:#{1,6} {1,9})?([*+•—-] {1,9})?", re.MULTILINE)
_TABLE_ROW = re.compile(r"^ {0,9}\|([^\n]*)\| {0,9}$", re.MULTILINE)
_EMPHASIS = re.compile(r"\*{1,3}|(?<![^\W_])_{1,3}|_{1,3}(?![^\W_])")


def _without_markdown(text: str) -> str:
    """Return the text with bullets as `•`, rows of tables as cells with dashes between, and `_BOLD` at bold text."""
    text = _RULE.sub("", _NO_TEXT.sub("", text)).replace('"""', "")
    text = _LINE_START.sub(lambda match: "• " if match[1] else "", text)
    if "|" in text:
        text = _TABLE_ROW.sub(lambda row: " — ".join(cell.strip() for cell in row[1].split("|")), text)
    if "*" in text or "_" in text:
        text = _EMPHASIS.sub(lambda match: _BOLD if len(match[0]) > 1 else "", text)
    return text


_SIGN = re.compile(f"[{_BOX}{_BOX_END}{_BOLD}\n]")


def _with_spans(text: str) -> PlainText:
    """Return the text without the signs; bold text ends with its line."""
    parts: list[str] = []
    bold: list[Span] = []
    boxed: list[Span] = []
    bold_start: int | None = None
    box_start: int | None = None
    position = size = 0
    for match in _SIGN.finditer(text):
        part = text[position : match.start()] + ("\n" if match[0] == "\n" else "")
        parts.append(part)
        position, size = match.end(), size + len(part)
        if match[0] == "\n":
            bold_start = None
        elif match[0] == _BOLD:
            if bold_start is not None:
                bold.append((bold_start, size))
            bold_start = size if bold_start is None else None
        elif match[0] == _BOX:
            box_start = size if box_start is None else box_start
        elif box_start is not None:
            boxed.append((box_start, size))
            box_start = None
    return PlainText("".join([*parts, text[position:]]), tuple(bold), tuple(boxed))
