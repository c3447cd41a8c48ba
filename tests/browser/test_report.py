"""report.html in a real browser, opened from a file: its lists, search and samples; hostile text does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from archives import Scored, completion, question
from reports import HOSTILE, MakeReport, Opened, answer, flip, listening, report_of, shows, twenty


@pytest.fixture
def page(report_of_twenty: Path, opened: Opened) -> Any:
    """Open a report of the twenty questions at its list of samples."""
    return opened.open(report_of_twenty, "#samples")


def test_it_opens_from_a_file_with_plots_and_one_request(report_of_twenty: Path, opened: Opened) -> None:
    page = opened.open(report_of_twenty)
    assert len(opened.requests) == 1
    assert page.is_visible("#overview")
    assert page.locator("#plot-lengths svg").count() > 0
    page.select_option("#plot-split", "train")
    assert page.locator("#plot-tasks svg circle").count() == 4


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, "20 samples"),
        ({"task": "agro_bench"}, "10 of 20 samples"),
        ({"split": "train"}, "4 of 20 samples"),
        ({"split": "train", "task": "med_bench"}, "2 of 20 samples"),
        ({"result": "right"}, "2 of 20 samples"),
        ({"result": "wrong"}, "2 of 20 samples"),
        ({"result": "unscored"}, "15 of 20 samples"),
        ({"result": "failed"}, "1 of 20 samples"),
        ({"finish": "error"}, "1 of 20 samples"),
        ({"category": '["subject","soil"]'}, "20 samples"),
        ({"result": "right", "split": "test"}, "0 of 20 samples"),
    ],
    ids=str,
)
def test_filters_give_the_right_counts(page: Any, filters: dict[str, str], count: str) -> None:
    for name, value in filters.items():
        page.select_option(f"[data-filter={name}]", f"={value}")
    shows(page, "#count", count)
    in_view = -(-page.locator("#list").evaluate("(list) => list.clientHeight") // 50) + 6
    assert page.locator(".row").count() == min(int(count.split()[0]), in_view)


@pytest.mark.parametrize(
    ("query", "count"),
    [("СЛОВО-7", "2 of 20 samples"), ("too long", "1 of 20 samples"), (".*", "0 of 20 samples"), ("Что", "20 samples")],
)
def test_search_covers_every_text_and_is_literal(page: Any, query: str, count: str) -> None:
    page.fill("#search", query)
    shows(page, "#count", count)


def test_clear_brings_all_samples_back(page: Any) -> None:
    page.select_option("[data-filter=task]", "=agro_bench")
    page.fill("#search", "Слово-7")
    shows(page, "#count", "1 of 20 samples")
    page.click("#clear")
    shows(page, "#count", "20 samples")


def test_a_sample_shows_its_prompt_response_answer_gold_and_scores(page: Any) -> None:
    page.select_option("[data-filter=result]", "=right")
    page.locator(".row").first.click()
    shows(page, "#name", "agro_bench / train / 9")
    assert "Слово-9" in page.text_content("#parts")
    fields = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert (fields["extracted answer"], fields["gold"], fields["correct"]) == ("B", "B", "1")


@pytest.mark.parametrize("anchor", ["#med_bench/9", "#med_bench/train/9", "#med_bench/train/9/0"])
def test_a_link_opens_its_sample(report_of_twenty: Path, opened: Opened, anchor: str) -> None:
    page = opened.open(report_of_twenty, anchor)
    shows(page, "#name", "med_bench / train / 9")
    assert page.locator(".row[aria-selected=true]").count() == 1


def test_a_link_to_a_missing_sample_is_reported(report_of_twenty: Path, opened: Opened) -> None:
    page = opened.open(report_of_twenty, "#med_bench/99")
    shows(page, "#count", "#med_bench/99 names no sample of this run")


def test_the_keyboard_moves_searches_and_closes(page: Any) -> None:
    page.keyboard.press("j")
    shows(page, "#name", "agro_bench / test / 0")
    page.keyboard.press("j")
    shows(page, "#name", "agro_bench / test / 1")
    assert page.url.endswith("#agro_bench/test/1/0")
    page.keyboard.press("ArrowUp")
    shows(page, "#name", "agro_bench / test / 0")
    page.keyboard.press("/")
    page.wait_for_selector("#search:focus")
    page.keyboard.type("jk")
    shows(page, "#count", "0 of 20 samples")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") != "search"
    page.keyboard.press("Escape")
    shows(page, "#count", "20 samples")


@pytest.mark.parametrize("external", [False, True], ids=["inside the page", "next to it"])
def test_a_hostile_sample_is_displayed_as_text_and_does_not_run(
    make_report: MakeReport, opened: Opened, external: bool
) -> None:
    def reply(prompt: dict[str, Any], repeat: int) -> Any:
        return completion(prompt, repeat, HOSTILE)

    prompts = [question("agro_bench", 1, text=HOSTILE, split="train", gold="<img src=x onerror=alert(5)>")]
    page = opened.open(
        make_report(prompts, *(["report.max_inline_mb=0"] if external else []), reply=reply), "#agro_bench/1"
    )
    page.wait_for_selector("#name:visible")
    assert page.locator("#parts .text").last.evaluate("(element) => element.textContent") == HOSTILE
    assert page.locator("#parts .text").last.evaluate("(element) => element.childElementCount") == 0
    assert HOSTILE in page.locator("#parts .text").first.evaluate("(element) => element.textContent")
    assert page.locator("img, iframe, #parts script").count() == 0
    page.evaluate("location.hash = '#overview'")
    page.wait_for_timeout(200)
    assert page.evaluate("globalThis.hacked") is None


def test_the_policy_blocks_scripts_and_external_requests(page: Any, opened: Opened) -> None:
    with listening() as (url, requested):
        page.evaluate(
            """(url) => {
                const made = document.createElement("div");
                made.innerHTML = `<img src="${url}" onerror="globalThis.hacked = 1">`;
                const script = document.createElement("script");
                script.textContent = "globalThis.hacked = 2";
                document.body.append(made, script);
            }""",
            url,
        )
        page.wait_for_timeout(300)
        assert page.evaluate("globalThis.hacked") is None
        assert requested == []
    assert len(opened.messages) == 3
    assert all("Content Security Policy" in line for line in opened.messages)
    opened.messages.clear()
    opened.requests.clear()  # the browser also reports the requests that it blocked


def test_samples_next_to_the_page_are_listed_found_and_opened(make_report: MakeReport, opened: Opened) -> None:
    page = opened.open(make_report(twenty(), "report.max_inline_mb=0", reply=answer), "#samples")
    assert len(opened.requests) == 1
    page.fill("#search", "Слово-7")
    shows(page, "#count", "2 of 20 samples")
    assert [Path(url).name for url in opened.requests[1:]] == ["0.js"]
    page.locator(".row").first.click()
    page.wait_for_selector("#name:visible")
    assert "Слово-7" in page.text_content("#parts")


def test_a_missing_chunk_is_reported(make_report: MakeReport, opened: Opened) -> None:
    file = make_report(twenty(), "report.max_inline_mb=0", reply=answer)
    (file.parent / "report_samples" / "0.js").unlink()
    page = opened.open(file, "#agro_bench/1")
    shows(page, "#count", "report_samples/0.js is missing: keep report_samples/ next to this page")
    assert all("ERR_FILE_NOT_FOUND" in line for line in opened.messages)
    opened.messages.clear()


def test_dark_mode_follows_the_system_and_the_key(page: Any) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    page.keyboard.press("t")
    assert (dark != light, background()) == (True, light)


def test_flipped_questions_are_a_filter_and_have_the_baselines_response(demo_run: Scored, opened: Opened) -> None:
    flipped = [("agro_bench", "test", 61, "gained"), ("agro_bench", "test", 62, "lost")]
    flip(demo_run, flipped, base_response=HOSTILE[:300], base_answer="C", base_finish_reason="stop")
    page = opened.open(report_of(demo_run), "#samples")
    for value, count in (("any", "2 of 214 samples"), ("gained", "1 of 214 samples"), ("lost", "1 of 214 samples")):
        page.select_option("[data-filter=flipped]", f"={value}")
        shows(page, "#count", count)
    page.keyboard.press("j")
    shows(page, "#name", "agro_bench / test / 62")
    base, new = page.locator(".pair .part").all()
    assert base.locator(".text").evaluate("(element) => element.textContent") == HOSTILE[:300]
    assert base.locator(".note").inner_text() == "right C · stop"
    assert new.locator(".text").inner_text().strip() in "ABCD"
    assert page.evaluate("globalThis.hacked") is None


def test_the_page_is_in_the_browsers_language_and_can_be_switched(chromium: Any, report_of_twenty: Path) -> None:
    context = chromium.new_context(locale="ru-RU")
    page = Opened(context.new_page()).open(report_of_twenty, "#samples")
    shows(page, "#count", "примеров: 20")
    assert page.title() == "one – отчёт"
    page.select_option("[data-filter=result]", "=wrong")
    shows(page, "#count", "примеров: 2 из 20")
    assert page.get_attribute("#search", "placeholder") == "Поиск по текстам и id ( / )"
    page.click("#language")
    shows(page, "#count", "2 of 20 samples")
    assert page.locator("[data-filter=result] option:checked").inner_text() == "wrong (2)"
    page.reload()
    shows(page, "#to-overview", "Overview")
    page.keyboard.press("l")
    shows(page, "#to-overview", "Обзор")
    context.close()


@pytest.mark.parametrize("view", ["#overview", "#agro_bench/train/9"])
def test_a_narrow_page_has_no_horizontal_scroll(report_of_twenty: Path, opened: Opened, view: str) -> None:
    opened.page.set_viewport_size({"width": 500, "height": 800})
    page = opened.open(report_of_twenty, view)
    assert page.evaluate("document.documentElement.scrollWidth") <= 500
    if view == "#overview":
        assert page.locator("#plot-tasks svg").evaluate("(plot) => plot.viewBox.baseVal.width") <= 500


def test_rows_where_letters_and_exact_match_disagree_are_one_click_away(
    make_report: MakeReport, opened: Opened
) -> None:
    replies = ["B", "Ответ: B", "", "C"]
    prompts = [question("agro_bench", number, split="train", gold="BBAB"[number]) for number in range(4)]
    file = make_report(prompts, reply=lambda prompt, repeat: completion(prompt, repeat, replies[prompt["id"]]))
    for link, sample in (("1 right, EM 0", "1"), ("1 wrong, EM 1", "2")):
        page = opened.open(file)
        page.get_by_role("link", name=link).click()
        shows(page, "#count", "1 of 4 samples")
        assert page.text_content(".row .who") == f"agro_bench {sample}"


def test_the_rows_of_a_rule_are_one_click_away(make_report: MakeReport, opened: Opened) -> None:
    replies = ["B", "B", "A, B"]
    prompts = [question("agro_bench", number, split="train", gold=["B", "A", "A, B"][number]) for number in range(3)]
    page = opened.open(
        make_report(prompts, reply=lambda prompt, repeat: completion(prompt, repeat, replies[prompt["id"]]))
    )
    page.locator("#letters").get_by_role("link", name="1", exact=True).click()  # of several right answers
    shows(page, "#count", "1 of 3 samples")
    assert page.input_value("[data-filter=extraction]") == "=bare_letters"
    assert page.input_value("[data-filter=answers]") == "=multiple"
