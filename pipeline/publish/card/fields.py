"""The leaderboard's submission form: its fields in their order, with their Russian and English names.

In: nothing. Out: the form's fields by section; the fields of `BEYOND`, which the form lacks and a reproduction of the
run needs; and `Value`, the value of a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its name in card.json and its Russian and English labels."""

    name: str
    ru: str
    en: str


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a field.

    `text` goes into the form (None: unknown); `ru` is the text of the Russian form if it differs. `origin` is the
    configuration key or the manifest's entry that the value comes from. `note` is a remark in English and in Russian.
    """

    text: str | None = None
    origin: str = ""
    ru: str | None = None
    note: tuple[str, str] | None = None

    @property
    def source(self) -> Literal["measured", "configured", "todo"]:
        """The source of the value; `todo` if there is none, even if only the leaderboard's site can set it."""
        if self.text is None:
            return "todo"
        return "configured" if self.origin.startswith("submission.") else "measured"


SUBMISSION = (
    Field("mera_version", "Версия MERA", "MERA version"),
    Field("torch", "Версия Torch", "Torch version"),
    Field("codebase", "Версия кодовой базы", "The version of the codebase"),
    Field("cuda", "Версия CUDA", "CUDA version"),
    Field("precision", "Precision весов модели", "Precision of the model weights"),
    Field("seed", "Сид", "Seed"),
    Field("batch", "Батч", "Batch"),
    Field("transformers", "Версия transformers", "Transformers version"),
    Field("gpus", "Количество GPU и их тип", "The number of GPUs and their type"),
    Field("engine", "Архитектура", "Architecture"),
    Field("team", "Команда", "Team"),
    Field("model_name", "Название ML-модели", "Name of the ML model"),
    Field("model_link", "Ссылка на ML-модель", "Link to the ML model"),
    Field("model_size", "Размер модели", "Model size"),
    Field("model_type", "Тип модели", "Model type"),
    Field("additional_links", "Дополнительные ссылки", "Additional links"),
    Field("architecture_description", "Описание архитектуры", "Architecture description"),
    Field("training_description", "Описание обучения", "Description of the training"),
    Field("license", "Лицензия", "License"),
)

INFERENCE = (
    Field("chat_template", "Описание темплейта", "Description of the template"),
    Field("generation", "Параметры генерации", "Generation Parameters"),
    Field("context_size", "Размер контекста", "The size of the context"),
)

CREATED = Field("created", "Создан", "Created")

BEYOND = (
    Field("coverage", "Охват", "Coverage"),
    Field("submission_mode", "Режим ответов", "What is submitted"),
    Field("server", "Сервер", "Server"),
    Field("served_model", "Модель на сервере", "Model on the server"),
    Field("answered_by", "Модель в ответах сервера", "Model in the server's answers"),
    Field("model_revision", "Ревизия модели", "Model revision"),
    Field("model_fingerprint", "Отпечаток файлов модели", "Fingerprint of the model's files"),
    Field("data_revisions", "Ревизии данных", "Data revisions"),
    Field("chat_template_sha256", "SHA-256 темплейта", "SHA-256 of the template"),
    Field("template_fingerprint", "Отпечаток темплейта", "Fingerprint of the template"),
    Field("template_kwargs", "Аргументы темплейта", "Template arguments"),
    Field("system_prompt", "Системный промпт", "System prompt"),
    Field("reasoning_parser", "Парсер рассуждений", "Reasoning parser"),
    Field("gpu_driver", "Версия драйвера GPU", "GPU driver version"),
)

DOMAINS = {"agriculture": "Сельское хозяйство", "medicine": "Медицина и здравоохранение"}
"""Names of the domains on the Russian leaderboard; any other domain appears under its key."""

MODEL_TYPES = {"Opened": "Открытая", "Closed": "Закрытая"}
"""Russian names of the form's model types; the others are the same in both languages."""


def results_of(domain: str) -> tuple[Field, Field]:
    """Return the fields of a domain's score and of its rank on the leaderboard."""
    ru = DOMAINS.get(domain, domain)
    return (
        Field(f"score.{domain}", f"Результат: {ru}", f"Result: {domain}"),
        Field(f"rank.{domain}", f"Место в рейтинге: {ru}", f"Rank: {domain}"),
    )
