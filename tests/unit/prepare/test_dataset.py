"""Where a task's rows are found, and how its files are read."""

import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.schema import Config, ModelConfig, TaskConfig
from pipeline.errors import DataError
from pipeline.prepare.dataset import find_source, require_unchanged
from pipeline.prepare.dataset_rows import read_rows

BOTH = ("train", "test")


def find(where, splits=BOTH, **keys):
    return find_source("agro", TaskConfig(dataset=str(where), domain="d", **keys), splits)


def ids(source, split):
    return [row["meta"]["id"] for row in read_rows(source, split)]


def read_all(where, splits, **keys):
    source = find(where, splits, **keys)
    for split in splits:
        list(read_rows(source, split))


def message(where, splits=BOTH, **keys):
    with pytest.raises(DataError) as error:
        read_all(where, splits, **keys)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.json", "test.json"),
        ("train.jsonl", "test.jsonl"),
        ("train.parquet", "test.parquet"),
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train/a.jsonl", "test/a.jsonl"),
    ],
)
def test_a_directory_gives_the_splits_that_its_files_are_named_after(tmp_path, make_row, write_rows, train, test):
    write_rows(tmp_path / train, [make_row(1)])
    write_rows(tmp_path / test, [make_row(2), make_row(3)])
    source = find(tmp_path)
    assert (ids(source, "train"), ids(source, "test")) == ([1], [2, 3])


def test_a_directory_gives_the_splits_that_its_readme_declares(tmp_path, make_row, write_rows):
    write_rows(tmp_path / "shots.jsonl", [make_row(1)])
    write_rows(tmp_path / "quiz.jsonl", [make_row(2)])
    files = "\n  - {split: train, path: shots.jsonl}\n  - {split: test, path: quiz.jsonl}\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:{files}---\n")
    assert ids(find(tmp_path), "test") == [2]


def test_the_parts_of_a_split_are_read_in_order(tmp_path, make_row, write_rows):
    for part in (1, 0):
        write_rows(tmp_path / f"data/test-0000{part}-of-00002.parquet", [make_row(part)])
    assert ids(find(tmp_path, ("test",)), "test") == [0, 1]


@pytest.mark.parametrize("name", ["dev.jsonl", "data/dev-00000-of-00001.parquet"])
def test_train_is_the_split_that_train_split_names(tmp_path, make_row, write_rows, name):
    write_rows(tmp_path / name, [make_row(1)])
    write_rows(Path(str(tmp_path / name).replace("dev", "test")), [make_row(2)])
    assert ids(find(tmp_path, train_split="dev"), "train") == [1]


def test_a_glob_gives_each_file_to_the_split_in_its_name(tmp_path, make_row, write_rows):
    write_rows(tmp_path / "agro_train.jsonl", [make_row(1)])
    write_rows(tmp_path / "agro_test-1.parquet", [make_row(2)])
    write_rows(tmp_path / "agro_test-2.json", [make_row(3)])
    source = find(f"{tmp_path}/agro_*")
    assert (ids(source, "train"), ids(source, "test")) == ([1], [2, 3])


def test_a_file_whose_name_contains_glob_characters_is_read(tmp_path, make_row, write_rows):
    assert ids(find(write_rows(tmp_path / "test [1].parquet", [make_row(4)]), ("test",)), "test") == [4]


def test_a_single_file_gives_the_split_in_its_name(tmp_path, make_row, write_rows):
    assert ids(find(write_rows(tmp_path / "test.json", [make_row(4)]), ("test",)), "test") == [4]


def test_a_relative_path_is_relative_to_the_current_directory(dataset, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    assert ids(find("set"), "test") == [2, 3]


def test_the_revision_of_local_files_depends_on_their_bytes_and_not_their_location(
    dataset, tmp_path, make_row, write_rows
):
    before = find(dataset).revision
    assert before.startswith("sha256:")
    assert find(shutil.copytree(dataset, tmp_path / "copy")).revision == before
    write_rows(dataset / "test.jsonl", [make_row(2)])
    assert find(dataset).revision != before


@pytest.mark.parametrize("name", ["test.jsonl", "test.parquet"])
def test_a_changed_file_is_not_served_from_a_cache(tmp_path, make_row, write_rows, name):
    write_rows(tmp_path / name, [make_row(1)])
    assert ids(find(tmp_path, ("test",)), "test") == [1]
    write_rows(tmp_path / name, [make_row(2)])
    assert ids(find(tmp_path, ("test",)), "test") == [2]


def test_json_rows_are_read_unchanged(tmp_path, make_row, write_rows):
    rows = [
        make_row(1, outputs="5", meta={"id": 1, "share": 0.12345678901234566}),
        make_row(2, outputs="2020-01-01", inputs={"question": "а\u2028б", "option_e": "1"}),
        make_row("3", outputs=7, extra=[None]),
    ]
    write_rows(tmp_path / "test.jsonl", rows)
    assert list(read_rows(find(tmp_path, ("test",)), "test")) == rows


def test_a_key_that_only_a_late_row_has_is_read(tmp_path, make_row, write_rows):
    rows = [make_row(i, instruction="х" * 9000) for i in range(700)]  # 12 MB: `datasets` infers types from 10 MB
    rows[-1]["inputs"]["option_h"] = "поздно"
    write_rows(tmp_path / "test.jsonl", rows)
    *_, last = read_rows(find(tmp_path, ("test",)), "test")
    assert last["inputs"]["option_h"] == "поздно"


def test_files_of_one_split_may_differ_in_the_keys_of_inputs(tmp_path, make_row, write_rows):
    for part, key in enumerate(["option_a", "option_b"]):
        write_rows(tmp_path / f"test-0000{part}-of-00002.parquet", [make_row(part, inputs={key: "x"})])
    assert [row["inputs"] for row in read_rows(find(tmp_path, ("test",)), "test")] == [
        {"option_a": "x"},
        {"option_b": "x"},
    ]


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path, make_row):
    line = json.dumps(make_row(1))
    (tmp_path / "test.jsonl").write_text(f"\ufeff\n{line}\n\n{line}\n", encoding="utf-8")
    assert ids(find(tmp_path, ("test",)), "test") == [1, 1]


def test_parquet_is_read_without_loading_its_file_whole(tmp_path, make_row):
    rows = [make_row(i) for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet", row_group_size=1000)
    assert ids(find(tmp_path, ("test",)), "test") == list(range(5000))


def test_a_missing_path_is_reported_with_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in ("data/none", "./none", "none/test.jsonl", "no*"):
        assert message(where) == (
            f"tasks.agro.dataset={where!r}: there is no such file or directory (seen from {tmp_path})"
        )


def test_a_value_that_is_neither_a_path_nor_a_hub_id_is_rejected():
    text = "tasks.agro.dataset='s3://bucket/set': neither a local path that exists nor a hub id like org/name"
    assert message("s3://bucket/set") == text


def test_a_missing_split_is_reported_with_the_existing_ones(tmp_path, make_row, write_rows):
    write_rows(tmp_path / "train.jsonl", [make_row(1)])
    assert message(tmp_path) == (
        f"tasks.agro.dataset='{tmp_path}': there is no split 'test', only train: add it, or take test out of splits"
    )


def test_a_missing_train_split_is_reported_under_the_data_sets_own_name(dataset):
    assert "there is no split 'dev', only test, train: add it, or take train out" in message(dataset, train_split="dev")


def test_a_file_whose_name_has_no_split_is_rejected(tmp_path, make_row, write_rows):
    path = write_rows(tmp_path / "rows.jsonl", [make_row(1)])
    assert message(path) == (
        f"tasks.agro.dataset='{path}': no file's name has its split (rows.jsonl): name it after test or train, "
        "for instance test.jsonl"
    )


def test_a_directory_without_data_is_rejected(tmp_path):
    text = message(tmp_path)
    assert text.startswith(f"tasks.agro.dataset='{tmp_path}': `datasets` finds no splits in {tmp_path} (")
    assert text.endswith("). Name the files <split>.jsonl or <split>.parquet, or give a glob")


def test_an_unsupported_format_is_rejected(tmp_path):
    (tmp_path / "test.csv").write_text("instruction,inputs\n")
    text = f"tasks.agro.dataset='{tmp_path}': {tmp_path}/test.csv is none of .json, .jsonl, .parquet"
    assert message(tmp_path, ("test",)) == text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "test.jsonl",
            b'{"a": 1}\n{"a": \n',
            "cannot be read: line 2 is not a JSON object on one line (Expecting value",
        ),
        (
            "test.json",
            b'{"data": 5}\n{"a": ',
            "cannot be read: line 2 is not a JSON object on one line (Expecting value",
        ),
        ("test.jsonl", b'{"a": NaN}', "cannot be read: line 1 is not a JSON object on one line (NaN is not JSON"),
        ("test.json", b'[{"a": 1},', "cannot be read: Expecting value: line 1 column 11"),
        ("test.json", b"[1, 2]", "holds ints where rows belong"),
        ("test.jsonl", b"\xff\xfe{}", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("test.jsonl", b"[" * 9000, "cannot be read: maximum recursion depth exceeded"),
        ("test.parquet", b"PAR1 and no more", "cannot be read: Parquet magic bytes not found in footer."),
    ],
)
def test_a_damaged_file_is_one_line_with_the_task_and_the_file(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert message(tmp_path, ("test",)).startswith(f"tasks.agro.dataset: {tmp_path}/{name} {reason}")


def test_an_unreachable_hub_is_one_line_without_retries(hub):
    hub.stop()
    start = time.monotonic()
    assert message("MERA-evaluation/ruTXTAgroBench") == (
        "tasks.agro.dataset='MERA-evaluation/ruTXTAgroBench': the hub cannot be reached and the cache holds no copy. "
        "Put a copy of the data set (train.jsonl, test.jsonl) in a directory and set "
        "tasks.agro.dataset=<dir>"
    )
    assert time.monotonic() - start < 10  # a retry would take longer, a busy machine does not


@pytest.mark.usefixtures("hub")
def test_the_offline_switch_is_named(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "'org/set': HF_HUB_OFFLINE is set and the cache holds no copy. Put a copy" in message("org/set")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "revision", "reason"),
    [
        ("org/gated", None, ": its terms are not accepted for this token. Set HF_TOKEN"),
        ("org/unknown", None, ": the hub has no such repository, or this token may not see it. Set HF_TOKEN"),
        ("org/set", "nope", " revision='nope': the repository has no such revision. Set HF_TOKEN"),
        ("org/dropped", None, ": the hub's files cannot be had (Server disconnected without"),
        ("a..b/c", None, ": the hub's files cannot be had (Cannot have -- or .. in repo_id"),
    ],
)
def test_an_error_of_the_hub_is_one_line_with_the_fix(name, revision, reason):
    text = message(name, revision=revision)
    assert text.startswith(f"tasks.agro.dataset='{name}'{reason}")
    assert text.endswith(
        "or put a copy of the data set (train.jsonl, test.jsonl) in a directory and set tasks.agro.dataset=<dir>"
    )


def test_a_hub_data_set_is_read_at_one_commit_and_from_the_cache_offline(tmp_path, hub, make_row, write_rows):
    for split, row in (("train", 1), ("test", 2)):
        name = f"data/{split}-00000-of-00001.parquet"
        hub.files[name] = write_rows(tmp_path / name, [make_row(row)]).read_bytes()
    online = find("org/set", revision="main")
    assert (online.revision, ids(online, "train"), ids(online, "test")) == (hub.commit, [1], [2])
    hub.stop()
    assert ids(find("org/set", revision="main"), "test") == [2]


def test_code_in_a_hub_data_set_is_not_even_downloaded(tmp_path, hub, make_row, write_rows):
    hub.files["set.py"] = b"raise SystemExit('ran')"
    hub.files["test.jsonl"] = write_rows(tmp_path / "test.jsonl", [make_row(1)]).read_bytes()
    assert ids(find("org/set", ("test",)), "test") == [1]
    assert not [path for path in hub.paths if path.endswith(".py")]


def test_a_directory_whose_name_has_glob_characters_is_read(tmp_path, make_row, write_rows):
    write_rows(tmp_path / "dir[1]*?" / "test.jsonl", [make_row(2)])
    assert ids(find(tmp_path / "dir[1]*?", ("test",)), "test") == [2]


def test_files_of_other_kinds_beside_the_rows_are_passed_over(tmp_path, make_row, write_rows):
    write_rows(tmp_path / "test.jsonl", [make_row(2)])
    for name in ("test.jsonl.bak", "test.jsonl.gz", "test.csv"):
        (tmp_path / name).write_text("x")
    assert ids(find(tmp_path, ("test",)), "test") == [2]


def test_a_clone_with_a_loading_script_is_read_by_the_files_names(tmp_path, make_row, write_rows):
    write_rows(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", [make_row(2)])
    (tmp_path / "set" / "set.py").write_text("raise SystemExit('ran')")
    assert ids(find(tmp_path / "set", ("test",)), "test") == [2]


def test_a_list_under_the_key_data_is_read(tmp_path, make_row):
    (tmp_path / "test.json").write_text(json.dumps({"data": [make_row(1), make_row(2)]}, indent=1))
    assert ids(find(tmp_path, ("test",)), "test") == [1, 2]


def test_two_files_that_name_the_same_split_are_refused(tmp_path, make_row, write_rows):
    for name in ("test.jsonl", "test_old.jsonl"):
        write_rows(tmp_path / name, [make_row(1)])
    for where in (tmp_path, f"{tmp_path}/*.jsonl"):
        assert "test.jsonl and test_old.jsonl both name the split 'test'" in message(where, ("test",))


def test_a_map_of_parquet_is_an_object_and_an_image_is_not_opened(tmp_path, make_row):
    row = make_row(1)
    table = pa.table(
        {
            "instruction": [row["instruction"]],
            "inputs": pa.array([list(row["inputs"].items())], pa.map_(pa.string(), pa.string())),
            "outputs": ["A"],
            "meta": [{"id": 1, "picture": {"bytes": None, "path": "http://127.0.0.1:9/x.png"}}],
        }
    )
    features = {
        "info": {"features": {"meta": {"picture": {"_type": "Image"}, "id": {"dtype": "int64", "_type": "Value"}}}}
    }
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "test.parquet")
    (found,) = read_rows(find(tmp_path, ("test",)), "test")
    assert found["inputs"] == row["inputs"]
    assert found["meta"]["picture"]["path"].startswith("http://")


def test_dates_beyond_the_year_9999_are_one_line(tmp_path):
    table = pa.table({"meta": pa.array([4 * 10**17], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "test.parquet")
    assert "cannot be read" in message(tmp_path, ("test",))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.jsonl", "README.md names ../secret.jsonl: name files below"),
        ("/etc/test.jsonl", "README.md names /etc/test.jsonl: name files below"),
        ("http://127.0.0.1:9/test.jsonl", "README.md names http://127.0.0.1:9/test.jsonl: name files below"),
        ("hf://datasets/org/set/test.jsonl", "README.md names hf://"),
        ("a/../../test.jsonl", "README.md names a/../../test.jsonl: name files below"),
        ("'*.jsonl'\n    x: &a [1]\n    y: *a", "has YAML aliases: write the values out"),
        ("[", "README.md is not YAML"),
        ("x" * (1 << 20), "README.md is larger than"),
    ],
)
def test_a_readme_that_names_anything_else_is_refused(tmp_path, make_row, write_rows, path, reason):
    write_rows(tmp_path / "secret.jsonl", [make_row(1)])
    write_rows(tmp_path / "set" / "test.jsonl", [make_row(1)])
    head = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: {path}\n---\n"
    (tmp_path / "set" / "README.md").write_text(head)
    text = message(tmp_path / "set", ("test",))
    assert reason in text
    assert len(text) < 700


def test_rows_that_have_changed_since_the_prompts_were_made_are_refused(tmp_path, make_row, write_rows):
    for split in BOTH:
        write_rows(tmp_path / f"{split}.jsonl", [make_row(1)])
    task = TaskConfig(dataset=str(tmp_path), domain="d")
    config = Config(tasks={"agro": task}, model=ModelConfig(path="m", context_size=65_536), run_id="one")
    recorded = {"agro": find_source("agro", task, BOTH).revision}
    assert require_unchanged(config, recorded) == []
    assert require_unchanged(config, {"agro": "a1" * 20}) == []
    write_rows(tmp_path / "test.jsonl", [make_row(2)])
    with pytest.raises(DataError, match=r"tasks\.agro\.dataset=.* holds other rows than the prompts of run_id='one'"):
        require_unchanged(config, recorded)
    shutil.rmtree(tmp_path)
    (line,) = require_unchanged(config, recorded)
    assert line.startswith("prompts are not compared with their data set: tasks.agro.dataset=")
