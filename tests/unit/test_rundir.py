"""What a run is gone on with: everything that its completions do not depend on may change."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import settings

from pipeline import compose, rundir
from pipeline.errors import RunError


@pytest.mark.usefixtures("at_root")
def test_a_run_goes_on_when_only_the_form_has_changed(tmp_path: Path) -> None:
    words = [f"output_dir={tmp_path}", "run_id=one"]
    run, config = rundir.place(settings(*words))
    rundir.begin(run, config)
    rundir.begin(run, settings(*words, "submission.team=Мы", "submission.unmeasured.cuda=12.8"))
    assert compose.load(run.read_text("config.yaml"), "config.yaml").submission.team == "Мы"
    with pytest.raises(RunError, match="was begun with seed=1234"):
        rundir.begin(run, settings(*words, "seed=5"))
