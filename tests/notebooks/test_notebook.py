"""notebooks/analysis.ipynb runs from the first cell to the last and displays the contents of the views."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import ROOT

NOTEBOOK = ROOT / "notebooks/analysis.ipynb"

Cells = dict[str, list[Any]]

COMMAND = ["-c", "from nbclient.cli import main; main()"]
COMMAND += ["notebooks/analysis.ipynb", "--output=tonight.ipynb", "--timeout=300"]
IN_THE_ROOT = [
    "-c",
    """
import nbclient, nbformat
notebook = nbformat.read("notebooks/analysis.ipynb", as_version=4)
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, "notebooks/tonight.ipynb")
""",
]


def executed(directory: Path, output: Path, more: str, line: list[str] = COMMAND) -> Cells:
    """Execute the notebook as README's command does; return the outputs of each code cell by its id.

    Args:
        directory: An empty directory, in which notebooks/ and outputs/ are created.
        output: The directory of the runs.
        more: Source of a cell inserted after the parameters.
        line: Arguments of Python; the kernel runs in notebooks/ with COMMAND, in the project's root with IN_THE_ROOT.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    after = next(k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])) + 1
    notebook.cells.insert(after, nbformat.v4.new_code_cell(more))
    (directory / "notebooks").mkdir()
    nbformat.write(notebook, directory / "notebooks/analysis.ipynb")
    for name in ("views.sql", "analysis_helpers.py"):
        shutil.copy(NOTEBOOK.parent / name, directory / "notebooks")
    (directory / "outputs").symlink_to(output)
    # In a separate process: the client leaves its sockets to the garbage collector.
    done = subprocess.run(
        [sys.executable, *line], cwd=directory, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    notebook = nbformat.read(directory / "notebooks/tonight.ipynb", as_version=4)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def cells(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Cells:
    return executed(tmp_path_factory.mktemp("notebook"), made, "price_per_gpu_hour = 2.0")


def html(outputs: list[Any]) -> str:
    return "".join(output.data.get("text/html", "") for output in outputs)


def test_it_is_committed_without_outputs_and_for_any_python_3() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in code if len(cell.source.splitlines()) > 12] == []


def test_every_plot_cell_makes_one_figure_and_nothing_warns(cells: Cells) -> None:
    plots = [name for name in cells if name.endswith("-plot")]
    assert plots == ["leaderboard-plot", "trend-plot", "over-runs-plot", "hardest-plot", "wording-plot", "cost-plot"]
    for name in plots:
        assert [sorted(output.data) for output in cells[name]] == [["image/png", "text/plain"]], name
    assert not [output for outputs in cells.values() for output in outputs if output.output_type == "stream"]


def test_the_leaderboard_has_the_scores_of_metrics_parquet(cells: Cells, made: Path) -> None:
    table = html(cells["leaderboard"])
    expected = duckdb.sql(
        f"SELECT run, round(value, 3) FROM read_parquet('{made}/run=*/metrics.parquet', hive_partitioning = true, "
        "hive_types = {'run': VARCHAR}) WHERE level = 'run' AND metric = 'score' AND split = 'test'"
    ).fetchall()
    assert len(expected) == 3
    for run, value in expected:
        assert re.search(rf"<td>{run}</td>\s*<td>[^<]*</td>\s*<td>all</td>\s*<td>{value:.3f}</td>", table)


def test_a_questions_cost_shares_the_runs_gpu_hours_by_tokens(cells: Cells) -> None:
    # 90 s on 8 GPUs are 0.2 GPU hours; a task has 5 of the run's 9,000 tokens and 6 questions.
    hours = 1000 * 0.2 * 5 / 9_000 / 6
    assert f"<td>{hours:.3f}</td>" in html(cells["cost"])
    assert f"<td>{2 * hours:.3f}</td>" in html(cells["cost"])


def test_each_kind_of_failure_has_an_example(cells: Cells) -> None:
    examples = html(cells["failures-shown"])
    kinds = re.findall(r"<h4>(.*?): agro_bench, test, id (\d), repeat 0</h4>", examples)
    assert kinds == [
        ("cut", "1"),
        ("empty, and right by accident", "4"),
        ("failed", "3"),
        ("no letter", "2"),
        ("right, but not exact", "5"),
    ]
    assert (
        "<b>generated</b> <pre dir='auto' style='white-space: pre-wrap; overflow-wrap: anywhere'>мысли</pre>"
        in examples
    )
    assert "it killed &lt;b&gt;3&lt;/b&gt; engines" in examples


def test_texts_of_questions_and_models_are_displayed_as_text(cells: Cells) -> None:
    for outputs in cells.values():
        tables = [output for output in outputs if "text/html" in output.get("data", {})]
        assert "<script>alert" not in html(tables)
    assert (
        html(cells["failures-shown"]).count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    )  # a prompt; what was generated, and the response
    assert "&lt;script&gt;alert(1)" in html(cells["wording-examples"])


def test_it_runs_in_the_root_over_one_run_whose_golds_are_hidden(tmp_path: Path, made: Path) -> None:
    run = Path(shutil.copytree(made / "run=large", tmp_path / "hidden/run=large"))
    table = pq.ParquetFile(run / "metrics.parquet").read()
    pq.write_table(table.filter(pc.equal(table["metric"], "none")), run / "metrics.parquet")
    cells = executed(tmp_path, tmp_path / "hidden", "split = 'test'", IN_THE_ROOT)
    assert "right, but not exact" in html(cells["failures"])
    assert "large" in html(cells["choice"])
