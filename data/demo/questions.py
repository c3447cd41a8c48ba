"""Chooses the numbers of a demo question, works out its answer, and writes the thought that leads to it.

In: a random generator, a `Theme` and a kind of question. Out: a `Question`. Small sums, parity and
comparisons only, so that a model of half a million parameters can learn them; the thoughts spell out each
step for the same reason.

Two kinds are there for what they do to a run (data/README.md): `marathon` needs a thought longer than a
modest token budget, and `missing` leaves out a number, whereupon the model declines to answer instead of
choosing the option which says so.
"""

import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from themes import Theme, Wording

LETTERS = "ABCDEFGH"
DECLINES = "Затрудняюсь ответить"
NO_DATA = "данных недостаточно"

MARATHON_STEPS = range(38, 46)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer, and what the demo model is taught to think and reply.

    `gold` is canonical: letters in order, joined by a comma and a space. `reply` differs from it only where
    the model is taught to decline.
    """

    kind: str
    topic: str
    text: str
    options: tuple[str, ...]
    gold: str
    thought: str
    reply: str


@dataclass(frozen=True, slots=True)
class _Solution:
    """The numbers of one question: those asked with, those offered, which of them are right, and why."""

    a: int
    b: int
    values: tuple[int, ...]
    right: frozenset[int]
    thought: str
    word: str = ""


def ask(rng: random.Random, theme: Theme, kind: str, num_options: int) -> Question:
    """Make one question of `kind`; the same state of `rng` makes the same question."""
    wording = rng.choice(theme.wordings["schedule" if kind == "marathon" else kind])
    solution = _solve(rng, kind, wording, num_options)
    options = [wording.option.format(n=value) for value in solution.values]
    right = [LETTERS[i] for i, value in enumerate(solution.values) if value in solution.right]
    if kind == "missing":
        place = rng.randrange(num_options)
        options.insert(place, NO_DATA)
        right = [LETTERS[place]]
    gold = ", ".join(right)
    return Question(
        kind=kind,
        topic=theme.topics[kind],
        text=wording.text.format(
            a=solution.a,
            b=solution.b,
            word=solution.word,
            label=rng.choice(theme.labels),
            noun=rng.choice(theme.nouns),
        ),
        options=tuple(options),
        gold=gold,
        thought=solution.thought,
        reply=DECLINES if kind == "missing" else gold,
    )


def _solve(rng: random.Random, kind: str, wording: Wording, num_options: int) -> _Solution:
    match kind:
        case "product":
            a, b = rng.randint(2, 9), rng.randint(2, 19)
            return _computed(rng, a, b, a * b, _multiplied(a, b), num_options)
        case "sum":
            a, b = rng.randint(11, 49), rng.randint(11, 49)
            return _computed(rng, a, b, a + b, f"{a}+{b}={a + b}\n", num_options)
        case "difference":
            a, b = rng.randint(40, 99), rng.randint(11, 38)
            return _computed(rng, a, b, a - b, f"{a}-{b}={a - b}\n", num_options)
        case "quotient":
            b, result = rng.randint(2, 9), rng.randint(3, 9)
            return _computed(rng, b * result, b, result, f"{b * result}:{b}={result}\n", num_options)
        case "schedule" | "marathon":
            steps = rng.choice(MARATHON_STEPS) if kind == "marathon" else rng.randint(4, 8)
            a = rng.randint(2, 5)
            counted = " ".join(f"{i}:{i * a}" for i in range(1, steps + 1))
            return _computed(rng, a, steps, a * steps, f"{counted}\n", num_options)
        case "parity":
            remainder = rng.randrange(2)
            values = _mixed(rng, num_options, lambda n: n % 2 == remainder)
            right = frozenset(n for n in values if n % 2 == remainder)
            thought = _checked(values, right, lambda n: f"{n} {'нечёт' if n % 2 else 'чёт'}")
            return _Solution(0, 0, values, right, thought, wording.words[remainder])
        case "threshold":
            bound, above = rng.randint(25, 85), rng.randrange(2)
            values = _mixed(rng, num_options, lambda n: (n > bound) == above, excluded=bound)
            right = frozenset(n for n in values if (n > bound) == above)
            lines = _checked(values, right, lambda n: f"{n}{'>' if n > bound else '<'}{bound}")
            return _Solution(bound, 0, values, right, f"{wording.words[above]} {bound}\n{lines}", wording.words[above])
        case "extremum":
            return _extreme(rng, wording, num_options)
        case "missing":
            a = rng.randint(2, 9)
            values = tuple(rng.sample(range(10, 100), num_options - 1))
            return _Solution(a, 0, values, frozenset(), "не хватает числа\n")
        case _:
            raise ValueError(f"unknown kind of question {kind!r}")


def _multiplied(a: int, b: int) -> str:
    """Spell `a*b` from memory up to ten, in two parts above: a small model learns the table only."""
    if b <= 10:
        return f"{a}*{b}={a * b}\n"
    return f"{a}*10={a * 10} {a}*{b - 10}={a * (b - 10)} {a}*{b}={a * b}\n"


def _computed(rng: random.Random, a: int, b: int, result: int, work: str, num_options: int) -> _Solution:
    """Offer `result` among numbers near it, no two with the same last digit.

    The endings differ because to know a number again is what a small model learns last: line by line the thought
    sets the option's last digit beside the result's, and the two are the same once.
    """
    values = {result % 10: result}
    near = range(max(1, result - 25), result + 26)
    for n in rng.sample(near, k=len(near)):
        values.setdefault(n % 10, n)
    offered = [result, *[n for n in values.values() if n != result][: num_options - 1]]
    rng.shuffle(offered)
    read = offered[: offered.index(result) + 1]
    lines = _checked(read, {result}, lambda n: f"{n} {n % 10}/{result % 10}")
    return _Solution(a, b, tuple(offered), frozenset({result}), work + lines)


def _mixed(
    rng: random.Random, num_options: int, is_right: Callable[[int], bool], excluded: int | None = None
) -> tuple[int, ...]:
    """Draw distinct two-digit numbers of which some are right and some are not."""
    candidates = [n for n in range(11, 100) if n != excluded]
    while True:
        values = tuple(rng.sample(candidates, num_options))
        if 0 < sum(map(is_right, values)) < num_options:
            return values


def _extreme(rng: random.Random, wording: Wording, num_options: int) -> _Solution:
    """Carry the best value so far from line to line, so that each step compares two numbers only."""
    lowest = rng.randrange(2)
    values = tuple(rng.sample(range(45, 100), num_options))
    best, lines = 0, [f"{LETTERS[0]}. {values[0]}\n"]
    for i, value in enumerate(values[1:], start=1):
        sign = ">" if value > values[best] else "<"
        line = f"{LETTERS[i]}. {value}{sign}{values[best]}"
        best = i if (sign == "<") == lowest else best
        lines.append(f"{line} {LETTERS[best]}\n")
    return _Solution(0, 0, values, frozenset({values[best]}), "".join(lines), wording.words[lowest])


def _checked(values: Sequence[int], right: Container[int], finding: Callable[[int], str]) -> str:
    """Write a line an option: what is found of its value, then its letter if it is right and `нет` if not.

    The letters stand at the ends of lines for the reply to pick up: the model finds them there far sooner than it
    learns to go back from a `да` to the start of its line.
    """
    lines = []
    for letter, value in zip(LETTERS, values, strict=False):
        lines.append(f"{letter}. {finding(value)} {letter if value in right else 'нет'}\n")
    return "".join(lines)
