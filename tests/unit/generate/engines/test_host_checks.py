"""What a GPU host lacks is named in one line a fault, before Ray or an engine starts.

The driver is a recorded library, the packages are empty ones as if built for CUDA, the compiler is this machine's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from builders import ROOT
from gpu_hosts import cuda_packages, host_environment

NAMESPACE = ["unshare", "--mount"]
SCRIPT = """
import json, os, sys
from pipeline.config.loading import compose
from pipeline.errors import HostError
from pipeline.generate.engines import gpu_memory, host_checks

gpu_memory.RELEASE_S = 0.0
answers, base = {}, dict(os.environ)
for name, (overrides, starts, variables) in json.load(sys.stdin).items():
    os.environ.clear()
    os.environ.update(base | variables)
    try:
        warnings = host_checks.require_fit(compose(["conf=demo", *overrides]), starts=starts)
        answers[name] = {"faults": [], "warnings": warnings}
    except HostError as error:
        answers[name] = {"faults": error.lines, "warnings": []}
print(json.dumps(answers))
"""
PAIR = ["engine.tensor_parallel_size=2"]
AUTO = ["engine.replicas=auto"]
OLD = {"NVML_DRIVER": "570.124.06"}
BUSY = {"NVML_USED": "1,1,1,70", "NVML_PID": "4242"}

CASES: dict[str, tuple[list[str], bool, dict[str, str]]] = {
    "fit": (AUTO, True, {}),
    "fit pair": (["engine.replicas=4", *PAIR], True, {}),
    "old driver": (AUTO, True, OLD),
    "old driver, its libcuda from a package for compatibility": (AUTO, True, OLD | {"NVML_CUDA": "13000"}),
    "libcuda older than the driver": (AUTO, True, {"NVML_CUDA": "12080"}),
    "no libcuda": (AUTO, True, {"NVML_CUDA": "-1"}),
    "driver not loaded": (AUTO, True, {"NVML_INIT": "9"}),
    "no GPU": (AUTO, True, {"NVML_COUNT": "0"}),
    "GPUs hidden": (AUTO, True, {"CUDA_VISIBLE_DEVICES": "-1"}),
    "GPUs hidden, preview": (AUTO, False, {"CUDA_VISIBLE_DEVICES": ""}),
    "driver not loaded, preview": (AUTO, False, {"NVML_INIT": "9"}),
    "no compiler": (AUTO, True, {"PATH": "/nowhere"}),
    "wrong compiler": (AUTO, True, {"CC": "/nowhere/cc"}),
    "broken compiler": (AUTO, True, {"CC": "/bin/false"}),
    "busy GPU, all needed": (AUTO, True, BUSY),
    "busy GPU, all needed, preview": (AUTO, False, BUSY),
    "busy GPU, the others suffice": (["engine.replicas=3", *PAIR], True, BUSY),
    "busy GPU, hidden": (AUTO, True, BUSY | {"CUDA_VISIBLE_DEVICES": "0,1,2"}),
    "busy GPU, small share": ([*AUTO, "engine.gpu_memory_utilization=0.1"], True, BUSY),
    "busy GPU, unknown process": (AUTO, True, {"NVML_USED": "70"}),
    "lost GPU": (AUTO, True, {"NVML_LOST": "5"}),
    "no such GPU": (AUTO, True, {"CUDA_VISIBLE_DEVICES": "0,8"}),
    "all at once": (AUTO, True, OLD | BUSY | {"PATH": "/nowhere"}),
    "cluster": ([*AUTO, "cluster.address=auto"], True, OLD),
}

Answers: TypeAlias = dict[str, dict[str, list[str]]]


def ask(cases: dict[str, Any], environment: dict[str, str], *before: str) -> Answers:
    """Return what each case finds on a host, in one process of the host."""
    line = [*before, sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        line, input=json.dumps(cases), cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    answers: Answers = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def answers(packages: Path, driver: Path) -> Answers:
    return ask(CASES, host_environment(packages, driver))


@pytest.mark.parametrize("name", ["fit", "fit pair", "cluster", "busy GPU, hidden", "busy GPU, small share"])
def test_a_fit_host_passes_without_a_word(answers: Answers, name: str) -> None:
    assert answers[name] == {"faults": [], "warnings": []}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "old driver",
            "NVIDIA driver 570.124.06 runs CUDA 12.8 at most, and torch is built for CUDA 13.0: "
            "install driver 580 or later",
        ),
        (
            "libcuda older than the driver",
            "NVIDIA driver 580.82.07 runs CUDA 12.8 at most, and torch is built for CUDA 13.0: "
            "install driver 580 or later",
        ),
        ("no libcuda", "the NVIDIA driver's libcuda.so.1 is not found, "),
        ("driver not loaded", "the NVIDIA driver does not work (NVML: Driver Not Loaded): see nvidia-smi; "),
        ("driver not loaded, preview", "the NVIDIA driver does not work (NVML: Driver Not Loaded): "),
        ("no GPU", "no GPU is visible, and torch is built for CUDA 13.0: see nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ("GPUs hidden", "no GPU is visible, and torch is built for CUDA 13.0: "),
        ("no compiler", "there is no C compiler (gcc or clang), and Triton compiles kernels at first use: install gcc"),
        ("wrong compiler", "the C compiler '/nowhere/cc' cannot be run (No such file or directory), "),
        ("broken compiler", "the C compiler '/bin/false' fails ("),
        (
            "busy GPU, all needed",
            "GPU 3 (NVIDIA A100-SXM4-80GB): 10.0 of 80.0 GiB are free, and engine.gpu_memory_utilization=0.9 takes "
            "72.0: end process 4242 (70.0 GiB), or decrease engine.gpu_memory_utilization, or ",
        ),
        ("busy GPU, all needed, preview", "GPU 3 (NVIDIA A100-SXM4-80GB): 10.0 of 80.0 GiB are free, "),
        ("lost GPU", "GPU 5 does not answer (NVML: GPU is lost): reset it or restart the host, "),
        ("no such GPU", "GPU 8 does not answer (NVML: Invalid Argument): "),
    ],
)
def test_a_fault_is_one_line_with_the_fix(answers: Answers, name: str, line: str) -> None:
    (found,) = answers[name]["faults"]
    assert found.startswith(line)


def test_a_process_that_the_driver_does_not_name_is_to_be_looked_for(answers: Answers) -> None:
    (found,) = answers["busy GPU, unknown process"]["faults"]
    assert "takes 72.0: end what holds it (nvidia-smi on the host; " in found


def test_a_library_for_forward_compatibility_counts_as_the_driver(answers: Answers) -> None:
    assert answers["old driver, its libcuda from a package for compatibility"]["faults"] == []


def test_a_busy_gpu_that_may_not_be_needed_is_a_warning(answers: Answers) -> None:
    (warning,) = answers["busy GPU, the others suffice"]["warnings"]
    assert warning.startswith("GPU 3 ")


def test_a_host_whose_gpus_are_hidden_is_left_alone_by_the_preview(answers: Answers) -> None:
    assert answers["GPUs hidden, preview"] == {"faults": [], "warnings": []}


def test_several_faults_are_a_line_each(answers: Answers) -> None:
    assert [line.split(" ", 2)[:2] for line in answers["all at once"]["faults"]] == [
        ["NVIDIA", "driver"], ["there", "is"], ["GPU", "3"],
    ]  # fmt: skip


def test_a_machine_without_a_driver_ends_a_run_and_not_a_preview(packages: Path, tmp_path: Path) -> None:
    found = ask({"run": (AUTO, True, {}), "preview": (AUTO, False, {})}, host_environment(packages, tmp_path))
    (line,) = found["run"]["faults"]
    assert line.startswith(("no NVIDIA driver is found, and torch is built for CUDA 13.0", "the NVIDIA driver"))
    assert found["preview"]["faults"] == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open shared object file')",
            "ImportError: libcudart.so.13: cannot",
        ),
        ("import os; os._exit(7)", "exit code 7"),
    ],
)
def test_a_vllm_that_cannot_be_imported_is_named_with_its_reason(
    tmp_path: Path, driver: Path, code: str, reason: str
) -> None:
    packages = cuda_packages(tmp_path)
    (packages / "vllm/v1/engine/async_llm.py").write_text(code, encoding="utf-8")
    (line,) = ask({"run": (AUTO, True, {})}, host_environment(packages, driver))["run"]["faults"]
    assert line.startswith(f"engine.kind=vllm: vllm cannot be imported in {sys.prefix} ({reason}")
    assert line.endswith(": run `make gpu` for a new one")


@pytest.mark.parametrize("starts", [True, False])
def test_packages_that_are_not_installed_are_named(tmp_path: Path, driver: Path, starts: bool) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport pydantic, omegaconf, pynvml, runpy\n"
        "from pipeline.config.loading import compose\nfrom pipeline.errors import HostError\n"
        "from pipeline.generate.engines import host_checks\nconfig = compose(['conf=demo'])\nsys.path[:] = []\n"
        f"try:\n    host_checks.require_fit(config, starts={starts})\nexcept HostError as error:\n    print(error)"
    )
    line = [sys.executable, "-c", code]
    environment = host_environment(tmp_path, driver)
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"engine.kind=vllm: vllm and torch not installed in {sys.prefix}: run `make gpu` ")


def test_python_without_headers_is_named_with_the_package_that_has_them(
    packages: Path, driver: Path, tmp_path: Path
) -> None:
    """A Python whose home has the library of this one and no include/."""
    (tmp_path / "lib").symlink_to(Path(sysconfig.get_config_var("installed_base"), "lib"))
    environment = host_environment(packages, driver, PYTHONHOME=str(tmp_path))
    environment["PYTHONPATH"] += os.pathsep + sysconfig.get_paths()["purelib"]
    (line,) = ask({"run": (AUTO, True, {})}, environment)["run"]["faults"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert line == (
        f"Python.h is not in {tmp_path}/include/{version}, and Triton compiles kernels with it at first use: "
        f"install {version}-dev"
    )


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="mount namespaces need root",
)
@pytest.mark.parametrize(
    ("size", "faults", "warnings"),
    [
        ("64m", ["/dev/shm has 64 MiB free, and vLLM demands 240 for a replica of 2 GPUs: start the container "], []),
        ("300m", [], ["/dev/shm has 300 MiB free, and NCCL may need 1,024 for a replica of 2 GPUs: "]),
    ],
)
def test_little_shared_memory_is_named_where_a_replica_has_several_gpus(
    packages: Path, driver: Path, size: str, faults: list[str], warnings: list[str]
) -> None:
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    cases = {"pair": ([*AUTO, *PAIR], True, {}), "single": (AUTO, True, {})}
    found = ask(cases, host_environment(packages, driver), *NAMESPACE, "sh", "-c", mount, "sh")
    for kind, lines in (("faults", faults), ("warnings", warnings)):
        assert len(found["pair"][kind]) == len(lines)
        assert all(line.startswith(start) for line, start in zip(found["pair"][kind], lines, strict=True))
    assert found["single"] == {"faults": [], "warnings": []}


def test_memory_that_a_killed_engine_is_giving_back_is_waited_for(packages: Path, driver: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.write_text("70", encoding="utf-8")
    script = SCRIPT.replace("gpu_memory.RELEASE_S = 0.0", f"print(1) if 0 else None; freed = {str(used)!r}")
    script = script.replace(
        "    try:\n",
        "    import threading; threading.Timer(1.5, lambda: open(freed, 'w').write('1')).start()\n    try:\n",
    )
    line = [sys.executable, "-c", script]
    cases = json.dumps({"run": (AUTO, True, {})})
    environment = host_environment(packages, driver, NVML_USED=str(used))
    done = subprocess.run(line, input=cases, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["run"] == {"faults": [], "warnings": []}


class Hub(BaseHTTPRequestHandler):
    """Lists a model whose weights fit on no disk; a directory and a file of another layout hold copies."""

    def do_GET(self) -> None:
        sizes = {
            "config.json": 100,
            "model-1.safetensors": 10**17,
            "model-2.safetensors": 10**17,
            "consolidated.safetensors": 2 * 10**17,
            "original/model.safetensors": 2 * 10**17,
        }
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        body = json.dumps({"id": "org/big", "modelId": "org/big", "sha": "c0ffee", "siblings": siblings}).encode()
        self.send_response(200 if "org/big" in self.path else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_model_that_does_not_fit_on_the_disk_is_named_with_what_is_missing(
    packages: Path, driver: Path, hub: str, tmp_path: Path
) -> None:
    model = tmp_path / "hub/models--org--big"
    (model / "snapshots/c0ffee").mkdir(parents=True)
    (model / "snapshots/c0ffee/model-2.safetensors").touch()
    (model / "blobs").mkdir()
    environment = host_environment(packages, driver, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path))
    cases = {
        "big": ([*AUTO, "model.path=org/big"], True, {}),
        "unknown": ([*AUTO, "model.path=org/unknown"], True, {}),
    }
    found = ask(cases, environment)
    (line,) = found["big"]["faults"]
    assert line.startswith("model.path='org/big': 100,000,000.0 GB are still to be downloaded into ")
    assert line.endswith(" GB are free: free some space, or set HF_HOME to another disk")
    assert found["unknown"] == {"faults": [], "warnings": []}


@pytest.fixture
def working_torch(tmp_path: Path) -> Path:
    """Make packages as if built for CUDA of which torch works: all its files but one are links to the real ones."""
    real, packages = Path(sysconfig.get_paths()["purelib"], "torch"), cuda_packages(tmp_path / "packages")
    (packages / "torch/__init__.py").unlink()
    for path in real.iterdir():
        if path.name not in ("version.py", "__pycache__"):  # compiled files must not get into the real package
            (packages / "torch" / path.name).symlink_to(path)
    text = (real / "version.py").read_text(encoding="utf-8").replace("= None", "= '13.0'", 1)
    (packages / "torch/version.py").write_text(text, encoding="utf-8")
    return packages


@pytest.mark.parametrize("module", ["pipeline.run", pytest.param("pipeline.preview", marks=pytest.mark.slow)])
def test_the_commands_end_with_a_line_for_each_fault(
    module: str, working_torch: Path, driver: Path, tmp_path: Path
) -> None:
    environment = host_environment(working_torch, driver, NVML_DRIVER="570.124.06", PATH="/nowhere")
    line = [sys.executable, "-m", module, "conf=demo", "limit=1", "reasoning_parser=null"]
    line += [f"output_dir={tmp_path}/outputs"] + ["run_id=one"] * (module == "pipeline.run")
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("error: NVIDIA driver 570.124.06 runs CUDA 12.8 at most")
    assert second.startswith("error: there is no C compiler")
    assert ("checks" in done.stdout) == (module == "pipeline.preview")
    assert not (tmp_path / "outputs/run=one/prompts").exists()
