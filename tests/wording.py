"""Checks that text for people uses the field's words: `make check` runs it over documents, messages and comments.

    python tests/wording.py

prints each word of `WORDS` that it finds, with its place and better words; exit code 1 if there is one. It reads the
documents, the string literals and comments of pipeline/, its templates, scripts and SQL, and the comments of conf/.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

WORDS: Mapping[str, str] = {
    r"mend(s|ed|ing)?": "fix",
    r"lint(s|ed)?": "check",
    r"nights?|tonight": "run, nightly run",
    r"tells?|told|telling": "report, record, show, know, distinguish",
    r"say|says|said|saying": "report, state, show, contain, name",
    r"asks?|asked|asking": "request, send, require",
    r"wanted|wants": "requested, expected, target",
    r"beside": "next to, in addition to",
    r"doubtful": "uncertain",
    r"go(es)? on|gone on|went on|going on": "continue, resume",
    r"rooms?": "stage; memory, space",
    r"walks?": "run, iterate",
    r"dut(y|ies)": "configuration, task",
    r"lanes?": "isolation level, queue",
    r"ledgers?": "log",
    r"blame[sd]?": "cause",
    r"dies|died|dying|deaths?|dead": "crash, end, failure",
    r"obstacles?": "reason",
    r"suspicions": "warnings",
    r"anew|afresh": "again, new, from scratch",
    r"for want of": "because there is no",
    r"under way": "in flight, running",
    r"luck(y)?": "noise, chance",
    r"look(s|ed|ing)? (at|for|into|whether)": "check, read, search, examine",
    r"stands?(?! for)": "is, is written",
    r"l(ie|ies|ay|ying)": "is, is located",
    r"(?<![</|])thoughts?": "reasoning",
    r"whoever|whomever": "any user, any process",
    r"let go": "release",
    r"signs? of life": "response, heartbeat",
    r"come what may|riddles?|at hand|to be had|in vain": "plain words",
    r"a (row|line|file|table) an?": "one row for each",
}
"""Words to avoid, as regular expressions, and what to write instead.

They are this project's private vocabulary of earlier days or figures of speech: nobody searches for them, and readers
whose first language is another one stumble over them.
"""

ALLOWED: Mapping[str, str] = {
    "failed|doubtful": "the name of a stored column",
    "num_doubtful": "the name of a stored column",
    "pipeline.night": "the name of a command",
    "notebooks/tonight.ipynb": "the name of a file",
    "--output=tonight.ipynb": "the name of a file",
    "one of nights, power": "arguments of a script",
    "lint-imports": "the name of a program",
    "import-linter": "the name of a program",
}
"""Texts in which such a word is right, each with the reason."""

TERMS: Mapping[str, tuple[str, ...]] = {
    "night": (
        *("pipeline/night", "pipeline/overview/", "pipeline/cli.py", "pipeline/errors.py", "conf/night.yaml"),
        *("pipeline/config/loading.py", "CHANGELOG.md"),
        *("conf/kuberay/", "docs/nightly.md", "docs/output-files.md", "README", "CONTRIBUTING.md"),
    ),
}
"""Words that are a term in some files, by the beginnings of their paths: a night is what `pipeline.night` runs."""

LEFT_OUT: Mapping[str, str] = {
    "pipeline/prepare/template_probes.py": "its texts are a part of every recorded fingerprint",
}
"""Files that are not read, each with the reason."""

BAD = re.compile("|".join(rf"(?P<w{number}>\b(?:{word})\b)" for number, word in enumerate(WORDS)), re.IGNORECASE)
GOOD = re.compile("|".join(re.escape(text) for text in ALLOWED))


def texts_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the string literals and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def texts_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of what people read in a file."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        yield from texts_of_python(source)
    elif file.suffix in (".yaml", ".yml"):
        for number, line in enumerate(source.splitlines(), 1):
            yield number, line.partition("#")[2]
    else:
        yield 1, source


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (lines before it, word, better words) of each word to avoid in a text."""
    allowed = [range(*match.span()) for match in GOOD.finditer(text)]
    for match in BAD.finditer(text):
        if not any(match.start() in span for span in allowed):
            better = list(WORDS.values())[int(str(match.lastgroup).removeprefix("w"))]
            yield text.count("\n", 0, match.start()), match[0], better


PATTERNS = (
    *("*.md", "docs/*.md", "data/*.md", "conf/**/*.yaml", "Makefile", "docs/*.py"),
    *("notebooks/*.sql", "notebooks/*.py"),
)


def files() -> Iterator[Path]:
    """Yield the files with text for people."""
    for pattern in PATTERNS:
        yield from sorted(ROOT.glob(pattern))
    for suffix in ("py", "jinja", "js", "css", "sql"):
        yield from (file for file in sorted((ROOT / "pipeline").rglob(f"*.{suffix}")) if "vendor" not in file.parts)


def main() -> int:
    """Print what is found and return the exit code."""
    lines = [
        f"{path}:{line + offset}: {word!r}: write {better}"
        for file in files()
        if (path := str(file.relative_to(ROOT))) not in LEFT_OUT
        for line, text in texts_of(file)
        for offset, word, better in found_in(text)
        if not path.startswith(TERMS.get(word.lower().removesuffix("s"), ()) or "\0")
    ]
    print("\n".join(lines) if lines else "wording: clean")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
