"""The summary of the scores at the end of a run."""

import io

from rich.console import Console

from pipeline.runs.counts import count_samples
from pipeline.terminal.run_summary import print_summary


def printed(run):
    run.score()
    stream = io.StringIO()
    print_summary(run.store, run.config, count_samples(run.store), Console(file=stream, width=110))
    return stream.getvalue()


def test_a_score_is_printed_with_half_the_width_of_its_interval(run):
    for content in ["B"] * 15 + ["C"] * 5:
        run.ask(content)
    text, row = printed(run), run.metric("score")
    assert f"0.750 ±{(row['ci_high'] - row['ci_low']) / 2:.2f}" in text


def test_the_table_of_a_large_run_fits_110_columns(run):
    run.domains = {"horticulture_bench": "agriculture"}
    for content in ["B"] * 3:
        run.ask(content, task="horticulture_bench")
        run.change_last(num_output_tokens=99_999_999 // 3)
    text = printed(run)
    assert "99,999,999" in text
    assert "…" not in text
    table, _, _ = text.partition("\n3 samples")
    assert "horticulture_bench" in table
    assert max(map(len, table.splitlines())) <= 110


def test_a_score_with_bounds_wider_than_its_interval_is_reported(run):
    for number in range(40):
        run.ask("B" if number % 2 else "C")
    for _ in range(20):
        run.ask("Рассмотрим")
        run.change_last(finish_reason="length")
    text = printed(run)
    assert "agro train: score 0.333 could be 0.333 to 0.667: 20 of 60 rows were cut, empty or failed" in text
    assert "agriculture train: score 0.333 could be" in text


def test_a_score_with_bounds_narrower_than_its_interval_is_not_reported(run):
    for number in range(40):
        run.ask("B" if number % 2 else "C")
    run.ask("Рассмотрим")
    run.change_last(finish_reason="length")
    assert "could be" not in printed(run)


def test_the_run_has_a_row_where_all_of_its_domains_have_a_score(run):
    run.domains = {"agro": "agriculture", "med": "medicine"}
    for content, task in (("B", "agro"), ("C", "med"), ("B", "med")):
        run.ask(content, task=task)
    rows = [line.split() for line in printed(run).splitlines() if line.strip().startswith("all domains")]
    assert [row[:4] for row in rows] == [["all", "domains", "train", "3"]]
    assert rows[0][4] == "0.750"  # the mean of 1 and 1/2


def test_the_run_has_no_row_where_a_domain_has_no_score(run):
    run.domains = {"agro": "agriculture", "med": "medicine"}
    run.ask("B", task="agro")
    assert "all domains" not in printed(run)


def test_a_hidden_gold_is_a_dash(run):
    run.ask("B", gold=None, split="test")
    text = printed(run)
    assert "±0" not in text
    assert "could be" not in text
    assert " - " in text


def test_repeats_have_a_table_of_their_own(run):
    run.repeats = 2
    run.ask("B", "C")
    run.ask("B", "B")
    text = printed(run)
    assert "over 2 repeats of each question" in text
    head = next(line for line in text.splitlines() if "pass@1" in line)
    assert head.split()[-4:] == ["pass@1", "pass@2", "majority", "agreement"]
