"""Writes the demo's questions in MERA's layout: `data/demo/<task>/{train,test}.jsonl`.

In: nothing but a seed. Out: six files, the same bytes each time. `train.py` takes its endless training rows
from here too, so that the demo model learns the demo's kinds of questions but never its rows.

Try: python data/demo/generate.py --output /tmp/demo
"""

# ruff: noqa: S311  (seeded draws for questions, nothing secret)
import argparse
import json
import random
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from questions import LETTERS, Question, ask
from themes import AGRO, AQUA, MED, Theme

SEED = 1234

Row = dict[str, Any]
Identity = tuple[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt with `{placeholders}`; `{options}` stands for a line per option the row has.

    `reply` is how the demo model answers it; one instruction leaves the form of the answer open.
    """

    text: str
    reply: str = "{answer}"

    def for_options(self, num_options: int) -> str:
        """Name as many option placeholders as the row has options."""
        lines = (f"{letter}. {{option_{letter.lower()}}}" for letter in LETTERS[:num_options])
        return self.text.replace("{options}", "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Task:
    """A demo task: its splits' sizes, shares of its kinds of questions, and how a row becomes a prompt."""

    name: str
    theme: Theme
    num_train: int
    num_test: int
    kinds: dict[str, int]
    instructions: tuple[Instruction, ...]
    option_counts: tuple[int, ...]
    is_med: bool = False

    def prompt(self, row: Row) -> str:
        """Fill in the instruction as the benchmark does: med is stripped and knows no `meta`."""
        if self.is_med:
            return str(row["instruction"]).format(**row["inputs"]).strip()
        return str(row["instruction"]).format(**row["inputs"], **row["meta"])


@dataclass(frozen=True, slots=True)
class Example:
    """A row with what the demo model is taught to think and to reply."""

    task: Task
    row: Row
    thought: str
    reply: str


FIELD_KINDS = {
    "product": 5,
    "difference": 3,
    "parity": 4,
    "threshold": 4,
    "schedule": 2,
    "marathon": 1,
    "missing": 1,
}
MED_KINDS = {"product": 5, "sum": 4, "quotient": 4, "extremum": 4, "schedule": 1, "marathon": 1, "missing": 1}

TASKS = (
    Task(
        name="agro_bench",
        theme=AGRO,
        num_train=12,
        num_test=70,
        kinds=FIELD_KINDS,
        instructions=(
            Instruction("Задача по агрономии.\n{question}\n{options}\nНазовите буквы верных ответов через запятую."),
            Instruction("Вопрос № {id}. {question}\n\n{options}\n\nВ ответе нужны только буквы, например: A, C"),
            Instruction(
                "Вы агроном. Выберите верные варианты и назовите их буквы.\n\n{question}\n{options}\nОтвет:",
            ),
            Instruction("{options}\n\nВыше даны варианты. Укажите буквы верных.\nВопрос: {question}"),
        ),
        option_counts=(4, 5, 6, 7, 8),
    ),
    Task(
        name="aqua_bench",
        theme=AQUA,
        num_train=10,
        num_test=50,
        kinds=FIELD_KINDS,
        instructions=(
            Instruction("Задача для рыбовода.\n{question}\n{options}\nНапишите одну или несколько букв через запятую."),
            Instruction(
                "Прочитайте вопрос о рыбоводстве и отберите верное.\n{question}\n\n{options}\n\nБуквы ответа:",
            ),
            Instruction("Карточка {id}.\nВопрос: {question}\nВарианты:\n{options}\nОтветьте только буквами."),
        ),
        option_counts=(4, 5, 6, 7, 8),
    ),
    Task(
        name="med_bench",
        theme=MED,
        num_train=12,
        num_test=60,
        kinds=MED_KINDS,
        instructions=(
            Instruction("\n  Задача по медицине. Верен один вариант, назовите его букву.\n{question}\n{options}\n"),
            Instruction("Вопрос: {question}\n\n{options}\n\nОтветьте одной буквой.\n\n"),
            Instruction(
                "Вы врач. Прочитайте задачу и выберите ответ.\n{question}\n{options}\nБуква ответа:",
            ),
            Instruction("  {question}\nВыберите из списка:\n{options}\nВ ответе нужна только буква."),
            Instruction("Решите задачу.\n\n{question}\n{options}\n", reply="Ответ: {answer}"),
        ),
        option_counts=(4,),
        is_med=True,
    ),
)


def identity(row: Row) -> Identity:
    """Tell what makes two rows one question: text and options, not their order, instruction or id."""
    options = frozenset(text for key, text in row["inputs"].items() if key != "question")
    return row["inputs"]["question"], options


def demo_splits(seed: int = SEED) -> dict[str, dict[str, list[Row]]]:
    """Rows by task and split; ids run through both splits of a task, and no question comes twice in it."""
    splits: dict[str, dict[str, list[Row]]] = {}
    for task in TASKS:
        examples = _examples(task, random.Random(f"{seed}-{task.name}"))
        seen: set[Identity] = set()
        rows: list[Row] = []
        while len(rows) < task.num_train + task.num_test:
            row = next(examples).row
            if identity(row) not in seen:
                seen.add(identity(row))
                rows.append(row)
        for number, row in enumerate(rows):
            row["meta"]["id"] = number + 1
        splits[task.name] = {"train": rows[: task.num_train], "test": rows[task.num_train :]}
    return splits


def training_examples(seed: int, held_out: Container[Identity]) -> Iterator[Example]:
    """Endless examples of all tasks in turn, none of which is held out."""
    streams = [_examples(task, random.Random(f"{seed}-training-{task.name}")) for task in TASKS]
    while True:
        for stream in streams:
            yield next(example for example in stream if identity(example.row) not in held_out)


def _examples(task: Task, rng: random.Random) -> Iterator[Example]:
    """Endless examples of one task: kinds in their shares in shuffled order, instructions by turns."""
    kinds = [kind for kind, share in task.kinds.items() for _ in range(share)]
    number = 0
    while True:
        rng.shuffle(kinds)
        for kind in kinds:
            num_options = rng.choice(task.option_counts)
            question = ask(rng, task.theme, kind, num_options)
            instruction = task.instructions[number % len(task.instructions)]
            row = _row(question, instruction, row_id=rng.randint(1, 99))
            yield Example(task, row, question.thought, instruction.reply.format(answer=question.reply))
            number += 1


def _row(question: Question, instruction: Instruction, row_id: int) -> Row:
    options = {f"option_{LETTERS[i].lower()}": text for i, text in enumerate(question.options)}
    return {
        "instruction": instruction.for_options(len(options)),
        "inputs": {"question": question.text, **options},
        "outputs": question.gold,
        "meta": {
            "id": row_id,
            "categories": {
                "topic": question.topic,
                "answers": "несколько" if "," in question.gold else "один",
            },
        },
    }


def main() -> None:
    """Write the files of every task and split."""
    parser = argparse.ArgumentParser(description="Write the demo's questions in MERA's layout.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="directory of the task directories")
    output: Path = parser.parse_args().output
    for task, splits in demo_splits().items():
        for split, rows in splits.items():
            path = output / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text("".join(lines), encoding="utf-8")
            print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
