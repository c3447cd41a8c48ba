"""The board in a browser: it requests nothing and runs nothing, fits a narrow screen, and its points open reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from cheap_nights import declining, make_nights
from reports import Opened

from pipeline.overview import page

pytestmark = pytest.mark.usefixtures("at_root")

HOSTILE = "<img src=http://127.0.0.1:9/x onerror=alert(1)><script>alert(2)</script>\u202e"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the board of 40 nights of a model whose name is hostile, and of a second one."""
    output = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[2])
        make_nights(output, declining(40), model="a", broken={25: "max_drop"}, engine={"r": {"served_model": HOSTILE}})
        runs = make_nights(output, [0.5, 0.5, 0.6], model="b")
        Path(runs[2].path("report.html")).write_text("<title>the report</title>")
        return Path(page.write_index(str(output)))


@pytest.mark.parametrize(("width", "scheme"), [(500, "light"), (1280, "dark")])
def test_the_page_fits_the_screen_and_shows_plots_and_tables(
    opened: Opened, board: Path, width: int, scheme: str
) -> None:
    shown = opened.page
    shown.set_viewport_size({"width": width, "height": 800})
    shown.emulate_media(color_scheme=scheme)
    shown.goto(board.as_uri())
    root = shown.locator("html")
    assert root.evaluate("each => each.scrollWidth") <= width
    assert shown.locator("figure svg").count() == 2
    box = shown.locator("figure svg").first.bounding_box()
    assert box["width"] > 400
    assert shown.locator("article.card.alarm").count() == 1
    assert shown.get_by_role("img").first.get_attribute("aria-label").startswith("Score of ")
    background = shown.locator("body").evaluate("each => getComputedStyle(each).backgroundColor")
    assert background == {"light": "rgb(251, 251, 250)", "dark": "rgb(22, 24, 27)"}[scheme]


def test_a_point_and_a_row_open_the_report(opened: Opened, board: Path) -> None:
    shown = opened.page
    shown.goto(board.as_uri())
    shown.get_by_role("link", name="2025-10-22-b").last.click()
    assert shown.title() == "the report"
    shown.goto(board.as_uri())
    shown.locator("figure a").last.click()
    assert shown.url.endswith("/run%3D2025-10-22-b/report.html")
