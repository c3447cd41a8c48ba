"""A night: its runs in order, what is recorded of them, its exit code, and that the same id does what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builders import ROOT, wait_until
from night_of import run_night

from pipeline.errors import ConfigError, NightFailed, RunError
from pipeline.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    from .conftest import Nights

pytestmark = pytest.mark.usefixtures("at_root")

BROKEN_RULE = {"name": "max_drop", "value": 0.1, "limit": 0.01, "broken": True, "line": "score fell"}
BROKEN_GATE = {"baseline": "m-a", "broken": ["max_drop"], "rules": [BROKEN_RULE], "notes": []}
CHANGE = {
    "level": "run",
    "task": "all",
    "split": "train",
    "metric": "score",
    "base": 0.6,
    "new": 0.5,
    "stderr": None,
    "difference": -0.1,
    "ci_low": -0.2,
    "ci_high": 0.0,
    "test": "x",
    "p_value": 0.01,
    "p_holm": 0.02,
    "num_questions": 10,
    "num_lost": 1,
    "num_gained": 0,
    "detectable": None,
}


@contextmanager
def started(nights: Nights, *arguments: str, night: str = "n") -> Iterator[subprocess.Popen[str]]:
    """Start a night as a process."""
    line = [sys.executable, str(ROOT / "tests/night_of.py"), json.dumps({"program": nights.program})]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*line, *nights.arguments(*arguments, night=night)], cwd=ROOT, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_runs_are_run_in_order_and_recorded(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.script("b", manifest={"gate": BROKEN_GATE, "compare": [CHANGE], "counts": {"num_samples": 10}}, code=3)
    assert nights.code() == 0
    assert nights.lines("starts") == ["a", "b", "c"]
    record = nights.record()
    assert (record["night"], record["status"], record["exit_code"]) == ("n", "complete", 0)
    assert record["text"].startswith("night n: 3 of 3 runs complete; a train 1.000")
    assert "b train 1.000" in record["text"]
    assert "(-0.100), gate broken: max_drop; c " in record["text"]
    a, b, _ = record["runs"]
    assert (a["run_id"], a["status"], a["exit_code"], a["reason"], a["conf"]) == ("n-a", "complete", 0, None, "demo")
    (score,) = [each for each in a["scores"] if (each["level"], each["metric"]) == ("run", "score")]
    assert (score["value"], score["split"]) == (1.0, "train")
    assert score["ci_low"] <= 1 <= score["ci_high"]
    assert a["run"] == f"{nights.output}/run=n-a"
    assert (a["gate"], a["changes"]) == (None, None)
    assert (b["status"], b["exit_code"], b["num_rows"]) == ("complete", 3, 10)
    assert b["gate"]["rules"] == [{"name": "max_drop", "broken": True, "line": "score fell"}]
    assert (b["changes"][0]["difference"], b["changes"][0]["ci_low"]) == (-0.1, -0.2)
    out = capfd.readouterr().out
    assert "b: gate: broken: max_drop: score fell" in out
    assert "night n: run 2 of 3: b" in out


def test_arguments_of_the_command_are_added_to_those_of_each_run(nights: Nights) -> None:
    nights.file.write_text("runs:\n  a: limit=3\n  b: >-\n    limit=4\n    generation.temperature=0.5\n")
    assert nights.code("conf=demo", "seed=5", is_quick=False) == 0
    for_all = f"output_dir={nights.output} conf=demo seed=5"
    assert nights.lines("arguments") == [
        f"limit=3 {for_all} run_id=n-a",
        f"limit=4 generation.temperature=0.5 {for_all} run_id=n-b",
    ]


def test_a_report_has_its_path(nights: Nights) -> None:
    report = {"file": "report.html", "chunks": None, "num_samples": 10}
    nights.script("a", manifest={"published": {"report": report}})
    assert nights.code() == 0
    assert nights.runs()[0]["report"] == f"{nights.output}/run=n-a/report.html"


def test_a_run_that_fails_does_not_stop_the_next_and_is_the_only_one_tried_again(nights: Nights) -> None:
    error = "error: model.path='/gone' is no directory\n"
    nights.script("a", complete=False, code=2, stderr=f"something else\n{error}")
    assert nights.code() == 2
    assert nights.of_each("status") == ["failed", "complete", "complete"]
    assert nights.of_each("exit_code") == [2, 0, 0]
    assert nights.runs()[0]["reason"] == "model.path='/gone' is no directory"
    assert "2 of 3 runs complete; a failed: model.path='/gone' is no directory; b " in nights.record()["text"]
    nights.script("a")
    assert nights.code() == 0
    assert nights.lines("working") == ["a", "b", "c", "a"]
    assert nights.of_each("was_complete") == [False, True, True]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"code": 1, "stderr": "Traceback\n  x\nRuntimeError: 3 expected\n"}, "RuntimeError: 3 expected"),
        ({"code": 2, "stderr": "error: one\nerror: two\n"}, "one; two"),
        ({"signal": 9}, "ended by signal 9 (Killed)"),
        ({"code": 5}, "ended with exit code 5 and without a message"),
        ({"code": 0}, "ended with exit code 0, and its manifest is not complete"),
        ({"code": 2, "stderr": f"error: {'x' * 5_000}\n"}, "x" * 1_000),
        ({"code": 2, "stderr": "error: s3://u:p@host/x?k=v hf_abcdefghijklmnop\n"}, "s3://***@host/x?*** ***"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_why_a_run_failed(nights: Nights, script: dict[str, Any], reason: str) -> None:
    nights.script("a", complete=False, **script)
    assert nights.code() == 2
    assert nights.of_each("status") == ["failed", "complete", "complete"]
    assert nights.runs()[0]["reason"] == reason


@pytest.mark.parametrize(("codes", "code"), [("033", 3), ("034", 4), ("304", 4), ("000", 0)])
def test_strict_tells_a_broken_gate_and_failed_rows(nights: Nights, codes: str, code: int) -> None:
    for name, each in zip("abc", codes, strict=True):
        nights.script(name, code=int(each))
    assert nights.code("strict=true") == code
    assert nights.record()["exit_code"] == code
    assert nights.code() == 0
    nights.script("d", complete=False, code=2)
    nights.file.write_text(nights.file.read_text() + "  d: conf=demo\n")
    assert nights.code("strict=true") == 2


def test_a_run_whose_arguments_are_wrong_fails_alone(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "typo": ("conf=demo limt=3", "'limt=3': run has no argument limt=. Did you mean: 'limit'?"),
        "id": ("conf=demo run_id=x", "run_id= is made of the night's id and the run's name: leave it out"),
        "restart": ("conf=demo run.restart=true", "run.restart=true would choose another run_id"),
        "open": ("conf=demo 'x", "No closing quotation"),
        "none": ("limit=3", "conf= must be given once"),
        "value": ("conf=demo limit=x", "limit='x': must be a whole number or null"),
        "help": ("--help", "'--help' is not key=value"),
        "secret": ("conf=demo api_key=hunter2222", "'api_key=***': run has no argument api_key="),
    }
    lines = "".join(f"  {name}: {json.dumps(words)}\n" for name, (words, _) in wrong.items())
    nights.file.write_text(f"runs:\n  a: conf=demo\n{lines}  c: conf=demo\n")
    assert nights.code(is_quick=False) == 2
    assert nights.lines("starts") == ["a", "c"]
    reasons = {run["name"]: run["reason"] for run in nights.runs()}
    for name, (_, line) in wrong.items():
        assert line in reasons[name]
    out = capfd.readouterr().out
    assert out.index("night n: typo is left out: ") < out.index("night n: run 1 of 10: a")
    assert "hunter2222" not in out + (nights.output / "night=n.json").read_text()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "names no runs: give it runs: {name: conf=demo}"),
        ("runs: {}", "names no runs"),
        ("runs: [a]", "must be a mapping"),
        ("demo: conf=demo", "demo: there is no such key. the file has runs, notify"),
        ("runs: {a: }", "must be text"),
        ("runs: {a: [conf=demo]}", "must be text"),
        ("runs: {a: x, a: y}", "a is given twice"),
        ("runs: {a/b: x}", "'a/b' is no name of a run: letters, digits"),
        ("runs: {-a: x}", "'-a' is no name of a run"),
        ("runs: {'': x}", "'' is no name of a run"),
        ("runs: {a: x}\nnotfy: {}", "there is no such key. Did you mean: 'notify'?"),
        ("runs: {a: x}\nnotify: {url: 'http://s.ecret/x'}", "notify.url: there is no such key"),
        ("runs: {a: x}\nnotify: {url_env: 'http://s.ecret/x'}", "notify.url_env is no name of an environment variable"),
        ("runs: {a: x}\nnotify: http://s.ecret/x", "notify must be {url_env: <name of a variable that holds the URL>}"),
        ("runs: {a: x}\nnotify: [http://s.ecret/x]", "notify must be {url_env: "),
        ("runs: {a: x}\nnotify: {url_env: ['http://s.ecret/x']}", "notify must be {url_env: "),
        ("runs: {a: x}\nnotify: {command: {curl: http://s.ecret/x}}", "notify must be {url_env: "),
        ("runs: {a: x}\nnotify: {command: ''}", "notify.command is empty"),
        ('runs: {a: x}\nnotify: {command: "\'"}', "notify.command: No closing quotation"),
        ("runs: {a: !!python/name:os.system x}", "the tag "),
        ("runs: {a: x", "is not YAML"),
        ("\xff\xfe", "is not YAML"),
    ],
)
def test_a_wrong_file_ends_the_night_before_it_starts(nights: Nights, text: str, line: str) -> None:
    nights.file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        run_night(nights.program, nights.arguments())
    assert line in str(caught.value)
    assert "s.ecret" not in str(caught.value)
    assert not nights.output.exists()


@pytest.mark.parametrize("place", ["a-fifo", "/dev/zero", "large"])
def test_a_file_that_has_no_end_ends_the_night_before_it_starts(nights: Nights, tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "a-fifo")
    (tmp_path / "large").write_text("#" * 300_000)
    with pytest.raises(ConfigError, match=r"^runs=.*(is no regular file|is larger than 262,144 bytes)"):
        run_night(nights.program, ["night=n", f"runs={tmp_path / place}", f"output_dir={nights.output}"])


@pytest.mark.parametrize("given", ["", "s3://KEY:s.ecret@bucket/x"])
def test_a_directory_that_every_run_refuses_is_not_written_by_the_night(nights: Nights, given: str) -> None:
    with pytest.raises(ConfigError, match=r"^output_dir") as caught:
        run_night(nights.program, ["night=n", f"runs={nights.file}", f"output_dir={given}"], is_quick=False)
    assert "s.ecret" not in str(caught.value)


def test_a_run_that_cannot_be_started_fails_alone(nights: Nights) -> None:
    text = nights.file.read_text()
    nights.file.write_text(text.replace("runs:", f"runs:\n  long: conf=demo prompt.system={'x' * 140_000}\n", 1))
    assert nights.code() == 2
    assert nights.runs()[0]["reason"] == "the process cannot be started: Argument list too long"
    assert nights.of_each("status")[1:] == ["complete", "complete", "complete"]


@pytest.mark.parametrize("arguments", [["night=../x"], ["night=latest"], ["night="], ["night=n", "run_id=x"]])
def test_a_wrong_id_ends_the_night_before_it_starts(nights: Nights, arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        run_night(nights.program, [f"runs={nights.file}", f"output_dir={nights.output}", *arguments])
    assert not nights.output.exists()


def test_runs_with_different_directories_are_refused(nights: Nights) -> None:
    nights.file.write_text("runs: {a: conf=demo output_dir=x, b: conf=demo output_dir=y}")
    with pytest.raises(ConfigError, match="the runs of a night have one output_dir, and these have 'x', 'y'"):
        run_night(nights.program, ["night=n", f"runs={nights.file}"], is_quick=False)
    assert nights.code(is_quick=False) == 0  # output_dir= of the command is that of all


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_ends_the_night(nights: Nights, number: signal.Signals) -> None:
    nights.script("b", seconds=60)
    with started(nights) as process:
        wait_until(lambda: nights.lines("working") == ["a", "b"])
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
    assert nights.lines("signals") == [f"b {number}"]
    assert nights.of_each("status") == ["complete", "interrupted", "pending"]
    assert (nights.record()["status"], nights.record()["exit_code"]) == ("interrupted", 130)
    assert err.splitlines()[-1] == "error: interrupted: the same command with night=n does what is missing (b, c)"
    nights.script("b")
    assert nights.code() == 0
    assert nights.of_each("run_id") == ["n-a", "n-b", "n-c"]
    assert nights.lines("working") == ["a", "b", "b", "c"]


def test_a_killed_night_leaves_no_run_at_work(nights: Nights) -> None:
    nights.script("a", seconds=60)
    with started(nights) as process:
        wait_until(lambda: nights.lines("working") == ["a"])
        process.kill()
    wait_until(lambda: nights.lines("signals") == ["a 15"])
    assert nights.of_each("status") == ["running", "pending", "pending"]
    nights.script("a")
    assert nights.code() == 0


def test_a_second_night_in_the_same_directory_is_refused_or_waits(nights: Nights) -> None:
    nights.script("a", seconds=60)
    with started(nights) as first:
        wait_until(lambda: nights.lines("working") == ["a"])
        with pytest.raises(
            RunError, match=f"another night writes to {nights.output}: start this one when it has ended"
        ):
            run_night(nights.program, nights.arguments(night="m"))
        assert not (nights.output / "night=m.json").exists()
        nights.script("a")
        with started(nights, "wait_s=60", night="m") as third:
            assert third.stdout is not None
            assert "waiting for at most 60 s" in third.stdout.readline()
            first.send_signal(signal.SIGTERM)
            third.communicate(timeout=60)
            assert third.returncode == 0
    assert nights.of_each("status", "m") == ["complete"] * 3


def test_a_night_that_waits_ends_at_a_signal(nights: Nights) -> None:
    nights.script("a", seconds=60)
    with started(nights):
        wait_until(lambda: nights.lines("working") == ["a"])
        with started(nights, "wait_s=60", night="m") as second:
            assert second.stdout is not None
            second.stdout.readline()
            second.send_signal(signal.SIGTERM)
            _, err = second.communicate(timeout=60)
    assert (second.returncode, err) == (
        130,
        "error: interrupted while another night was running: nothing was started\n",
    )


def test_a_directory_that_cannot_be_written_is_one_line(nights: Nights) -> None:
    nights.output.write_text("a file")
    assert nights.code() == 2
    assert nights.lines("starts") == []


def test_a_reader_that_goes_away_does_not_end_the_night(nights: Nights) -> None:
    nights.script("a", seconds=0.5)
    with started(nights) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        assert process.wait(60) in (0, 1)  # 1: as after `| head`
    assert nights.of_each("status") == ["complete"] * 3


def test_a_damaged_manifest_is_a_failed_run(nights: Nights) -> None:
    nights.script("a", manifest={"counts": "many"})
    assert nights.code() == 2
    assert "manifest.json is damaged" in nights.runs()[0]["reason"]


def test_the_file_has_no_secret_of_the_environment(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "swordfish-1")
    nights.script("a", complete=False, code=2, stderr="error: refused: swordfish-1\n")
    nights.code()
    assert nights.runs()[0]["reason"] == "refused: ***"


def test_a_part_of_the_webhooks_url_is_a_secret_too(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:1/services/T0/swordfish?sig=herring1")
    nights.file.write_text(nights.file.read_text() + "notify: {url_env: NOTIFY_URL}\n")
    nights.script("a", complete=False, code=2, stderr="error: services/T0/swordfish, sig=herring1\n")
    nights.code()
    assert nights.runs()[0]["reason"] == "***, ***"


def test_a_secret_inside_of_an_argument_is_not_recorded(nights: Nights) -> None:
    nights.file.write_text("runs: {a: 'conf=demo engine.extra={hf_token: hunter2222, x}'}")
    nights.code()
    assert "hunter2222" not in (nights.output / "night=n.json").read_text()


def test_hostile_text_reaches_neither_terminal_nor_chat(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    nights.script("a", complete=False, code=2, stderr="error: \x1b[2J<!channel> @all [red]x[/red]\n")
    assert nights.code() == 2
    captured = capfd.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "[red]x[/red]" in captured.out
    assert "<!channel>" not in nights.record()["text"]
    assert "@all" not in nights.record()["text"]


def test_a_page_that_cannot_be_written_is_a_warning(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(output_dir: str) -> str:
        assert output_dir == str(nights.output)
        raise ValueError("no page")

    run_night(nights.program, nights.arguments(), refuse)
    assert "warning: index.html was not written: ValueError: no page" in capfd.readouterr().out
    assert nights.record()["index"] is None
    run_night(nights.program, nights.arguments(), lambda _: "x/index.html")
    assert nights.record()["index"] == "x/index.html"


def test_a_night_in_object_storage(nights: Nights, s3_query: str) -> None:
    nights.script("a", complete=False, code=2, stderr="error: no\n")
    nights.file.write_text("runs: {a: conf=demo}")
    with pytest.raises(NightFailed):  # the fake run writes to a disk: only what is of the night is in object storage
        run_night(nights.program, ["night=n", f"runs={nights.file}", f"output_dir=s3://runs/x?{s3_query}"])
    store = ArtifactStore.open(f"s3://runs/x?{s3_query}")
    record = json.loads(store.read_text("night=n.json"))
    assert (record["output_dir"], record["runs"][0]["run"]) == ("s3://runs/x", "s3://runs/x/run=n-a")
    assert not store.exists(".night/lock.json")
