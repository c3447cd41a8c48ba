"""The manifests of conf/kuberay: fields that KubeRay has, pods that Kubernetes accepts, commands that we accept."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml
from builders import ROOT
from manifests import KUBERAY, documents, fakes, manifests, pods, ray_jobs, require_parsed, shell, words_of_entrypoint

from pipeline.cli import COMMANDS, parse
from pipeline.config.schema import Config
from pipeline.nightly.record import NightRecord, RunRecord

FIELDS: dict[str, Any] = yaml.safe_load((ROOT / "tests/unit/kuberay_fields.yaml").read_text(encoding="utf-8"))
RAY_KINDS = {"RayCronJob": "RayCronJobSpec", "RayJob": "RayJobSpec"}
SCALARS = {"string": str, "int32": int, "bool": bool}
KUBERNETES = "1.37"

JOBS = ray_jobs()
EACH_JOB = pytest.mark.parametrize("spec", JOBS.values(), ids=JOBS)


def faults(value: Any, kind: str, path: str) -> Iterator[str]:
    """Yield what KubeRay would refuse in a value of this Go type: unknown fields, and values of another type."""
    known = FIELDS.get(kind)
    if kind.startswith("[]"):
        for number, each in enumerate(value):
            yield from faults(each, kind[2:], f"{path}[{number}]")
    elif isinstance(known, Mapping):
        for name, each in value.items():
            field = known.get(name)
            yield from [f"{path}.{name}"] if field is None else faults(each, field["type"], f"{path}.{name}")
    elif isinstance(known, list):
        yield from [] if value in known else [f"{path}={value}"]
    elif kind == "map[string]string":
        yield from (f"{path}.{name}={each}" for name, each in value.items() if not isinstance(each, str))
    elif kind in SCALARS:
        yield from [] if type(value) is SCALARS[kind] else [f"{path}={value!r}"]
    else:
        assert kind.startswith("corev1."), f"{path}: {kind} is not in the list"


@pytest.mark.parametrize("name", [name for name, each in manifests().items() if each["kind"] in RAY_KINDS])
def test_kuberay_knows_every_field(name: str) -> None:
    manifest = manifests()[name]
    assert manifest["apiVersion"] == "ray.io/v1"
    assert list(faults(manifest["spec"], RAY_KINDS[manifest["kind"]], "spec")) == []


def test_a_field_that_kuberay_does_not_know_is_a_fault() -> None:
    spec = {"backoffLimit": "2", "concurrencyPolicy": "Forbid", "submissionMode": "HTTP"}
    assert list(faults(spec, "RayJobSpec", "spec")) == [
        "spec.backoffLimit='2'",
        "spec.concurrencyPolicy",
        "spec.submissionMode=HTTP",
    ]


@EACH_JOB
def test_kubernetes_accepts_the_pods(spec: dict[str, Any]) -> None:
    for name, template in pods(spec).items():
        metadata = {**template.get("metadata", {}), "name": name}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


OTHER_KINDS = {"ConfigMap", "CronJob", "Role", "RoleBinding", "ServiceAccount"}


@pytest.mark.parametrize("name", [name for name, each in manifests().items() if each["kind"] in OTHER_KINDS])
def test_kubernetes_accepts_the_other_manifests(name: str) -> None:
    kubernetes_validate.validate(manifests()[name], KUBERNETES, strict=True)


def test_kubernetes_refuses_a_pod_with_an_unknown_field() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [], "preStop": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_cron_job_and_the_kuberay_one_create_the_same_night() -> None:
    assert JOBS["nightly.yaml"] == JOBS["nightly-job.yaml"]
    assert (
        JOBS["run.yaml"]["rayClusterSpec"]["workerGroupSpecs"]
        == JOBS["nightly.yaml"]["rayClusterSpec"]["workerGroupSpecs"]
    )


@EACH_JOB
def test_the_operator_accepts_how_the_cluster_is_deleted(spec: dict[str, Any]) -> None:
    """KubeRay's own rules (ray-operator/controllers/ray/utils/validation.go, validateDeletionConfiguration)."""
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    assert bool(rules) != spec.get("shutdownAfterJobFinishes", False)
    assert not (spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"))
    conditions: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        seconds = rule["condition"]["ttlSeconds"]
        (condition,) = ((key, value) for key, value in rule["condition"].items() if key != "ttlSeconds")
        assert rule["policy"] not in conditions.setdefault(condition, {})
        conditions[condition][rule["policy"]] = seconds
    for by_policy in conditions.values():
        assert by_policy["DeleteWorkers"] <= by_policy["DeleteCluster"] <= by_policy["DeleteSelf"]
    if rules:  # a deadline leaves the job's own status as it was
        assert ("jobDeploymentStatus", "Failed") in conditions


@EACH_JOB
def test_a_cluster_has_what_a_run_needs(spec: dict[str, Any]) -> None:
    cluster, templates = spec["rayClusterSpec"], pods(spec)
    pins = (ROOT / "requirements/gpu.txt").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']}\n" in pins
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    assert "enableInTreeAutoscaling" not in cluster  # DeleteWorkers is refused with it
    containers = {name: template["spec"]["containers"][0] for name, template in templates.items()}
    assert len({container["image"] for container in containers.values()}) == 1
    for name, container in containers.items():
        assert {"secretRef": {"name": "pipeline"}} in container["envFrom"], name
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/dev/shm", "/huggingface"} <= mounts, name
        assert {"name": "metrics", "containerPort": 8080} in container["ports"], name
        assert {"name": "RAY_worker_niceness", "value": "0"} in container["env"], name


@EACH_JOB
def test_a_stopped_job_has_time_for_the_rows_in_flight(spec: dict[str, Any]) -> None:
    grace_s = Config.__dataclass_fields__["run"].default.grace_s
    stop_wait_s = int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    head = pods(spec)["head"]["spec"]
    (hook_s,) = map(int, re.findall(r"seq (\d+)", pre_stop(spec)))
    assert grace_s < stop_wait_s
    assert grace_s < hook_s < head["terminationGracePeriodSeconds"]


def pre_stop(spec: dict[str, Any]) -> str:
    shell_name, option, script = pods(spec)["head"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell_name, option) == ("sh", "-c")
    return str(script)


@EACH_JOB
def test_the_entrypoint_is_a_command_of_ours(spec: dict[str, Any], tmp_path: Path) -> None:
    dash_m, *words = words_of_entrypoint(spec["entrypoint"], tmp_path)
    assert dash_m == "-m"
    require_parsed(words)
    name = words[0].removeprefix("pipeline.")
    id_of_try = {"night": "night", "run": "run_id"}[name]
    assert f"{id_of_try}=nightly-29401260" in words  # the RayJob's name: the same in every try
    assert int((tmp_path / "driver.pid").read_text()) > 0


def test_the_night_of_the_example_has_runs_whose_words_we_accept(tmp_path: Path) -> None:
    night = yaml.safe_load(documents("night.yaml")[0]["data"]["night.yaml"])
    *_, words = [words_of_entrypoint(JOBS["nightly.yaml"]["entrypoint"], tmp_path)]
    _, for_all = parse("night", words[2:])
    assert list(night) == ["runs", "notify"]
    for arguments in night["runs"].values():
        require_parsed(["pipeline.run", *arguments.split(), *for_all])


def test_the_pre_stop_hook_ends_when_the_driver_has(tmp_path: Path) -> None:
    pid_file = tmp_path / "driver.pid"
    script = pre_stop(JOBS["nightly.yaml"]).replace("/tmp/driver.pid", str(pid_file))
    assert shell(script, {"PATH": "/usr/bin:/bin"}).returncode == 0  # there is no driver
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pid_file.write_text(str(driver.pid))
    hook = subprocess.Popen(["sh", "-c", script])
    assert driver.wait(30) == -signal.SIGTERM
    assert hook.wait(30) == 0


KUBECTL = """
echo "$@" >> "$CALLS"
case $1 in
  apply) cat > "$APPLIED" ;;
  get) sed -n "$(grep -c ^get "$CALLS")p" "$ANSWERS" ;;
esac
"""


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (["n-1 Running", "n-1 Complete"], 0),
        (["n-1 ", "n-1 Retrying", "n-1 Failed"], 3),
        (["n-1 ValidationFailed"], 3),
        (["n-1 Running", ""], 3),
    ],
)
def test_the_cron_job_applies_the_night_and_waits_for_its_end(tmp_path: Path, answers: list[str], code: int) -> None:
    (job,) = [each for each in documents("cronjob.yaml") if each["kind"] == "CronJob"]
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (rule,) = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [3]  # no other pod starts a night again that has ended
    *_, script = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
    files = {name: str(tmp_path / name) for name in ("CALLS", "APPLIED", "ANSWERS")}
    (tmp_path / "ANSWERS").write_text("".join(f"{answer}\n" for answer in answers))
    environment = fakes(tmp_path / "bin", kubectl=KUBECTL) | files | {"NIGHT": "n-1", "POLL_S": "0.01"}
    done = shell(script.replace("/etc/nightly/", f"{KUBERAY}/"), environment)
    assert done.returncode == code, done.stderr
    applied = yaml.safe_load((tmp_path / "APPLIED").read_text())
    assert applied == {**documents("nightly-job.yaml")[0], "metadata": {"name": "n-1"}}


def test_the_cron_job_may_do_what_it_does() -> None:
    (role,) = [each for each in documents("cronjob.yaml") if each["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create", "patch"]}]


RAY = """
printf '%s\\n' "$@" > "$ARGUMENTS"
sleep "$SECONDS_OF_NIGHT"
exit $(sed -n "$(ls "$TRIES" | wc -l)p" "$CODES")
"""


@pytest.mark.parametrize(("codes", "code"), [([0], 0), ([1, 0], 0), ([1, 1, 1], 2)])
def test_the_script_of_a_host_tries_a_night_three_times(tmp_path: Path, codes: list[int], code: int) -> None:
    environment = host(tmp_path, codes)
    done = shell(str(ROOT / "conf/hosts/nightly.sh"), environment)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("has failed") == sum(each != 0 for each in codes)
    words = (tmp_path / "arguments").read_text().splitlines()
    require_parsed(words[words.index("-m") + 1 :])
    assert {"night=2026-11-28", "output_dir=/shared/nightly"} <= set(words)


def test_arguments_of_the_script_of_a_host_are_for_all_runs(tmp_path: Path) -> None:
    script = ROOT / "conf/hosts/nightly.sh"
    done = shell(f'{script} run.retry_failed=true "only=[med_bench]"', host(tmp_path, [0]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "arguments").read_text().splitlines()[-2:] == ["run.retry_failed=true", "only=[med_bench]"]


@pytest.mark.parametrize(
    ("status", "age_h", "is_missing"),
    [("complete", 1, False), ("complete", 27, True), ("failed", 1, True), ("running", 1, True)],
)
def test_the_alarm_of_a_host_is_printed_unless_a_night_was_completed(
    tmp_path: Path, status: Literal["complete", "failed", "running"], age_h: int, is_missing: bool
) -> None:
    run = RunRecord(name="a", run_id="n-a", status="complete")
    record = NightRecord(night="n", status=status, strict=False, started_at="", output_dir="", runs=(run,))
    file = tmp_path / "night=n.json"
    file.write_text(record.to_json())
    os.utime(file, times=(time.time() - age_h * 3600,) * 2)
    page = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")
    command = re.search(r"(?ms)^find /shared/nightly .*?$(?<!\\)", page)
    assert command is not None
    done = shell(command[0].replace("/shared/nightly", str(tmp_path)), {"PATH": "/usr/bin:/bin"})
    assert done.stdout.startswith("NightMissing") == is_missing


def test_the_page_tries_failed_rows_of_a_night_again() -> None:
    page = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")
    command = re.search(r"(?m)^sed -e (.*retry_failed.*) \\$", page)
    assert command is not None
    done = shell(f"sed -e {command[1]} {KUBERAY / 'nightly-job.yaml'}", {"PATH": "/usr/bin:/bin"})
    spec = yaml.safe_load(done.stdout)
    assert spec["metadata"]["name"] == "nightly-29401260"
    assert " wait_s=3600 run.retry_failed=true" in " ".join(spec["spec"]["entrypoint"].split())


def test_a_second_night_on_a_host_is_refused(tmp_path: Path) -> None:
    environment = host(tmp_path, [0]) | {"SECONDS_OF_NIGHT": "60"}
    script = str(ROOT / "conf/hosts/nightly.sh")
    first = subprocess.Popen(["setsid", script], env=environment)
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "arguments").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        second = shell(script, environment)
    finally:
        subprocess.run(["kill", "--", f"-{first.pid}"], check=False)
        first.wait()
    assert second.returncode == 1
    assert "a night is still running" in second.stderr


def host(directory: Path, codes: list[int]) -> dict[str, str]:
    """Return the environment of a host whose Ray jobs end with these exit codes."""
    home = directory / "home"
    (home / ".venv-gpu").mkdir(parents=True)
    (directory / "tries").mkdir()
    count = 'mktemp -p "$TRIES" > /dev/null'
    fakes(home / ".venv-gpu/bin", ray=count + RAY, python="exit 9")
    (directory / "codes").write_text("".join(f"{code}\n" for code in codes))
    (directory / "night.env").write_text("export RUNS=conf/night.yaml OUTPUT_DIR=/shared/nightly\n")
    return {
        "PATH": "/usr/bin:/bin",
        "NIGHT_ENV": str(directory / "night.env"),
        "PIPELINE_HOME": str(home),
        "TMPDIR": str(directory),
        "NIGHT": "2026-11-28",
        "ARGUMENTS": str(directory / "arguments"),
        "TRIES": str(directory / "tries"),
        "CODES": str(directory / "codes"),
        "SECONDS_OF_NIGHT": "0",
    }


def test_the_board_has_eight_panels_and_an_alarm_names_its_section() -> None:
    board = yaml.safe_load((KUBERAY / "grafana.json").read_text(encoding="utf-8"))  # JSON is YAML
    assert len(board["panels"]) == 8
    rules = documents("alerts.yaml")[0]["spec"]["groups"][0]["rules"]
    assert len(rules) == 4
    headings = re.findall(r"(?m)^### (\w+)", (ROOT / "docs/nightly.md").read_text(encoding="utf-8"))
    assert {rule["alert"] for rule in rules} <= set(headings)
    for rule in rules:
        assert rule["annotations"]["runbook"] == f'docs/nightly.md, "{rule["alert"]}"'


def test_names_of_kuberay_and_vllm_in_alerts_and_board_exist() -> None:
    """KubeRay's: ray-operator/controllers/ray/metrics/ray_job_metrics.go:49. vLLM's are in its source."""
    text = "".join((KUBERAY / name).read_text(encoding="utf-8") for name in ("alerts.yaml", "grafana.json"))
    assert set(re.findall(r"\bkuberay_job_\w+", text)) == {"kuberay_job_deployment_status"}
    package = importlib.util.find_spec("vllm")
    if package is None or not package.submodule_search_locations:
        pytest.skip("vllm is not installed here")
    source = Path(package.submodule_search_locations[0], "v1/metrics/loggers.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"\bray_vllm_(\w+)", text)):
        assert f'"vllm:{name}"' in source


def test_every_command_that_the_manifests_need_exists() -> None:
    assert {"night", "run"} <= set(COMMANDS)
