"""Two hosts of an existing cluster: the environment of their actors, and a run's directory that only one of them has.

The second host is a Ray node in a mount namespace of its own, with an empty file system over the directory of runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from builders import Counting, completions, make_prompt
from scripted import ScriptedFactory

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import cluster
from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore

pytestmark = [pytest.mark.usefixtures("at_root"), pytest.mark.slow]

NAMESPACE = ["unshare", "--mount"]


@contextmanager
def head() -> Iterator[str]:
    """Start a node with one simulated GPU; yield its address."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    some = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
    try:
        yield some.address
    finally:
        ray.shutdown()
        some.shutdown()


@contextmanager
def other_host(address: str, hidden: Path) -> Iterator[None]:
    """Start a second node with one simulated GPU, whose directory `hidden` is another, empty one."""
    start = f"{sys.executable} -m ray.scripts.scripts start --address={address} --num-cpus=2 --num-gpus=1 --block"
    script = f"mount -t tmpfs none {hidden} && exec {start}"
    process = subprocess.Popen([*NAMESPACE, "sh", "-c", script], start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def settings(address: str) -> Config:
    return compose(["conf=demo", f"cluster.address={address}", "engine.replicas=auto", "engine.max_num_seqs=4"])


def environment() -> dict[str, str]:
    return dict(os.environ)


def test_actors_of_an_existing_cluster_have_the_runs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with head() as address:
        monkeypatch.setenv("VLLM_SET_LATER", "1")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with cluster(settings(address)):
            found = ray.get(ray.remote(environment).remote())
    assert found["VLLM_SET_LATER"] == "1"
    assert "HF_TOKEN" not in found


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="mount namespaces need root",
)
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_host_without_the_runs_directory_ends_the_run_at_once(
    run_with_prompts: Callable[[list[Prompt]], ArtifactStore], tmp_path: Path, is_shared: bool
) -> None:
    run = run_with_prompts([make_prompt(number) for number in range(40)])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with head() as address, other_host(address, elsewhere if is_shared else tmp_path):
        config = settings(address)
        ray.init(address=address, log_to_driver=False)
        until = time.monotonic() + 60
        while ray.cluster_resources().get("GPU") != 2 and time.monotonic() < until:
            time.sleep(0.2)
        with cluster(config) as placement:
            assert placement.num_replicas == 2
            script, progress = ScriptedFactory(seconds=0.1), Counting()
            if is_shared:
                made = generate_stage.generate(config, run, placement, script, progress, progress)
                assert len(made.engine) == 2
                assert len(completions(run)) == 40
                return
            with pytest.raises(ConfigError, match=r"^output_dir: host \S+ does not see .*/run=test/journal/session-"):
                generate_stage.generate(config, run, placement, script, progress, progress)
