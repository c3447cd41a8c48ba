"""Configurations compose, and every error is one line that names the key, the value and the fix."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import ENDPOINT
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.fields import SATISFIES
from pipeline.config.loading import compose, describe, dump, flat, load, origins
from pipeline.errors import ConfigError

pytestmark = pytest.mark.usefixtures("at_root")

BAD = [
    (["conf=demo", "modle.path=x"], "modle: there is no such key. Did you mean: 'model'"),
    (["conf=demo", "model=/x"], "model='/x': must be a mapping, such as model.path=..."),
    (["conf=demo", "tasks=x"], "tasks='x': must be a mapping, such as tasks={a: 1}"),
    (["conf=demo", "model.path.x=3"], "model.path.x: model.path is no section: give model.path= text or null"),
    (["conf=demo", "splits.0=test"], "splits.0: splits is no section"),
    (["conf=demo", "splits={a: 2}"], r"splits=\{a: 2\}: must be a list, such as"),
    (["conf=demo", "only=[a"], r"only=\[a is not YAML: line 1: "),
    (["conf=demo", "limit=1.5"], "limit='1.5': must be a whole number or null"),
    (["conf=demo", "limit=true"], "limit='true': must be a whole number or null"),
    (["conf=demo", "generation.do_sample=maybe"], "generation.do_sample='maybe': must be true or false"),
    (["conf=demo", "engine.replicas=1.5"], "engine.replicas='1.5': must be auto or a number from 1"),
    (["conf=demo", "engine.extra=3"], "engine.extra='3': must be a mapping"),
    (["conf=demo", "engine.extra.a={b: 1, b: 2}"], "engine.extra.a={b: 1, b: 2} is not YAML: line 1: b is given twice"),
    (["conf=demo", "output_dir=null"], "output_dir='null': must be text"),
    (["conf=demo", "output_dir=a\udcffb"], "output_dir=.* is not Unicode text"),
    (["conf=demo", f"max_failed_rows={10**30}"], rf"max_failed_rows={10**30}: must be at most {2**63 - 1}"),
    (["conf=demo", f"engine.extra.a.b=[{10**30}]"], rf"engine.extra.a.b={10**30}: must be at most"),
    (["conf=demo", "prompt.template_kwargs={a: {b: .nan}}"], "prompt.template_kwargs.a.b=nan: must be a finite number"),
    (["conf=demo", "engine.endpoint.extra_body={a: .inf}"], "engine.endpoint.extra_body.a=inf: must be a finite"),
    (
        ["conf=demo", "engine.endpoint.price.input_per_million=inf"],
        "input_per_million=inf: must be from 0 to 1000000000",
    ),
    (["conf=demo", "engine.endpoint.requests_per_minute=1e-320"], "must be from 0.001 to 1e9 a minute"),
    (["conf=mer"], "conf='mer': no such configuration. Did you mean: 'mera'"),
    (["conf=conf/nowhere.yaml"], "no such configuration"),
    (["limit=3"], "conf= must be given once; there are: .*demo.*mera"),
    (["conf=demo", "conf=mera"], "conf= must be given once"),
    (["conf=demo", "limit"], "'limit' is not key=value"),
    (["conf=demo", "engine.repliccas=2"], "engine.repliccas: .*Did you mean: 'replicas'"),
    (["conf=demo", "limt=1"], "limt: .*Did you mean.*'limit'"),
    (["conf=demo", "qqqq=red"], "qqqq: .*python -m pipeline.run --help"),
    (["conf=demo", "tasks.agro_bench.datset=x"], "tasks.agro_bench.datset: .*Did you mean: 'dataset'"),
    (["conf=demo", "limit=many"], "limit='many': must be a whole number or null"),
    (["conf=demo", "limit=-1"], "limit=-1: must be null or at least 1"),
    (["conf=demo", "seed=-5"], "seed=-5"),
    (["conf=demo", "splits=[dev]"], r"splits=\['dev'\]: only train and test"),
    (["conf=demo", "splits=[]"], r"splits=\[\]: name at least one"),
    (["conf=demo", "splits=[test,test]"], "names a split twice"),
    (["conf=demo", "run_id=a/b"], "run_id='a/b'"),
    (["conf=demo", "run_id=.."], r"run_id='\.\.'"),
    (["conf=demo", "output_dir=s3://key:word@bucket/x"], "output_dir holds credentials"),
    (["conf=demo", "engine.kind=llama"], "engine.kind='llama': must be one of vllm, endpoint"),
    (["conf=demo", "engine.replicas=0"], "engine.replicas=0: must be auto or a number from 1"),
    (["conf=demo", "engine.replicas=all"], "engine.replicas='all'"),
    (["conf=demo", "engine.tensor_parallel_size=0"], "engine.tensor_parallel_size=0"),
    (["conf=demo", "engine.gpu_memory_utilization=1.5"], "engine.gpu_memory_utilization=1.5"),
    (["conf=demo", "engine.kind=endpoint"], "engine.endpoint.base_url=None: give the server's address"),
    (
        ["conf=demo", "engine.endpoint.base_url=http://x/"],
        "engine.endpoint.base_url='http://x/': has no path: add that of the API, usually /v1",
    ),
    (["conf=demo", "engine.endpoint.base_url=ftp://x/v1"], "must be http"),
    (["conf=demo", "engine.endpoint.base_url=http://me:pw@x/v1"], "holds credentials"),
    (["conf=demo", "generation.max_gen_toks=0"], "generation.max_gen_toks=0"),
    (["conf=demo", "generation.max_gen_toks=99999"], "generation.max_gen_toks=99999: must be below model.context_size"),
    (["conf=demo", "generation.temperature=0"], "generation.temperature=0.0: .*do_sample=false"),
    (["conf=demo", "generation.top_p=2"], "generation.top_p=2.0"),
    (["conf=demo", "generation.until=['']"], "an empty stop string"),
    (
        ["conf=demo", "model.path=null"],
        "model.path=None: give model.path=<directory or hub id>, or for a server .* engine.kind=endpoint",
    ),
    (["conf=demo", "tasks.new.dataset=x"], "tasks.new.domain=''"),
    (["conf=demo", "tasks.agro_bench.submission_name=../x"], "tasks.agro_bench.submission_name='../x'"),
    (["conf=demo", "tasks.agro_bench.prompt_fields=[outputs]"], "tasks.agro_bench.prompt_fields='outputs'"),
    (["conf=demo", "seed=???"], r"seed='\?\?\?' has no value"),
    (
        ["conf=demo", "cluster.address=ray://h:10001"],
        "cluster.address='ray://h:10001': must be local, auto or host:port",
    ),
    (["conf=demo", "cluster.wait_s=-1"], "cluster.wait_s=-1.0: must be from 0 to 604800 seconds"),
    (["conf=demo", "cluster.label_selector={z: 'in(a, b)'}"], "cluster.label_selector.z='in\\(a, b\\)': write {ray.io"),
    (["conf=demo", "cluster.label_selector={a b: c}"], "cluster.label_selector.a b='c': a label's name is letters"),
    (["conf=demo", "limit="], "limit= has no value"),
    (["conf=demo", "only=[agro]"], r"only=\['agro'\]: there are agro_bench, aqua_bench"),
    (["conf=demo", "run.grace_s=inf"], "run.grace_s=inf: must be from 0 to 86400"),
    (["conf=demo", "generation.repeats=2147483648"], "generation.repeats=2147483648"),
    (["conf=demo", "generation.repeats=many"], "generation.repeats='many': must be a number, or numbers by split"),
    (["conf=demo", "generation.repeats=1.5"], "generation.repeats=1.5: must be a number"),
    (["conf=demo", "generation.repeats=null"], "generation.repeats=None: must be a number"),
    (["conf=demo", "generation.repeats={train: 0}"], "generation.repeats.train=0: must be from 1 to 10000"),
    (["conf=demo", "generation.repeats={dev: 2}"], "generation.repeats={'dev': 2}: must be a number, or numbers by"),
    (["conf=demo", "generation.repeats={train: {test: 1}}"], "generation.repeats={'train': {'test': 1}}: must be"),
    (["conf=demo", "engine.endpoint.base_url=http://[::1/v1"], "is no URL"),
    (["conf=demo", "engine.endpoint.base_url=http:///v1"], r"must be http\(s\)"),
    (["conf=demo", "engine.endpoint.api_key_env=sk-123"], "give the name, never the key"),
    (["conf=demo", "engine.extra.model=other"], "engine.extra.model='other': has a key of its own"),
    (["conf=demo", "engine.extra.data_parallel_size=2"], "engine.extra.data_parallel_size=2: copies of a model are"),
    (["conf=demo", "run_id=latest"], "run_id='latest': elsewhere means the newest run"),
    (["conf=demo", "output_dir=s3://bucket/x?X-Amz-Signature=abc"], "output_dir holds credentials"),
    (["conf=demo", "output_dir=abfs://c@a.dfs/x?sig=abc"], "output_dir holds credentials"),
    (["conf=demo", "submission.model_link=https://x/y?hidden"], "submission.model_link holds credentials"),
    (["conf=demo", "engine.extra.hf_overrides={a: [{apiKey: abc}]}"], "a secret would be written into the run"),
    (["conf=demo", "engine.extra.url=s3://me:pw@x/y"], "engine.extra.url holds credentials"),
    (["conf=demo", "prompt.template_kwargs={a: {password: abc}}"], "a secret would be written into the run"),
    (["conf=demo", "prompt.template_kwargs.x=sk-0123456789abcdef"], "a secret would be written into the run"),
    (["conf=demo", "engine.extra.hf_token=abc"], "engine.extra.hf_token: a secret would be written into the run"),
    (["conf=demo", "tasks.agro_bench.prompt_fields=[]"], "tasks.agro_bench.prompt_fields"),
    (["conf=demo", "engine.extra=[1"], r"engine.extra=\[1 is not YAML: line 1: "),
    (["conf=demo", "submission.tema=x"], "submission.tema: .*Did you mean: 'team'"),
    (["conf=demo", "submission.team= "], "submission.team=' ': give some text, or null"),
    (["conf=demo", "submission.additional_links=['']"], "submission.additional_links='': give some text, or null"),
    (["conf=demo", "submission.unmeasured.gpu=8"], "submission.unmeasured.gpu: .*Did you mean: 'gpus'"),
    (["conf=demo", "submission.model_link=https://me:pw@x/y"], "submission.model_link holds credentials"),
    (["conf=demo", "submission.additional_links=['https://x/?token=1']"], "additional_links holds credentials"),
    (["conf=demo", "report.reference={d: {e: 1}}"], r"report.reference.d=\{e: 1\}: must be a number"),
    (["conf=demo", "prompt.expected_fingerprint=abc"], "prompt.expected_fingerprint='abc': must be null, or sha256:"),
    (["conf=demo", "prompt.fingerprint_policy=ask"], "prompt.fingerprint_policy='ask': must be one of error, warn"),
    (
        ["conf=demo", *ENDPOINT, "prompt.chat_template=t.jinja"],
        "prompt.chat_template='t.jinja': a server renders: start it with this template",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_an_invalid_argument_is_reported_in_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        compose(arguments)
    assert "\n" not in str(caught.value)


def test_repeats_are_a_number_or_numbers_by_split() -> None:
    for value, expected in (("3", (3, 3)), ("{train: 4, test: 1}", (4, 1)), ("{train: 4}", (4, 1)), ("{}", (1, 1))):
        config = compose(["conf=demo", f"generation.repeats={value}"])
        assert load(dump(config), "config.yaml") == config
        by_split = config.generation.repeats_by_split
        assert (by_split["train"], by_split["test"]) == expected
    assert compose(["conf=demo", "generation.repeats={train: 4}"]).generation.repeats_text == "{train: 4}"


def fields_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Yield every field of a configuration and its sections, with its full key."""
    for item in fields(section):
        name, value = prefix + item.name, getattr(section, item.name)
        if is_dataclass(value):
            yield from fields_of(value, f"{name}.")
        elif name == "tasks":
            yield from fields_of(value["agro"], "tasks.agro.")
        else:
            yield name, item


def outside(bound: str, limit: Any, whole: bool) -> Any:
    """Return the nearest value that violates a bound."""
    match bound:
        case "at_least":
            return limit - 1 if whole else math.nextafter(limit, -math.inf)
        case "at_most":
            return limit + 1 if whole else math.nextafter(limit, math.inf)
        case "above" | "below":
            return limit if whole else float(limit)
        case "pattern":
            return next(text for text in ("", " ") if not re.fullmatch(limit, text))


SMALLEST = "tasks: {agro: {dataset: x, domain: d}}\nmodel: {path: m, context_size: 20000}\n"
FIELDS = list(fields_of(load(SMALLEST, "test")))
BOUNDS = [(name, item, bound, limit) for name, item in FIELDS for bound, limit in item.metadata["bounds"].items()]


@pytest.mark.parametrize(("name", "item", "bound", "limit"), BOUNDS, ids=[f"{row[0]} {row[2]}" for row in BOUNDS])
def test_a_value_just_outside_a_bound_is_refused(name: str, item: Field[Any], bound: str, limit: Any) -> None:
    is_whole = re.match(r"int\b", item.type) is not None or (item.type == "Any" and isinstance(item.default, int))
    value = outside(bound, limit, is_whole)
    values: Any = yaml.safe_load(SMALLEST)
    *sections, last = name.split(".")
    within = values
    for section in sections:
        within = within.setdefault(section, {})
    if item.type.startswith("dict"):
        within[last], name = {"a": value}, f"{name}.a"
    else:
        within[last] = [value] if item.type.startswith("tuple") else value
    with pytest.raises(ConfigError) as caught:
        load(yaml.safe_dump(values), "test")
    assert str(caught.value) == f"test: {name}={value!r}: {item.metadata['fix']}"


def test_every_number_has_a_bound_and_every_bound_is_tested() -> None:
    numbers = {name for name, item in FIELDS if re.search(r"\b(int|float)\b", item.type)}
    assert numbers - {name for name, *_ in BOUNDS} == {"engine.replicas"}  # a number or auto: checked by code
    assert {bound for _, _, bound, _ in BOUNDS} == set(SATISFIES)
    assert SATISFIES["at_least"](1, 1)
    assert SATISFIES["at_most"](1, 1)


def test_conf_mera_is_the_reference_run() -> None:
    config = compose(["conf=mera"])
    assert list(config.active_tasks) == ["agro_bench", "aqua_bench", "med_bench"]
    assert (config.seed, config.splits) == (1234, ("train", "test"))
    assert (config.model.path, config.model.dtype, config.model.context_size) == (
        "Qwen/Qwen3.6-35B-A3B",
        "bfloat16",
        262144,
    )
    generation = config.generation
    assert (generation.do_sample, generation.until, generation.max_gen_toks) == (False, ("<|im_end|>",), 10000)
    assert (config.prompt.template_kwargs, config.reasoning_parser) == ({"enable_thinking": True}, "qwen3")
    assert (config.engine.replicas, config.engine.tensor_parallel_size, config.engine.max_num_seqs) == (4, 2, 256)
    assert (config.engine.extra["enable_prefix_caching"], config.cluster.address) == (False, None)
    assert config.engine.extra["language_model_only"] is True
    submission = config.submission
    assert (submission.team, submission.mera_version, submission.describes) == (None, "v1.0.0", config.model.path)
    assert config.tasks["med_bench"].strip
    assert config.tasks["med_bench"].prompt_fields == ("inputs",)


def test_the_value_of_a_text_key_is_taken_literally() -> None:
    for text in ("0123", "1e3", "1_0", "2026-11-21", "true"):
        assert compose(["conf=demo", f"run_id={text}"]).run_id == text
    assert compose(["conf=demo", "tasks.agro_bench.revision=123e4"]).tasks["agro_bench"].revision == "123e4"
    assert compose(["conf=demo", "model.revision=null"]).model.revision is None


def test_only_selects_one_task() -> None:
    assert list(compose(["conf=mera", "only=[med_bench]"]).active_tasks) == ["med_bench"]


def test_announced_true_adds_the_announced_tasks() -> None:
    config = compose(["conf=mera", "announced=true"])
    assert len(config.active_tasks) == 11
    assert config.active_tasks["etmlu_bench"].train_split == "dev"


def test_the_last_layer_wins(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: [demo, cluster/a100x8]\nlimit: 5\nseed: 7\n")
    config = compose([f"conf={tmp_path}/mine.yaml", "seed=8"])
    assert (config.limit, config.seed, config.engine.tensor_parallel_size, config.conf) == (5, 8, 2, "mine")


def test_conf_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert origins(["conf=demo"])["generation.max_gen_toks"] == "conf/demo.yaml"


def test_circular_bases_are_reported_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "round.yaml"
    file.write_text(f"base: [{file}]\n")
    with pytest.raises(ConfigError, match="base: goes round in a circle"):
        compose([f"conf={file}"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "is not YAML"),
        ("- 1\n", "must hold keys and values"),
        ("limit: 5\nlimit: 6\n", "bad.yaml is not YAML: line 2: limit is given twice"),
        ("engine: {kind: vllm, kind: endpoint}\n", "bad.yaml is not YAML: line 1: kind is given twice"),
        ("modle: {path: x}\n", "bad.yaml: modle: there is no such key. Did you mean: 'model'"),
        ("limit: many\n", "bad.yaml: limit='many': must be a whole number or null"),
        ("engine.kind: vllm\n", "bad.yaml: engine.kind: there is no such key. Did you mean"),
        ("model: x\n", "bad.yaml: model='x': must be a mapping, such as model.path="),
        ("seed: !!set {1}\n", "bad.yaml is not YAML: line 1: the tag .*:set is not allowed"),
        ("engine: {extra: {a: !!binary aGk=}}\n", "bad.yaml is not YAML: line 1: the tag .*:binary is not allowed"),
        ("engine: {extra: {a: " + "[" * 3000 + "]" * 3000 + "}}\n", "bad.yaml is not YAML: .*too deep|deeper than"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{key}: &{key} [{', '.join(['*' + before] * 8)}]\n" for before, key in itertools.pairwise("abcdefghi")
            ),
            "bad.yaml is not YAML: it has more than 100,000 values",
        ),
        ('prompt: {system: "\\ud800"}\n', "bad.yaml is not YAML: line 1: a value is not Unicode text"),
        ('model: {path: "a\\0b"}\n', "bad.yaml is not YAML: line 1: a value is not Unicode text"),
        ("? [a, b]\n: 1\n", "bad.yaml: line 1: a key must be text"),
        ("model: {path: [a, b]}\n", r"bad.yaml: model.path=\[a, b\]: must be text or null"),
        ("splits: null\n", "bad.yaml: splits='null': must be text"),
        ("output_dir:\n", "bad.yaml: output_dir='': must be text"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=line):
        compose([f"conf={tmp_path}/bad.yaml"])


def test_a_recorded_configuration_loads_unchanged() -> None:
    config = compose(["conf=mera", "engine.extra.nested={a: [1, x]}"])
    assert load(dump(config), "config.yaml") == config


def test_every_key_is_described() -> None:
    assert all(meaning for *_, meaning in describe())
    assert {"run_id", "engine.endpoint.api_key_env", "tasks.<name>.strip"} <= {name for name, *_ in describe()}


def test_each_value_has_an_origin() -> None:
    arguments = ["conf=demo", "seed=8", "engine.extra.max_num_batched_tokens=512", "tasks.agro_bench.revision=v1"]
    found, values = origins(arguments), flat(asdict(compose(arguments)))
    for name, value, origin in (
        ("conf", "demo", "command line"),
        ("seed", 8, "command line"),
        ("generation.max_gen_toks", 192, "conf/demo.yaml"),
        ("model.context_size", 1024, "conf/model/demo.yaml"),
        ("tasks.agro_bench.dataset", "data/demo/agro_bench", "conf/tasks/demo.yaml"),
        ("tasks.agro_bench.domain", "agriculture", "conf/tasks/mera_industrial.yaml"),
        ("tasks.agro_bench.revision", "v1", "command line"),
        ("prompt.template_kwargs.enable_thinking", True, "conf/model/demo.yaml"),
        ("engine.extra.enforce_eager", True, "conf/cluster/cpu.yaml"),
        ("engine.extra.max_num_batched_tokens", 512, "command line"),
        ("generation.top_p", 1.0, None),
        ("run.flush_s", 2.0, None),
    ):
        assert (name, values[name], found.get(name)) == (name, value, origin)
    assert found.keys() <= values.keys()


def test_the_origin_is_the_layer_that_wins(tmp_path: Path) -> None:
    (tmp_path / "piece.yaml").write_text("limit: 5\nseed: 7\nsplits: [train]\n")
    (tmp_path / "mine.yaml").write_text(f"base: [demo, {tmp_path}/piece.yaml]\nseed: 9\n")
    found = origins([f"conf={tmp_path}/mine.yaml", "limit=3"])
    assert (found["seed"], found["splits"]) == (f"{tmp_path}/mine.yaml", f"{tmp_path}/piece.yaml")
    assert found["limit"] == "command line"


TYPED = """
base: demo
tasks: {agro_bench: {revision: 0123456}}
submission: {mera_version: 1.10, team: no, model_type: Opened, additional_links: [https://x/1.0]}
only: agro_bench
splits: [train]
seed: 010
limit: 1_000
engine: {replicas: 2, gpu_memory_utilization: 1e-1, extra: {a: 010, b: 1e3, c: no, d: 2026-11-28, e: "1", f: ~}}
prompt: {system: "price ${x} \\\\${y} {0} %s"}
"""


def test_a_scalar_of_a_file_is_read_by_its_keys_type(tmp_path: Path) -> None:
    (tmp_path / "typed.yaml").write_text(TYPED)
    config = compose([f"conf={tmp_path}/typed.yaml"])
    assert config.tasks["agro_bench"].revision == "0123456"
    assert (config.submission.mera_version, config.submission.team) == ("1.10", "no")
    assert (config.submission.model_type, config.submission.additional_links) == (("Opened",), ("https://x/1.0",))
    assert (config.only, config.splits) == (("agro_bench",), ("train",))
    assert (config.seed, config.limit, config.engine.replicas) == (10, 1000, 2)
    assert config.engine.gpu_memory_utilization == 0.1
    extra = {name: config.engine.extra[name] for name in "abcdef"}
    assert extra == {"a": 8, "b": 1000.0, "c": False, "d": "2026-11-28", "e": "1", "f": None}
    assert config.prompt.system == r"price ${x} \${y} {0} %s"


def test_one_scalar_on_the_command_line_is_a_list_of_one() -> None:
    config = compose(["conf=demo", "only=med_bench", "splits=test", "submission.model_type=[a, 'b, c']"])
    assert (config.only, config.splits, config.submission.model_type) == (("med_bench",), ("test",), ("a", "b, c"))
    assert compose(["conf=demo", "generation.until=<|im_end|>"]).generation.until == ("<|im_end|>",)


@given(st.text(st.sampled_from("${}x.:\\'\"[]?, \nы"), min_size=1).filter(lambda text: text.strip() and text != "???"))
@settings(max_examples=12, deadline=None)
def test_any_text_survives_the_command_line_and_the_record(text: str) -> None:
    config = compose(["conf=demo", f"prompt.system={text}", f"prompt.template_kwargs={yaml.safe_dump({'a': text})}"])
    assert (config.prompt.system, config.prompt.template_kwargs["a"]) == (text, text)
    assert load(dump(config), "test") == config


def test_the_name_of_a_label_may_have_dots() -> None:
    config = compose(["conf=demo", "cluster.label_selector.ray.io/accelerator-type=A100"])
    assert config.cluster.label_selector == {"ray.io/accelerator-type": "A100"}
