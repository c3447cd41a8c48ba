"""Each reason for a refusal by the server is a line, and so is each unintended answer that it accepts."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from archives import rows, zipped

from pipeline.publish.validation.findings import Finding
from pipeline.publish.validation.rules import Expected, Report, check
from pipeline.publish.validation.zip_reader import MOST_DIRECTORY_BYTES

AGRO, MED = "ruTXTAgroBench.json", "ruTXTMedQFundamental.json"
LETTERS = {number: "BCDE"[number % 4] for number in range(1, 31)}
FIX = "copy or pack the archive again"
ROW = 'a row is {"outputs": "B", "meta": {"id": 1}}'
LOGS = zipped({"results_x.json": {}, "samples_agro_bench_x.jsonl": {}, "samples_med_bench_x.jsonl": {}})
GOOD: dict[str, Any] = {AGRO: rows(LETTERS), MED: rows(LETTERS), "logs_public.zip": LOGS}


DAMAGED_LOGS = zipped({"results_x.json": {}}, zipfile.ZIP_STORED).replace(b"{}", b"[]")


def checked(files: dict[str, Any] | bytes, name: str = "x_submission.zip") -> Report:
    content = files if isinstance(files, bytes) else zipped(files)
    ids = frozenset(LETTERS)
    expected = [Expected(task="agro_bench", file=AGRO, ids=ids), Expected(task="med_bench", file=MED, ids=ids)]
    return check(name, io.BytesIO(content), expected)


def lines(files: dict[str, Any] | bytes, name: str = "x_submission.zip") -> list[str]:
    return [str(finding) for finding in checked(files, name).findings]


def agro(content: Any) -> dict[str, Any]:
    """Return a good archive with another file for agro_bench."""
    return GOOD | {AGRO: content}


def changed(number: int, **changes: Any) -> dict[str, Any]:
    """Return a good archive in which one row is changed; `...` drops the key."""
    data = rows(LETTERS)
    row = data["data"]["test"][number - 1]
    row |= changes
    for key in [key for key, value in changes.items() if value is ...]:
        del row[key]
    return agro(data)


def without(name: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name} | more


def test_a_good_archive_has_no_findings() -> None:
    report = checked(GOOD)
    assert (report.findings, report.num_tasks, report.num_answers, report.num_refusals) == ([], 2, 60, 0)


NESTED = b'{"data": {"test": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
LONG_NUMBER = b'{"data": {"test": [{"outputs": "B", "meta": {"id": ' + b"9" * 5_000 + b"}}]}}"

ZIPPED = zipped(GOOD)

REFUSALS: list[tuple[str, dict[str, Any] | bytes, str]] = [
    ("no zip", b"PK, or so it says", "x_submission.zip: it is no zip: it does not begin as one, and no list of files"),
    ("empty file", b"", f"x_submission.zip: it is empty, 0 bytes: {FIX}"),
    ("empty zip", zipped({}), f"x_submission.zip: it is a zip without files in it: {FIX}"),
    ("cut in half", ZIPPED[:-400], f"begins as a zip, but the list of files at its end is cut off or damaged: {FIX}"),
    ("task missing", without(AGRO), f"{AGRO}: missing: pack the task's answers under this name"),
    (
        "in a folder",
        without(AGRO, **{f"s/{AGRO}": {}}),
        f"{AGRO}: missing at the archive's root: it is in 's': pack it without the directory",
    ),
    (
        "wrong extension",
        without(AGRO, **{f"{AGRO}l": {}}),
        f"has the wrong extension: write it as JSON and name it {AGRO}",
    ),
    (
        "other letters",
        without(AGRO, **{AGRO.lower(): {}}),
        f"'rutxtagrobench.json' is written in other letters: name it {AGRO}",
    ),
    (
        "no JSON",
        agro(b'{"data": '),
        f"{AGRO}: is no JSON from line 1 column 10 on (Expecting value): write it with a JSON library",
    ),
    ("nested", agro(NESTED), f'{AGRO}: is nested too deeply to be read: it must be {{"data": {{"test": [...]}}}}'),
    (
        "long number",
        agro(LONG_NUMBER),
        f"{AGRO}: holds a number of more than 4,300 digits: give the ids of the data set",
    ),
    (
        "byte order mark",
        agro(b"\xef\xbb\xbf{}"),
        f"{AGRO}: begins with a byte order mark, which JSON does not allow: write it as UTF-8 without one",
    ),
    (
        "no UTF-8",
        agro('{"data": "Ответ"}'.encode("cp1251")),
        f"{AGRO}: is not UTF-8, byte 10 cannot be read: write it as UTF-8",
    ),
    ("no data", agro({"test": []}), f'{AGRO}: has no "data"'),
    ("a list", agro([]), f'{AGRO}: has no "data"'),
    ("no split", agro({"data": {"train": []}}), f'{AGRO}: has no split "test" in "data"'),
    ("data is a list", agro({"data": []}), f'{AGRO}: has no split "test" in "data"'),
    ("test is an object", agro({"data": {"test": {}}}), f'{AGRO}: its "test" is an object, not a list of rows'),
    ("row is a text", agro({"data": {"test": ["B"]}}), f"{AGRO}: no object but a text in 1 of 1 row (row 1): {ROW}"),
    ("no outputs", changed(3, outputs=...), f'{AGRO}: no "outputs" in 1 of 30 rows (id 3): {ROW}'),
    ("null outputs", changed(3, outputs=None), f"{AGRO}: outputs that are null, not a text, in 1 of 30 rows (id 3)"),
    ("list outputs", changed(3, outputs=["B"]), f"{AGRO}: outputs that are a list, not a text, in 1 of 30 rows (id 3)"),
    (
        "NaN",
        agro(b'{"data": {"test": [{"outputs": NaN, "meta": {"id": 1}}]}}'),
        "outputs that are a number, not a text",
    ),
    ("no meta", changed(3, meta=...), f'{AGRO}: no "meta" in 1 of 30 rows (row 3): {ROW}'),
    ("meta is a number", changed(3, meta=3), f'{AGRO}: no "meta" in 1 of 30 rows (row 3): {ROW}'),
    ("no id", changed(3, meta={}), f'{AGRO}: no "id" in "meta" in 1 of 30 rows (row 3): {ROW}'),
    ("id is a text", changed(3, meta={"id": "3"}), "an id that is a text, not an integer, in 1 of 30 rows (row 3)"),
    (
        "id is true",
        changed(1, meta={"id": True}),
        "an id that is true or false, not an integer, in 1 of 30 rows (row 1)",
    ),
    ("id is a float", changed(3, meta={"id": 3.0}), "an id that is a number, not an integer, in 1 of 30 rows (row 3)"),
    (
        "id missing",
        agro(rows(dict.fromkeys(range(8, 31), "B"))),
        f"{AGRO}: no row for 7 of 30 ids of the test split (1, 2, 3, 4, 5 and 2 more): "
        "one missing id fails the task: answer all and pack again",
    ),
]


@pytest.mark.parametrize(("files", "line"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_a_refusal_by_the_server_is_reported(files: dict[str, Any] | bytes, line: str) -> None:
    refusals = [text for text in lines(files) if text.startswith("refused: ")]
    assert any(line in text for text in refusals), refusals
    assert checked(files).num_refusals == len(refusals)


WHOLE = zipped(GOOD, zipfile.ZIP_STORED)  # so that the nested logs are in it uncompressed
LIST_AT = WHOLE.rindex(b"PK\1\2", 0, WHOLE.rindex(AGRO.encode()))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WHOLE[:LIST_AT], "it is cut: its own list of files is missing, the only one is of a zip inside it"),
        (WHOLE[: LIST_AT + 60], "it is cut: its own list of files is missing, the only one is of a zip inside it"),
        (WHOLE[1:], "it is cut: 1 byte missing"),
        (WHOLE[1_000:], "it is cut: 1,000 bytes missing"),
        (WHOLE[:600] + WHOLE[700:], "it is cut: 100 bytes missing"),
        (WHOLE[LIST_AT + 9 :], "it is no zip: it does not begin as one, and no list of files can be read at its end"),
        (b"#!/bin/sh\n" + WHOLE, "10 bytes of something else before its files, or it is cut"),
    ],
    ids=[
        "the list",
        "half of the list",
        "the first byte",
        "the first member",
        "the middle",
        "all members",
        "something before it",
    ],
)
def test_a_truncated_archive_is_not_mistaken_for_the_logs_in_it(content: bytes, reason: str) -> None:
    assert lines(WHOLE) == []
    report = checked(content)
    assert [str(finding) for finding in report.findings] == [f"refused: x_submission.zip: {reason}: {FIX}"]
    assert (report.num_tasks, report.num_refusals) == (0, 1)


@pytest.mark.parametrize("files", [case[1] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_no_line_contains_the_name_of_a_librarys_class(files: dict[str, Any] | bytes) -> None:
    assert not any(re.search(r"[A-Za-z]+(Error|Exception|Zip[A-Z]\w*|File):? ", text) for text in lines(files))


def test_an_archive_of_another_extension_is_refused() -> None:
    line = "refused: x_submission.rar: wrong extension: pack it as a .zip, the server takes nothing else"
    assert lines(GOOD, "x_submission.rar") == [line]


def test_a_broken_row_is_one_refusal_and_its_id_is_not_missing_too() -> None:
    assert lines(changed(3, outputs=None)) == [
        f"refused: {AGRO}: outputs that are null, not a text, in 1 of 30 rows (id 3): {ROW}",
    ]


def test_many_broken_rows_are_one_line_with_the_first_few() -> None:
    report = lines(agro({"data": {"test": [{"meta": {"id": number}} for number in LETTERS]}}))
    first = "id 1, id 2, id 3, id 4, id 5 and 25 more"
    assert report == [f'refused: {AGRO}: no "outputs" in 30 of 30 rows ({first}): {ROW}']


def test_an_unknown_id_is_a_warning() -> None:
    found = lines(agro(rows(LETTERS | dict.fromkeys(range(31, 38), "B"))))
    assert found == [
        f"warning: {AGRO}: no question of the test split for 7 of 37 ids (31, 32, 33, 34, 35 and 2 more): "
        "leave them out, or give the revision of the data set that has them"
    ]


def test_a_repeated_id_is_a_warning_and_the_last_wins() -> None:
    data = rows(LETTERS)
    data["data"]["test"] += rows({2: "<think>", 3: LETTERS[3]})["data"]["test"]
    report = checked(agro(data))
    assert [str(finding) for finding in report.findings] == [
        f"warning: {AGRO}: a repeated id with other outputs in 1 of 32 rows (id 2): "
        "the last one wins: keep one row an id",
        f"warning: {AGRO}: a repeated id with the same outputs in 1 of 32 rows (id 3): "
        "the last one wins: keep one row an id",
        f"warning: {AGRO}: reasoning (such as <think> or </think>) in 1 of 30 outputs (id 2): they are scored as the "
        "answer: give the reasoning_parser of the model, or cut them",
    ]
    assert report.num_answers == 60


def test_unknown_files_are_ignored_with_one_warning() -> None:
    more = {f"file{number}.txt": b"" for number in range(8)}
    ignored = "the server ignores what it does not know: leave it out"
    assert lines(GOOD | more) == [
        "warning: x_submission.zip: 8 files of no task here "
        f"(file0.txt, file1.txt, file2.txt, file3.txt, file4.txt and 3 more): {ignored}"
    ]
    assert lines(GOOD | {"file0.txt": b""}) == [
        f"warning: x_submission.zip: 1 file of no task here (file0.txt): {ignored}"
    ]


def test_ids_are_not_compared_when_they_are_unknown() -> None:
    expected = [Expected(task="agro_bench", file=AGRO, ids=None)]
    report = check("x.zip", io.BytesIO(zipped({AGRO: rows({99: "B"}), "logs_public.zip": LOGS})), expected)
    assert (report.findings, report.num_answers) == ([], 1)


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (None, "missing: a public submission needs it: pack the zip of the harness's logs under this name"),
        (b"no zip", "it is no zip: it does not begin as one"),
        (
            zipped({"samples_agro_bench_x.jsonl": b"", "samples_med_bench_x.jsonl": b""}),
            "holds no results_<time>.json: pack it from the harness's --output_path",
        ),
        (
            zipped({"results_x.json": b""}),
            "holds no samples_<task>_<time>.jsonl of agro_bench, med_bench: run the harness with --log_samples",
        ),
        (DAMAGED_LOGS, f"its 'results_x.json' is damaged and cannot be unpacked: {FIX}"),
        (LOGS[50:], f"it is cut: 50 bytes missing: {FIX}"),
    ],
)
def test_logs_that_are_missing_or_broken_are_a_warning(logs: bytes | None, line: str) -> None:
    (found,) = lines(without("logs_public.zip") | ({} if logs is None else {"logs_public.zip": logs}))
    assert found.startswith("warning: logs_public.zip: ")
    assert line in found


# Hostile archives.


def patched(content: bytes, name: str, change: Callable[[bytearray, int], None]) -> bytes:
    """Return a zip with a changed entry of `name` in its list of members; `change` gets the offset of the entry."""
    raw = bytearray(content)
    at = raw.rindex(b"PK\x01\x02", 0, raw.rindex(name.encode()))
    change(raw, at)
    return bytes(raw)


def test_an_encrypted_task_is_refused() -> None:
    def encrypt(raw: bytearray, at: int) -> None:
        raw[at + 8] |= 1

    assert lines(patched(zipped(GOOD), MED, encrypt)) == [f"refused: {MED}: is encrypted: pack it without a password"]


def test_a_task_larger_than_is_read_is_refused_before_it_is_unpacked() -> None:
    def grow(raw: bytearray, at: int) -> None:
        raw[at + 24 : at + 28] = struct.pack("<L", 3 << 30)

    found = lines(patched(zipped(GOOD), MED, grow))
    line = f"refused: {MED}: unpacks to 3,221,225,472 bytes, more than the 536,870,912 that are read: cut outputs"
    assert any(text.startswith(line) for text in found)
    assert any(text.startswith(f"warning: {MED}: it unpacks to") and "a zip bomb" in text for text in found)


def test_a_member_that_unpacks_to_more_than_its_listed_size_is_refused() -> None:
    def shrink(raw: bytearray, at: int) -> None:
        raw[at + 24 : at + 28] = struct.pack("<L", 10)

    (found,) = lines(patched(zipped(GOOD), MED, shrink))
    assert found == f"refused: {MED}: is damaged and cannot be unpacked: {FIX}"


def test_a_member_packed_in_an_unknown_way_is_refused() -> None:
    def repack(raw: bytearray, at: int) -> None:
        raw[at + 10] = 99

    (found,) = lines(patched(zipped(GOOD), MED, repack))
    assert found == f"refused: {MED}: is packed in a way that cannot be read: pack it with deflate, as zip does"


def test_a_zip_bomb_is_reported_and_not_taken_for_json() -> None:
    found = lines(agro(b" " * (20 << 20)))
    assert any(text.startswith(f"warning: {AGRO}: it unpacks to") for text in found)
    assert any(text.startswith(f"refused: {AGRO}: is no JSON") for text in found)


@pytest.mark.parametrize("value", [b"{},", b"[],", b"[[]],", b'"",1,'])
def test_a_file_of_millions_of_objects_is_refused_before_it_is_parsed(value: bytes) -> None:
    found = lines(agro(b'{"data": {"test": [' + value * 5_000_001 + b"{}]}}"))
    line = f"refused: {AGRO}: holds more than the 5,000,000 objects that are read: leave out what is no answer"
    assert line in found


def test_brackets_in_a_text_are_no_objects() -> None:
    text = json.dumps("[{," * 6_000_000 + '\\"').encode()
    found = lines(agro(b'{"data": {"test": [{"outputs": ' + text + b', "meta": {"id": 1}}]}}'))
    assert not any("objects that are read" in line for line in found)


def test_members_without_a_name_or_in_bad_utf_8_are_findings() -> None:
    unnamed = zipped({**GOOD, "UNNAMED": "x"}).replace(b"UNNAMED", b"\0NNAMED")
    assert not any("cannot be read" in line for line in lines(unnamed))
    (found,) = lines(zipped({**GOOD, "\u00e9": "x"}).replace("\u00e9".encode(), b"\xff\xff"))
    assert found.startswith("refused: x_submission.zip: ")


def test_a_list_of_members_that_is_too_large_is_refused() -> None:
    size = MOST_DIRECTORY_BYTES + 1
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0)
    (found,) = lines(b"\0" * size + end)
    line = "refused: x_submission.zip: its list of files is larger than the 16 MiB that are read: "
    assert found == line + FIX


def test_too_many_members_are_refused() -> None:
    (found,) = lines(zipped({str(number): b"" for number in range(1_001)}))
    assert found.startswith("refused: x_submission.zip: it holds 1,001 files, of which up to 1,000 are read")


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_a_name_that_leads_out_of_the_archive_is_reported(name: str) -> None:
    found = lines(GOOD | {name: b""})
    line = "the name leads out of the directory that the archive is unpacked in: pack it under its bare name"
    assert f"warning: {name}: {line}" in found
    assert not any(text.startswith("refused") for text in found)


def test_a_link_is_reported() -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    whole = io.BytesIO(zipped(GOOD))
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "warning: link: it is a symbolic link: pack the file itself" in lines(whole.getvalue())


def test_a_duplicate_member_is_reported_and_the_last_is_read() -> None:
    whole = io.BytesIO(zipped(GOOD))
    with warnings.catch_warnings(), zipfile.ZipFile(whole, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr(AGRO, json.dumps({"data": {}}))
    assert lines(whole.getvalue()) == [
        f"warning: {AGRO}: the archive holds this name more than once, and the last one is read: pack it once",
        f'refused: {AGRO}: has no split "test" in "data": it must be {{"data": {{"test": [...]}}}}',
    ]


def test_control_characters_are_not_printed() -> None:
    finding = Finding("warning", "\x1b[2J\u202eevil\n" + "x" * 300, "what")
    assert str(finding).startswith("warning: \\u001b[2J\\u202eevil\\u000ax")
    assert len(str(finding)) < 160
    (found,) = lines(GOOD | {"\x1b[31mred": b""})
    assert "\x1b" not in found


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_raises(seed: int) -> None:
    import random

    noise = random.Random(seed)
    raw = bytearray(zipped(GOOD))
    for _ in range(noise.randrange(1, 12)):
        raw[noise.randrange(len(raw))] = noise.randrange(256)
    checked(bytes(raw[: noise.randrange(len(raw) // 2, len(raw) + 1)]))
