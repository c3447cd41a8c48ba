"""The wording of the demo questions: what a field, a pond or a patient is called, and what is asked of it.

Only texts live here; `questions.py` chooses the numbers and works out the answers. Every text was written for
this project. Drugs and names are invented, so that no sentence can be taken for advice.

Units are abbreviated (`га`, `шт.`) because Russian nouns change their form with the number before them.
"""

from dataclasses import dataclass

# Braces and quotes belong to real benchmark questions (JSON, codes, titles), and a prompt that is formatted
# carelessly breaks on them; `{0}`, `{id}` and `{question}` would even be filled in.
PLACES = (
    "«Заря»",
    "«Восход»",
    '"Север"',
    '"Южный склон"',
    "«Берёзка»",
    "{Рубеж}",
    "{К}",
    '{"код": "Луг"}',
    "{0}",
    "{id}",
    "«Исток»",
    "'Новый'",
)
PATIENTS = (
    "А. Б.",
    "«И. К.»",
    "{карта Д}",
    '"О. Л."',
    "Р. Т.",
    "{question}",
    "М. Н.",
    "'Я. Ю.'",
    "С. У.",
    "Е. Ж.",
)
CROPS = ("пшеницы", "ячменя", "ржи", "овса", "гречихи", "сои")
FISH = ("форели", "карпа", "осетра", "сома", "тиляпии", "муксуна")
DRUGS = ("демозин", "тестарин", "учебнол", "примерин")


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to ask a question.

    `text` has the places `{a}`, `{b}` (numbers), `{label}`, `{noun}` and `{word}` (one of `words`, which
    decides what is right: the first word stands for even, below or greatest, the second for the opposite).
    `option` has the place `{n}`.
    """

    text: str
    option: str
    words: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Theme:
    """What a task's questions are about; `wordings` maps a kind of question to the ways to ask it."""

    topics: dict[str, str]
    labels: tuple[str, ...]
    nouns: tuple[str, ...]
    wordings: dict[str, tuple[Wording, ...]]


AGRO = Theme(
    topics={
        "product": "Урожайность",
        "difference": "Хранение",
        "parity": "Опытное дело",
        "threshold": "Агрономия",
        "schedule": "Орошение",
        "marathon": "Орошение",
        "missing": "Урожайность",
    },
    labels=PLACES,
    nouns=CROPS,
    wordings={
        "product": (
            Wording(
                "Площадь поля {label} — {a} га, урожайность {noun} — {b} ц/га. Сколько центнеров соберут?",
                "{n} ц",
            ),
            Wording(
                "На поле {label} в {a} га вносят по {b} кг удобрения на гектар. Сколько килограммов нужно?",
                "{n} кг",
            ),
        ),
        "difference": (Wording("На складе {label} было {a} т {noun}, вывезли {b} т. Сколько тонн осталось?", "{n} т"),),
        "parity": (
            Wording(
                "В хозяйстве {label} опыт ставят на делянках с {word} номерами. Какие делянки войдут в опыт?",
                "{n}-я делянка",
                ("чётными", "нечётными"),
            ),
        ),
        "threshold": (
            Wording(
                "В хозяйстве {label} отбирают поля с влажностью почвы {word} {a} %. Какие поля отберут?",
                "{n} % влажности",
                ("ниже", "выше"),
            ),
        ),
        "schedule": (
            Wording(
                "Насос на поле {label} включают каждые {a} мин. На какой минуте его включат в {b}-й раз?",
                "{n} мин",
            ),
        ),
        "missing": (Wording("Площадь поля {label} — {a} га. Сколько центнеров {noun} соберут?", "{n} ц"),),
    },
)

AQUA = Theme(
    topics={
        "product": "Посадка рыбы",
        "difference": "Вылов",
        "parity": "Контроль воды",
        "threshold": "Контроль воды",
        "schedule": "Кормление",
        "marathon": "Кормление",
        "missing": "Посадка рыбы",
    },
    labels=PLACES,
    nouns=FISH,
    wordings={
        "product": (
            Wording(
                "Объём бассейна {label} — {a} м³, сажают {noun} по {b} шт. на кубометр. Сколько рыб посадят?",
                "{n} шт.",
            ),
            Wording(
                "На садок {label} уходит {a} кг корма в сутки. Сколько килограммов уйдёт за {b} сут.?",
                "{n} кг",
            ),
        ),
        "difference": (
            Wording("В пруду {label} было {a} ц {noun}, выловили {b} ц. Сколько центнеров осталось?", "{n} ц"),
        ),
        "parity": (
            Wording(
                "В цехе {label} пробы берут из бассейнов с {word} номерами. Какие бассейны проверят?",
                "{n}-й бассейн",
                ("чётными", "нечётными"),
            ),
        ),
        "threshold": (
            Wording(
                "В цехе {label} отбирают садки с насыщением кислородом {word} {a} %. Какие садки отберут?",
                "{n} % кислорода",
                ("ниже", "выше"),
            ),
        ),
        "schedule": (
            Wording(
                "Кормушку пруда {label} включают каждые {a} мин. На какой минуте её включат в {b}-й раз?",
                "{n} мин",
            ),
        ),
        "missing": (Wording("Объём бассейна {label} — {a} м³. Сколько рыб ({noun}) в него посадят?", "{n} шт."),),
    },
)

MED = Theme(
    topics={
        "product": "Дозирование",
        "sum": "Водный баланс",
        "quotient": "Дозирование",
        "extremum": "Диагностика",
        "schedule": "Режим приёма",
        "marathon": "Режим приёма",
        "missing": "Дозирование",
    },
    labels=PATIENTS,
    nouns=DRUGS,
    wordings={
        "product": (
            Wording(
                "Препарат {noun} дают по {a} мг на килограмм. Масса пациента {label} — {b} кг. Какова доза?",
                "{n} мг",
            ),
        ),
        "sum": (
            Wording(
                "Пациент {label} выпил утром {a} мл воды, вечером {b} мл. Сколько миллилитров всего?",
                "{n} мл",
            ),
        ),
        "quotient": (
            Wording(
                "Пациенту {label} назначили {noun}, {a} мг в сутки. В таблетке {b} мг. Сколько нужно таблеток?",
                "{n} шт.",
            ),
        ),
        "extremum": (
            Wording(
                "Пульс пациента {label} измерили четыре раза. Какой замер самый {word}?",
                "{n} уд/мин",
                ("высокий", "низкий"),
            ),
        ),
        "schedule": (
            Wording(
                "Пациенту {label} дают {noun} каждые {a} ч. Через сколько часов его дадут в {b}-й раз?",
                "{n} ч",
            ),
        ),
        "missing": (
            Wording(
                "Препарат {noun} дают по {a} мг на килограмм. Какова доза для пациента {label}?",
                "{n} мг",
            ),
        ),
    },
)
