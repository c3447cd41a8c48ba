"""The card has every field of the leaderboard's form, gives the source of each value, and invents no value."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders import ROOT
from carded import COMMIT, TEMPLATE, Carded, domain_score
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.publish.card.fields import BEYOND
from pipeline.publish.card.render import write_card
from pipeline.runs.manifest import load
from pipeline.storage.artifacts import ArtifactStore

RUSSIAN = [
    *("Создан", "Версия MERA", "Версия Torch", "Версия кодовой базы", "Версия CUDA", "Precision весов модели", "Сид"),
    *("Батч", "Версия transformers", "Количество GPU и их тип", "Архитектура", "Команда", "Название ML-модели"),
    *("Ссылка на ML-модель", "Размер модели", "Тип модели", "Дополнительные ссылки", "Описание архитектуры"),
    *("Описание обучения", "Лицензия", "Описание темплейта", "Параметры генерации", "Размер контекста"),
]
"""Fields of the Russian document, apart from its table of results: task, result, rank."""

ENGLISH = [
    *("The version of the codebase", "Precision of the model weights", "Transformers version"),
    *("The number of GPUs and their type", "Architecture", "Name of the ML model", "Model type", "Additional links"),
    *("Architecture description", "Description of the training", "License", "Description of the template"),
    *("Generation Parameters", "The size of the context"),
]
"""Fields of the English document."""

NO_FIELDS = {
    *("Inference parameters", "Параметры инференса", "Информация о сабмите", "Оценки по задачам лидерборда"),
    *("Таблица скроллится влево", "Задача Результат Место в рейтинге"),
}
"""Headings of the fields in the two documents."""

SEEDS = next((store / "shared/seeds" for store in ROOT.parents if (store / "shared/seeds").is_dir()), None)

MEASURED = {
    "torch": ("2.10.0", "engine.torch"),
    "cuda": ("12.8", "engine.cuda"),
    "precision": ("bfloat16", "engine.dtype"),
    "transformers": ("4.57.1", "engine.transformers"),
    "seed": ("1234", "seed"),
    "batch": ("256", "engine.max_num_seqs"),
    "gpus": ("8 x NVIDIA A100-SXM4-80GB", "hardware.gpus"),
    "engine": ("vllm 0.32.0", "engine.vllm"),
    "model_size": ("36.0B", "engine.num_parameters"),
    "context_size": ("262144", "engine.max_model_len"),
    "chat_template": (TEMPLATE, "prompts/chat_template.jinja"),
    "codebase": (
        "d539716; agro_bench aaaaaaaaaaaa; aqua_bench bbbbbbbbbbbb; med_bench sha256:cccccccccccc",
        "codebase, datasets",
    ),
}

CONFIGURED = {
    "mera_version": "v1.0.0",
    "model_name": "Qwen3.6-35B-A3B",
    "model_link": "https://huggingface.co/Qwen/Qwen3.6-35B-A3B",
    "model_type": "Opened, SFT, MoE",
    "additional_links": "https://qwen.ai/blog?id=qwen3.6-35b-a3b",
    "license": "Apache license 2.0",
}


def headings(markdown: str, level: str) -> list[str]:
    return [after.content for token, after in pairwise(MarkdownIt().parse(markdown)) if token.tag == level]


def block_under(markdown: str, title: str) -> list[str]:
    """Return the contents of the code blocks under a field's heading, as a CommonMark parser reads them."""
    inside, blocks, before = False, [], ""
    for token in MarkdownIt().parse(markdown):
        if before == "heading_open":
            inside = title in token.content
        elif token.type == "fence" and inside:
            blocks.append(token.content.removesuffix("\n"))
        before = token.type
    return blocks


def test_every_field_of_both_documents_is_in_the_card(carded: Carded) -> None:
    card = carded.write()
    assert {entry["ru"] for entry in card["fields"].values()} >= set(RUSSIAN)
    assert {entry["en"] for entry in card["fields"].values()} >= set(ENGLISH)
    titles = headings(carded.markdown, "h3")
    for entry in card["fields"].values():
        assert f"{entry['ru']} · {entry['en']}" in titles
    for domain in ("Сельское хозяйство", "Медицина и здравоохранение"):
        assert {f"Результат: {domain}", f"Место в рейтинге: {domain}"} <= {e["ru"] for e in card["fields"].values()}


@pytest.mark.skipif(SEEDS is None, reason="the two documents are not here")
def test_the_documents_hold_no_other_field() -> None:
    assert SEEDS is not None
    english, russian = (path.read_text(encoding="utf-8") for path in sorted(SEEDS.iterdir()))
    for text, fields in ((english, ENGLISH), (russian, RUSSIAN)):
        lines = [line.strip().rstrip(":") for line in text.splitlines()]
        for name in fields:
            assert any(line == name or f" {name} " in line for line in lines), name
        labels = {line for line in lines if re.fullmatch(r"[A-ZА-Я][^.;{]{2,40}", line)}
        values = {"MERA", "SFT", "MoE", "Opened", "Открытая", "Qwen3.6-35B-A3B"}
        values |= {"Сельское хозяйство 0.646 4", "Медицина и здравоохранение 0.858 1"}
        unknown = {line for line in labels - NO_FIELDS - values - set(fields) if not re.search(r"\d", line)}
        assert unknown <= {"Apache license"}


@pytest.mark.skipif(SEEDS is None, reason="the two documents are not here")
def test_the_card_of_the_reference_run_has_the_documents_values(carded: Carded) -> None:
    assert SEEDS is not None
    english, russian = (path.read_text(encoding="utf-8") for path in sorted(SEEDS.iterdir()))
    found = carded.values()
    for name in ("precision", "transformers", "gpus", "model_name", "license", "generation", "additional_links"):
        assert found[name] in english.splitlines(), name
    for name in ("mera_version", "torch", "cuda", "seed", "model_link", "model_size", "context_size"):
        assert any(found[name] == line or line.startswith(str(found[name])) for line in russian.splitlines()), name


@pytest.mark.parametrize("name", MEASURED)
def test_what_the_run_knows_is_measured(carded: Carded, name: str) -> None:
    entry = carded.write()["fields"][name]
    assert (entry["value"], entry["origin"], entry["source"]) == (*MEASURED[name], "measured")


@pytest.mark.parametrize("name", CONFIGURED)
def test_what_a_run_cannot_measure_comes_from_the_configuration(carded: Carded, name: str) -> None:
    entry = carded.write()["fields"][name]
    assert (entry["value"], entry["origin"], entry["source"]) == (CONFIGURED[name], f"submission.{name}", "configured")


def test_nothing_is_invented(carded: Carded) -> None:
    carded.content, carded.template = {}, None
    card = carded.write("submission.describes=another/model", "submission.team=null", "submission.mera_version=null")
    known = {name: entry["value"] for name, entry in card["fields"].items() if entry["source"] != "todo"}
    assert known == {"seed": "1234", "engine": "vllm", "generation": card["fields"]["generation"]["value"]}
    unknown = [entry for entry in card["fields"].values() if entry["source"] == "todo"]
    assert len(unknown) == 24
    assert all(entry["value"] is None for entry in unknown)
    assert block_under(carded.markdown, "Torch") == ["TODO"]
    assert "- Команда · Team: `submission.team`\n" in carded.markdown
    by_site = {"created", "rank.agriculture", "rank.medicine", "score.agriculture", "score.medicine"}
    for name in by_site:
        assert card["fields"][name]["note"], name
    without_key = {name for name in card["todo"] if "key" not in card["fields"][name]}
    assert without_key == by_site | {"codebase", "batch"}


@pytest.mark.parametrize("is_known", [True, False])
def test_a_field_has_either_a_value_or_a_todo(carded: Carded, is_known: bool) -> None:
    if not is_known:
        carded.content, carded.template = {}, None
    carded.scores = [domain_score("agriculture", 0.5, 120, 120)]
    card = carded.write()
    for name, entry in card["fields"].items():
        is_todo = name in card["todo"]
        assert (entry["value"] is None, entry["source"] == "todo", "origin" not in entry) == (is_todo,) * 3, name
        assert (block_under(carded.markdown, f"{entry['ru']} · {entry['en']}")[-1] == "TODO") == is_todo, name
        assert not ("key" in entry and not is_todo), name
    assert {"created", "rank.agriculture", "rank.medicine", "score.medicine"} <= set(card["todo"])
    assert "score.agriculture" not in card["todo"]


def test_the_log_names_only_what_people_can_fill_in(carded: Carded) -> None:
    card = carded.write()
    left = write_card(
        carded.store, compose(["conf=mera", "run_id=night"]), load(carded.content | {"status": "complete"})
    )
    assert left == [name for name in card["todo"] if "key" in card["fields"][name]]
    assert not set(left) & {"created", "rank.medicine", "score.medicine"}


def test_unmeasured_values_can_be_configured_and_a_measurement_wins(carded: Carded) -> None:
    overrides = ["submission.unmeasured.cuda=12.10", "submission.unmeasured.gpus=8 x A"]
    assert carded.values(*overrides)["cuda"] == "12.8"
    carded.content["engine"], carded.content["hardware"] = {}, {}
    card = carded.write(*overrides)["fields"]
    assert (card["cuda"]["value"], card["cuda"]["source"]) == ("12.10", "configured")
    assert (card["gpus"]["value"], card["torch"]["value"]) == ("8 x A", None)


def test_the_description_of_one_model_is_not_used_for_another(carded: Carded) -> None:
    card = carded.write("model.path=me/mine")["fields"]
    assert (card["model_name"]["value"], card["model_link"]["value"]) == ("mine", "https://huggingface.co/me/mine")
    for name in ("license", "training_description", "model_type", "additional_links"):
        assert (card[name]["value"], card[name]["key"]) == (None, f"submission.{name}")
    assert card["architecture_description"]["value"] == (
        "Qwen3_5MoeForConditionalGeneration: layers 40, hidden size 2048, experts 256"
    )
    assert (card["team"]["value"], card["mera_version"]["value"]) == (None, "v1.0.0")


def test_a_model_from_a_directory_has_no_measured_name(carded: Carded) -> None:
    del carded.content["datasets"]["model_revision"]
    found = carded.values("model.path=models/mine")
    assert (found["model_name"], found["model_link"]) == (None, None)


def test_each_language_has_its_own_value_where_the_form_has(carded: Carded) -> None:
    carded.write()
    assert block_under(carded.markdown, "Model type") == ["Открытая, SFT, MoE", "Opened, SFT, MoE"]


def test_modified_files_are_reported_with_the_commit(carded: Carded) -> None:
    carded.content["codebase"] = {"commit": COMMIT, "modified": True}
    assert str(carded.values()["codebase"]).startswith("d539716+modified; ")
    carded.content["codebase"] = None
    assert str(carded.values()["codebase"]).startswith("pipeline 0.1.0; ")


def test_different_values_of_replicas_are_all_listed(carded: Carded) -> None:
    carded.content["engine"]["host-7"]["torch"] = "2.11.0"
    assert carded.values()["torch"] == "2.10.0, 2.11.0"


def test_quantized_weights_are_not_bfloat16(carded: Carded) -> None:
    for facts in carded.content["engine"].values():
        facts["quantization"] = "fp8"
        del facts["num_parameters"]
    card = carded.write()["fields"]
    assert card["precision"]["value"] == "fp8 (computed in bfloat16)"
    assert (card["model_size"]["value"], card["model_size"]["source"]) == ("36.0B", "configured")


@pytest.mark.parametrize(("number", "size"), [(35_951_822_704, "36.0B"), (572_864, "572.9K"), (7_000_000, "7.0M")])
def test_parameters_are_counted_as_the_form_shows_them(carded: Carded, number: int, size: str) -> None:
    for facts in carded.content["engine"].values():
        facts["num_parameters"] = number
    assert carded.values()["model_size"] == size


def test_a_cpu_has_neither_cuda_nor_gpus(carded: Carded) -> None:
    facts = {"device": "cpu", "torch": "2.13.0+cpu", "dtype": "float32"}
    carded.content |= {"engine": {"host": facts}, "hardware": {"gpus": []}}
    assert (carded.values()["cuda"], carded.values()["gpus"]) == ("none", "0 (CPU)")
    assert block_under(carded.markdown, "CUDA") == ["нет", "none"]
    facts["cuda"] = "12.8"  # torch for CUDA, used on a machine without a GPU
    assert carded.values()["cuda"] == "12.8"


def test_only_what_an_endpoint_reports_is_measured(carded: Carded) -> None:
    facts = {"base_url": "http://10.0.0.1/v1", "served_model": "q", "max_model_len": 4096, "server": "vllm 0.32.0"}
    carded.content |= {"engine": {"host": facts}, "hardware": {"gpus": None}}
    carded.template = None
    del carded.content["datasets"]["chat_template_sha256"]
    overrides = ["engine.kind=endpoint", "engine.endpoint.base_url=http://10.0.0.1/v1"]
    card = carded.write(*overrides)
    known = {name: entry["value"] for name, entry in card["fields"].items() if entry["source"] == "measured"}
    assert known == {
        "codebase": MEASURED["codebase"][0],
        "seed": "1234",
        "batch": "1",
        "engine": "local-chat-completions",
        "generation": card["fields"]["generation"]["value"],
        "context_size": "4096",
        "model_name": "q",
    }
    assert "generation_config.json" in card["fields"]["generation"]["note"]["en"]
    assert (card["beyond"]["server"]["value"], card["beyond"]["served_model"]["value"]) == ("vllm 0.32.0", "q")
    assert "10.0.0.1" not in carded.markdown  # the address of a private server is not published


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 'do_sample=false;until=["<|im_end|>"];max_gen_toks=10000;'),
        (["generation.until=[]"], "do_sample=false;until=[];max_gen_toks=10000;"),
        (['generation.until=["ё;","\\n"]'], 'do_sample=false;until=["ё;","\\n"];max_gen_toks=10000;'),
        (
            ["generation.do_sample=true", "generation.temperature=0.6", "generation.top_p=0.95", "generation.top_k=20"],
            'do_sample=true;until=["<|im_end|>"];max_gen_toks=10000;temperature=0.6;top_p=0.95;top_k=20;',
        ),
        (
            ["generation.do_sample=true", "generation.repeats=4"],
            'do_sample=true;until=["<|im_end|>"];max_gen_toks=10000;temperature=1.0;top_p=1.0;repeats=4;',
        ),
        (["generation.temperature=0.6"], 'do_sample=false;until=["<|im_end|>"];max_gen_toks=10000;'),
    ],
)
def test_only_the_effective_sampling_is_listed_in_the_forms_notation(
    carded: Carded, overrides: list[str], expected: str
) -> None:
    assert carded.values("only=[med_bench]", *overrides)["generation"] == f"med_bench - {expected}"


def test_the_tasks_are_on_one_line_as_published(carded: Carded) -> None:
    text = str(carded.values()["generation"])
    assert [line.split(" - ")[0] for line in text.split("\\n")] == ["agro_bench", "aqua_bench", "med_bench"]
    assert "\n" not in text


def test_a_run_without_the_template_text_identifies_it_by_its_hash(carded: Carded) -> None:
    carded.template = None
    assert carded.values()["chat_template"] == f"the model's own, SHA-256 {'f' * 64}"
    assert carded.values("prompt.chat_template=mine.jinja")["chat_template"] is None


def test_fields_that_the_form_lacks_follow_it(carded: Carded) -> None:
    carded.content |= {"model_fingerprint": "sha256:1", "template_fingerprint": "sha256:2"}
    overrides = ["limit=20", "only=[med_bench]", "splits=[train]", "prompt.system=Отвечай буквой."]
    beyond = {name: entry["value"] for name, entry in carded.write(*overrides)["beyond"].items()}
    assert beyond["coverage"] == 'limit=20; splits=["train"]; only=["med_bench"]'
    assert (beyond["template_kwargs"], beyond["reasoning_parser"]) == ('{"enable_thinking": true}', "qwen3")
    assert (beyond["system_prompt"], beyond["model_revision"]) == ("Отвечай буквой.", "e" * 40)
    assert (beyond["model_fingerprint"], beyond["template_fingerprint"]) == ("sha256:1", "sha256:2")
    assert beyond["data_revisions"].splitlines()[2] == f"med_bench: sha256:{'c' * 64}"
    assert "coverage" not in carded.write()["beyond"]


class TestResults:
    AGRICULTURE, MEDICINE = "score.agriculture", "score.medicine"

    def test_known_golds_give_the_domains_score(self, carded: Carded) -> None:
        carded.scores = [domain_score("agriculture", 0.64649, 120, 120), domain_score("medicine", 0.5, 60, 60)]
        card = carded.write()["fields"]
        assert (card[self.AGRICULTURE]["value"], card[self.MEDICINE]["value"]) == ("0.646", "0.500")
        assert card[self.MEDICINE]["source"] == "measured"
        assert card["rank.medicine"]["value"] is None

    @pytest.mark.parametrize(
        ("row", "overrides"),
        [
            (domain_score("agriculture", None, 120, 0), []),
            (domain_score("agriculture", 0.6, 120, 119), []),
            (domain_score("agriculture", 0.6, 120, 120), ["limit=20"]),
            (domain_score("agriculture", 0.6, 120, 120), ["only=[agro_bench,med_bench]"]),
            (domain_score("agriculture", 0.6, 120, 120), ["splits=[train]"]),
            (domain_score("agriculture", 0.6, 120, 120), ["announced=true"]),
            (domain_score("agriculture", 0.6, 120, 120) | {"split": "train"}, []),
            (domain_score("agriculture", 0.6, 120, 120) | {"metric": "correct"}, []),
            (domain_score("agriculture", 0.6, 120, 120) | {"level": "task"}, []),
        ],
    )
    def test_anything_less_than_the_whole_test_is_not_stated(
        self, carded: Carded, row: dict[str, Any], overrides: list[str]
    ) -> None:
        carded.scores = [row]
        entry = carded.write(*overrides)["fields"][self.AGRICULTURE]
        assert (entry["value"], entry["source"]) == (None, "todo")

    def test_a_custom_domain_appears_under_its_key(self, carded: Carded) -> None:
        carded.scores = [domain_score("law", 0.25, 4, 4)]
        card = carded.write("tasks.law_bench={dataset: x, domain: law}", "only=[law_bench]")["fields"]
        assert (card["score.law"]["value"], card["score.law"]["ru"]) == ("0.250", "Результат: law")


HOSTILE = [
    "```\n# Взлом\n```",
    "````text\n~~~\n`````",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "<script>alert(1)</script>\n</details><!--",
    "a\r\n## b\r# c",
    "\n\n---\n\n===\n- [x](javascript:alert(1))",
    "a\u2028# b\u2029\u202e# c\x00\x1b[31m\x85",
    "\ud800 and \udfff",
    "{{ 7 * 7 }} ${HOME} %s {0}",
    "`" * 200,
]


def with_text(text: str) -> dict[str, Any]:
    """Return all configured texts of the submission, set to `text`."""
    people = {"team": text, "mera_version": text, "model_name": text, "license": text, "training_description": text}
    return {**people, "architecture_description": text, "model_type": (text,), "model_link": text}


@cache
def reference() -> Config:
    return compose(["conf=mera", "run_id=night"])


@cache
def harmless_shape() -> list[tuple[str, str]]:
    return shape(card_of("harmless")[0])


def card_of(text: str) -> tuple[str, dict[str, Any]]:
    """Return card.md and card.json of a run all of whose texts are `text`."""
    config = reference()
    submission = replace(config.submission, **with_text(text))
    config = replace(config, submission=submission, prompt=replace(config.prompt, system=text))
    with tempfile.TemporaryDirectory() as store:
        carded = Carded(ArtifactStore.open(store), template=None)
        for facts in carded.content["engine"].values():
            facts |= {"torch": text, "dtype": text, "vllm": text, "served_model": text, "num_parameters": 1}
        carded.content["hardware"] = {"gpus": [text]}
        carded.content["datasets"]["chat_template_sha256"] = text
        card = carded.write_of(config)
        return carded.markdown, card


def shape(markdown: str) -> list[tuple[str, str]]:
    """Return the structure of a document: everything except the contents of code blocks."""
    return [(token.type, "" if token.type == "fence" else token.content) for token in MarkdownIt().parse(markdown)]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_leaves_its_block(at_root: Path, text: str) -> None:
    assert at_root
    markdown, card = card_of(text)
    assert shape(markdown) == harmless_shape()
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert card["fields"]["team"]["value"] == whole
    block = block_under(markdown, "Команда")[0]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", block)
    assert block.split() == re.sub(r"[\x00\x1b\x85\u2028\u2029\u202e]", "\ufffd", whole).split()


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.sampled_from("`~#|<>\\-=*_[]()!&\n\r\t\x0b\x0c \u2028aб"), min_size=1, max_size=60))
def test_no_text_whatever_leaves_its_block(text: str) -> None:
    assert shape(card_of(f"x{text}x")[0]) == harmless_shape()


def test_card_json_and_card_md_have_the_same_values(carded: Carded) -> None:
    card = carded.write()
    for entry in [*card["fields"].values(), *card["beyond"].values()]:
        blocks = block_under(carded.markdown, f"{entry['ru']} · {entry['en']}")
        expected = [entry.get("value_ru"), entry["value"] or "TODO"]
        assert blocks == [text for text in expected if text is not None], entry


def test_fields_beyond_the_form_have_unique_names() -> None:
    assert len({field.name for field in BEYOND}) == len(BEYOND)


def test_the_card_is_the_same_each_time(carded: Carded) -> None:
    carded.write()
    before = carded.markdown, carded.store.read_text("card.json")
    carded.write()
    assert (carded.markdown, carded.store.read_text("card.json")) == before
    assert json.loads(before[1])["run_id"] == "night"
