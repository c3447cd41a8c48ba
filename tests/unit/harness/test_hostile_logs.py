"""A log is untrusted input: whatever it contains, the error is one line with the file and the line in it."""

import io
import json
import zipfile

import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.harness import log_files
from pipeline.harness.log_files import choose, find_logs
from pipeline.harness.log_lines import MAX_LINE_BYTES, read_line

GOOD = {
    "doc": {"instruction": "?", "inputs": {"question": "?"}, "outputs": "A", "meta": {"id": 1}},
    "arguments": {"gen_args_0": {"arg_0": ['[{"role": "user", "content": "?"}]'], "arg_1": {"until": ["x"]}}},
    "resps": [["A"]],
    "filtered_resps": ["A"],
    "em": 1.0,
    "f1": 1.0,
}


def changed(**fields):
    return json.dumps({**GOOD, **fields}).encode()


def test_a_line_of_the_harness_is_read():
    row = read_line("log", 7, changed())
    assert (row.id, row.line, row.gold, row.content, row.response, row.em) == (1, 7, "A", "A", "A", 1.0)
    assert row.messages == '[{"content": "?", "role": "user"}]'
    assert row.prompt is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "Expecting"),
        (b"\xff\xfe", "can't decode"),
        (b"[" * 200_000, "recursion"),
        (b"[" * 40 + b"]" * 40, "nested deeper than 32"),
        (b"[]", "doc must be a dict, not None"),
        (b"1" * 5000, "digits"),
        (changed(doc={"meta": {"id": "1"}}), "meta.id must be a int, not '1'"),
        (changed(doc={"meta": {"id": True}}), "meta.id must be a int"),
        (changed(doc={"meta": {"id": 2**64}}), "64 bits"),
        (changed(doc={"outputs": 1, "meta": {"id": 1}}), "outputs must be a str"),
        (changed(arguments={}), "arguments has 0 requests"),
        (changed(arguments={"gen_args_0": {}, "gen_args_1": {}}), "2 requests"),
        (changed(arguments={"gen_args_0": {"arg_0": [], "arg_1": {}}}), "arg_0 must begin with a str"),
        (changed(arguments={"gen_args_0": {"arg_0": "x"}}), "gen_args_0.arg_1 must be a dict"),
        (changed(resps=[]), "resps must begin with a list"),
        (changed(resps=[[1]]), "resps must begin with a str"),
        (changed(filtered_resps=None), "filtered_resps must be a list"),
        (changed(em="1"), "em must be a number, not '1'"),
        (changed(f1=1e300), "f1 must be a number"),
        (changed(filtered_resps=["\ud800"]), "half of a character"),
    ],
)
def test_a_line_that_is_no_sample_is_reported_with_its_number(line, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read_line("samples.jsonl", 3, line)
    assert str(caught.value).startswith("samples.jsonl line 3 ")
    assert len(str(caught.value)) < 250


def test_a_bad_line_in_a_file_ends_the_replay_with_file_and_number(replay):
    with replay.log("med_bench").open("a") as file:
        file.write("\n{]\n")
    replay()
    assert isinstance(replay.error, DataError)
    assert f"{replay.log('med_bench')} line 7 is no sample of the harness" in str(replay.error)


def test_an_endless_line_is_rejected_before_it_is_read_in_full(replay):
    with replay.log("med_bench").open("ab") as file:
        file.truncate(0)
        file.truncate(MAX_LINE_BYTES * 1000)  # a sparse file takes no disk
    replay()
    assert "line 1 is longer than 8,388,608 bytes" in str(replay.error)


def test_a_log_without_lines_is_rejected(replay):
    replay.log("med_bench").write_text("\n")
    replay()
    assert "holds no samples" in str(replay.error)


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


LOG = "samples_med_bench_2026-11-21T00-00-00.000000.jsonl"


def test_names_in_an_archive_are_never_paths_and_are_printed_without_control_characters(tmp_path):
    path = zipped(tmp_path / "a.zip", {f"../../etc/\x1b[31m/{LOG}": "x"})
    before = sorted(tmp_path.rglob("*"))
    with find_logs(str(path)) as (log,):
        assert log.task == "med_bench"
        assert log.open().read() == b"x"
        assert "\x1b" not in log.name
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_unpacks_to_too_much_is_rejected_unread(tmp_path):
    path = zipped(tmp_path / "bomb.zip", {f"{number}/{LOG}": b"" for number in range(3)})
    local, *entries = path.read_bytes().split(b"PK\x01\x02")
    declared = (2**32 - 2).to_bytes(4, "little")  # the unpacked size that each entry declares
    path.write_bytes(b"PK\x01\x02".join([local, *(entry[:20] + declared + entry[24:] for entry in entries)]))
    with pytest.raises(DataError, match=r"bomb.zip unpacks to 12,884,901,882 bytes"), find_logs(str(path)):
        pass


def test_a_nested_archive_that_unpacks_to_too_much_is_rejected(tmp_path, monkeypatch):
    inner = zipped(tmp_path / "inner.zip", {LOG: b"\n" * 5000}).read_bytes()
    path = zipped(tmp_path / "outer.zip", {"logs_public.zip": inner})
    monkeypatch.setattr(log_files, "MAX_UNPACKED_BYTES", 4000)
    with pytest.raises(DataError, match=r"logs_public.zip unpacks to 5,000 bytes, more than 4,000"):
        find_logs(str(path)).__enter__()


@pytest.mark.parametrize("damage", ["rubbish", "cut", "flipped", "encrypted", "nested rubbish"])
def test_a_damaged_archive_is_a_one_line_error(replay, tmp_path, damage):
    path = zipped(tmp_path / "a.zip", {LOG: replay.log("med_bench").read_bytes()})
    data = bytearray(path.read_bytes())
    match damage:
        case "rubbish":
            data = b"not a zip"
        case "cut":
            data = data[: len(data) // 2]
        case "flipped":
            data[200] ^= 0xFF
        case "encrypted":
            data[6] |= 1
            data[data.rindex(b"PK\x01\x02") + 8] |= 1
        case "nested rubbish":
            with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
                archive.writestr("logs_public.zip", "rubbish")
            data = buffer.getvalue()
    path.write_bytes(data)
    replay(logs=path)
    assert isinstance(replay.error, DataError)
    assert str(replay.error).startswith(str(path))


def damaged(content, where):
    """Return a zip with one byte changed, in its only member's compressed data or in that member's header."""
    at = {"bytes": content.index(LOG.encode()) + len(LOG) + 40, "header": 0}[where]
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize("where", ["bytes", "header"])
def test_a_damaged_log_in_an_archive_is_reported_with_the_archive(replay, tmp_path, where):
    path = zipped(tmp_path / "logs_public.zip", {LOG: replay.log("med_bench").read_bytes()})
    path.write_bytes(damaged(path.read_bytes(), where))
    replay(logs=path)
    assert str(replay.error).startswith(f"{path}/{LOG} cannot be read: ")
    assert str(replay.error).endswith(": copy it again, or give the logs unpacked")


@pytest.mark.parametrize("damage", ["rubbish", "cut", "bytes", "changed"])
def test_damaged_nested_logs_are_reported_with_the_archive(replay, tmp_path, damage):
    inner = zipped(tmp_path / "logs_public.zip", {LOG: replay.log("med_bench").read_bytes()}).read_bytes()
    content = {"rubbish": b"rubbish", "cut": inner[:-50], "bytes": damaged(inner, "bytes"), "changed": inner}[damage]
    with zipfile.ZipFile(path := tmp_path / "x_submission.zip", "w") as archive:
        archive.writestr("a/logs_public.zip", content)
    if damage == "changed":  # after packing, so that the checksum does not match
        data = bytearray(path.read_bytes())
        data[200] ^= 0xFF
        path.write_bytes(data)
    replay(logs=path)
    member = f"/{LOG}" if damage == "bytes" else ""
    assert str(replay.error).startswith(f"{path}/a/logs_public.zip{member} cannot be read: ")


def test_a_path_without_logs_is_rejected(tmp_path):
    (tmp_path / "empty").mkdir()
    for where, complaint in (
        (tmp_path / "gone", "there is no such file or directory"),
        (tmp_path / "empty", "holds no samples_<task>_<time>.jsonl"),
        (zipped(tmp_path / "other.zip", {"a.txt": ""}), "holds no samples_<task>_<time>.jsonl"),
        (zipped(tmp_path / "two.zip", {"a/logs_public.zip": "", "b/logs_public.zip": ""}), "holds 2 files called"),
    ):
        with pytest.raises(DataError, match=complaint), find_logs(str(where)):
            pass


def logs_of(tmp_path, *names):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    with find_logs(str(tmp_path)) as found:
        return found


def test_a_log_of_an_unknown_task_is_rejected_unless_only_excludes_it(tmp_path):
    found = logs_of(tmp_path, LOG, LOG.replace("med_bench", "gsm8k"))
    with pytest.raises(DataError, match="is of the task 'gsm8k': the configuration has med_bench"):
        choose(found, ["med_bench"], [], None)
    assert list(choose(found, ["med_bench"], ["med_bench"], None)) == ["med_bench"]
    with pytest.raises(DataError, match="there is no log of it, only of 'gsm8k', 'med_bench'"):
        choose(found, ["agro"], ["agro"], None)


def test_logs_of_two_models_are_rejected(tmp_path):
    found = logs_of(tmp_path, f"a/{LOG}", f"b/{LOG}")
    with pytest.raises(DataError, match="med_bench has logs of several models"):
        choose(found, ["med_bench"], [], None)


def test_task_applies_to_a_single_log_of_a_known_task_only(tmp_path):
    found = logs_of(tmp_path, LOG, LOG.replace("med", "agro"))
    with pytest.raises(ConfigError, match="there are 2: give one file"):
        choose(found, ["med_bench"], [], "med_bench")
    with pytest.raises(ConfigError, match="task='x': there is no such task"):
        choose(found[:1], ["med_bench"], [], "x")


def test_a_file_without_a_task_in_its_name_needs_the_argument_task(tmp_path):
    (tmp_path / "log.jsonl").write_text("x")
    with find_logs(str(tmp_path / "log.jsonl")) as found, pytest.raises(DataError, match="has no task in its name"):
        choose(found, ["med_bench"], [], None)


def test_an_archive_with_a_name_in_bad_utf_8_is_one_line(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("\u00e9", "x")
    file = tmp_path / "logs.zip"
    file.write_bytes(buffer.getvalue().replace("\u00e9".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"logs\.zip"), find_logs(str(file)):
        pass
