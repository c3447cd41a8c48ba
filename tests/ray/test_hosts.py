"""Two hosts of an existing cluster: the environment of their actors, and a run of which each host generates a part.

What is refused before a run starts on several hosts is in test_node_checks.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray
from ray_hosts import head, other_host
from scripted import ScriptedFactory

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.generate.cluster import cluster
from pipeline.orchestrator import execute
from pipeline.runs.manifest import read_manifest

pytestmark = [pytest.mark.usefixtures("at_root"), pytest.mark.slow]


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


@pytest.mark.parametrize("storage", ["disk", "s3"])
def test_two_hosts_that_share_the_storage_complete_a_run(storage: str, s3_query: str, tmp_path: Path) -> None:
    output = str(tmp_path) if storage == "disk" else f"s3://runs/hosts?{s3_query}"
    overrides = ["run_id=two", f"output_dir={output}", "run.flush_s=0.2", "cluster.address=auto"]
    with head() as address:
        ray.init(address=address, log_to_driver=False)
        with other_host(address):
            config = compose(["conf=demo", *overrides, "limit=20", "engine.replicas=auto", "engine.max_num_seqs=4"])
            run = execute(config, ScriptedFactory(seconds=0.3))
    manifest = read_manifest(run)
    assert manifest is not None
    assert manifest.is_complete
    assert len(manifest.engine) == 2
    assert not any("proof" in name for name in run.files())
