"""The faults that the pipeline is tested with: what happens, what it promises then, and the test that holds it to that.

`python -m faults` (with PYTHONPATH=tests) prints the table; `python -m faults --write` writes it into the page that has
it for users.
"""

from __future__ import annotations

from dataclasses import dataclass

SERVER, DATA, TEMPLATE, INPUT, FILES, PROCESS = (
    "server",
    "data set",
    "chat template",
    "foreign file or word",
    "file system",
    "signal or crash",
)
KINDS = (SERVER, DATA, TEMPLATE, INPUT, FILES, PROCESS)


@dataclass(frozen=True)
class Fault:
    """A fault. `promise` is one sentence about the run; `test` is a file below tests/ and a test in it."""

    kind: str
    name: str
    promise: str
    test: str


_ENDPOINT = "unit/generate/engines/test_openai_endpoint.py"
_JUDGE = "unit/generate/test_failures.py"
_MIXED = "faults/test_mixed_server.py"
_DATASET = "unit/prepare/test_dataset.py"
_PREPARE = "unit/prepare/test_stage.py"
_CHAT = "unit/prepare/test_chat_template.py"
_LOCK = "unit/runs/test_lock.py"
_DIRECTORY = "unit/runs/test_directory.py"
_STORAGE = "ray/test_storage.py"
_RAY = "ray/test_faults.py"

FAULTS = (
    # What servers do.
    Fault(
        SERVER,
        "43 ways to answer at once: 4xx, 5xx, closed connections, rubbish, bombs",
        "Each failure is its row's, with the reason; all other rows are answered.",
        f"{_MIXED}::test_every_row_has_the_outcome_of_its_mode",
    ),
    Fault(
        SERVER,
        "the server is mended",
        "`run.retry_failed=true` asks the failed rows again, each once, and no other.",
        f"{_MIXED}::test_once_the_server_is_fixed_only_the_failed_rows_are_asked_and_each_once",
    ),
    Fault(
        SERVER,
        "a failure that cannot pass",
        "The row is asked once, and one whose failure may pass at most `max_retries` times more.",
        f"{_MIXED}::test_a_row_that_fails_for_good_is_asked_once_and_one_that_may_pass_at_most_three_times",
    ),
    Fault(
        SERVER,
        "any status, headers and body",
        "The row is answered or fails with a reason, or the run ends with one line.",
        "faults/test_fuzz_server.py::test_every_answer_is_an_output_a_failed_row_or_a_line",
    ),
    Fault(
        SERVER,
        "any chat completion",
        "What is stored is what the server sent; a count that is none is unknown.",
        "faults/test_fuzz_server.py::test_what_is_taken_is_what_the_server_sent",
    ),
    Fault(
        SERVER,
        "any list of models",
        "The only model is named, or the run ends with one line.",
        "faults/test_fuzz_server.py::test_every_list_of_models_names_the_model_or_is_a_line",
    ),
    Fault(
        SERVER,
        "an error that quotes the key",
        "The key is in no message.",
        "faults/test_fuzz_server.py::test_the_key_is_in_no_answer_that_is_stored",
    ),
    Fault(
        SERVER,
        "504, 401, 403 or 404 for one row",
        "It is the row's failure when another row was answered meanwhile.",
        f"{_JUDGE}::test_a_failure_is_the_rows_when_another_was_answered_since_it_began",
    ),
    Fault(
        SERVER,
        "no row is answered any more",
        "The run stops with the reason, no row is lost, and the same command resumes.",
        f"{_JUDGE}::test_a_server_that_is_down_ends_the_run_and_one_that_is_up_fails_the_row",
    ),
    Fault(
        SERVER,
        "all rows fail alike",
        "The run stops after `run.max_alike_failures` rows with their reason.",
        f"{_JUDGE}::test_failures_alike_without_an_answer_end_the_run",
    ),
    Fault(
        SERVER,
        "402, 429 or 529 that retries do not outlast",
        "The run stops with one line and resumes; the rows do not fail.",
        f"{_ENDPOINT}::test_an_exhausted_quota_fails_the_run",
    ),
    Fault(
        SERVER,
        "one byte a second",
        "A request ends after `engine.endpoint.timeout_s`, its retries included.",
        f"{_ENDPOINT}::test_the_timeout_covers_the_whole_answer_and_is_not_retried",
    ),
    Fault(
        SERVER,
        "a compressed answer of gigabytes",
        "It is read up to 64 MB, and the row fails.",
        f"{_ENDPOINT}::test_a_compressed_answer_is_read_and_bounded",
    ),
    Fault(
        SERVER,
        "a redirect",
        "It is not followed, and its target is named.",
        f"{_ENDPOINT}::test_a_redirect_is_not_followed",
    ),
    Fault(
        SERVER,
        "several models, none named",
        "The run is refused with their list.",
        f"{_ENDPOINT}::test_several_models_and_no_name_are_refused_with_the_list",
    ),
    Fault(
        SERVER,
        "an unknown finish reason",
        "The text and the word are kept; only words for a failure fail the row.",
        f"{_ENDPOINT}::test_another_finish_reason_keeps_the_text",
    ),
    # What data sets hold.
    Fault(
        DATA,
        "any JSON rows",
        "Each becomes its own prompt and answer, or the data set is refused with one line.",
        "faults/test_fuzz_rows.py::test_json_rows_are_prompts_or_refused",
    ),
    Fault(
        DATA,
        "damaged JSON",
        "What is read is what the lines say, or the line is named.",
        "faults/test_fuzz_rows.py::test_damaged_json_is_prompts_or_refused",
    ),
    Fault(
        DATA,
        "nesting of any depth",
        "One line.",
        "faults/test_fuzz_rows.py::test_nested_json_is_prompts_or_refused",
    ),
    Fault(
        DATA,
        "any Parquet rows",
        "Each becomes its own prompt and answer, or the data set is refused with one line.",
        "faults/test_fuzz_rows.py::test_parquet_rows_are_prompts_or_refused",
    ),
    Fault(
        DATA,
        "damaged Parquet",
        "One line with the file.",
        "faults/test_fuzz_rows.py::test_damaged_parquet_is_prompts_or_refused",
    ),
    Fault(
        DATA,
        "a README that names files elsewhere",
        "Nothing outside of the directory is opened.",
        f"{_DATASET}::test_a_readme_that_names_anything_else_is_refused",
    ),
    Fault(
        DATA,
        "two files for one split",
        "The data set is refused with both names.",
        f"{_DATASET}::test_two_files_that_name_the_same_split_are_refused",
    ),
    Fault(
        DATA,
        "rows that change between two sessions",
        "The run is refused.",
        f"{_DATASET}::test_rows_that_have_changed_since_the_prompts_were_made_are_refused",
    ),
    Fault(
        DATA,
        "an id twice",
        "The data set is refused with the id.",
        f"{_PREPARE}::test_an_id_twice_in_one_split_is_rejected",
    ),
    Fault(
        DATA,
        "a hub that is away",
        "One line that says how to go without it.",
        f"{_DATASET}::test_an_unreachable_hub_is_one_line_without_retries",
    ),
    # What templates do.
    Fault(
        TEMPLATE,
        "any template",
        "Each row is rendered with its text or fails with a reason, or the run is refused.",
        "faults/test_fuzz_templates.py::test_a_template_renders_each_row_fails_it_or_is_refused",
    ),
    Fault(
        TEMPLATE,
        "any bytes in its file",
        "The template is those bytes, or the file is named.",
        "faults/test_fuzz_templates.py::test_a_template_file_is_read_or_refused",
    ),
    Fault(
        TEMPLATE,
        "the question is left out",
        "The run is refused at its first row, a later row fails.",
        f"{_CHAT}::test_a_prompt_that_cannot_be_the_question_is_refused",
    ),
    Fault(
        TEMPLATE,
        "it fails on one row",
        "That row fails, and no other.",
        f"{_PREPARE}::test_a_template_that_fails_on_a_later_row_makes_that_row_an_error",
    ),
    # What others hand over.
    Fault(
        INPUT,
        "a damaged archive",
        "`validate` reports findings, a line each.",
        "faults/test_fuzz_archives.py::test_damaged_archives_are_findings",
    ),
    Fault(
        INPUT,
        "changed answers in an archive",
        "What is not refused has a text for each id.",
        "faults/test_fuzz_archives.py::test_changed_answers_are_findings",
    ),
    Fault(
        INPUT,
        "damaged answers in an archive",
        "What is not refused has a text for each id.",
        "faults/test_fuzz_archives.py::test_damaged_answers_are_findings",
    ),
    Fault(
        INPUT,
        "an archive of other files",
        "Each is a finding.",
        "faults/test_fuzz_archives.py::test_archives_of_other_files_are_findings",
    ),
    Fault(
        INPUT,
        "any line of a harness log",
        "It is read with its own values, or named with file and number.",
        "faults/test_fuzz_logs.py::test_a_line_is_read_with_its_values_or_named",
    ),
    Fault(
        INPUT,
        "a damaged line of a harness log",
        "It is read with its own values, or named with file and number.",
        "faults/test_fuzz_logs.py::test_a_damaged_line_is_read_with_its_values_or_named",
    ),
    Fault(
        INPUT,
        "a damaged archive of harness logs",
        "One line with the archive.",
        "faults/test_fuzz_logs.py::test_a_damaged_archive_of_logs_is_read_or_named",
    ),
    Fault(
        INPUT,
        "any words on the command line",
        "A configuration that reads back the same, or one line.",
        "faults/test_fuzz_configuration.py::test_words_are_a_configuration_or_a_line",
    ),
    Fault(
        INPUT,
        "any text for a text key",
        "It is kept as it is written.",
        "faults/test_fuzz_configuration.py::test_a_text_is_kept_as_it_is_written",
    ),
    Fault(
        INPUT,
        "any text for a number",
        "It is that number, or one line.",
        "faults/test_fuzz_configuration.py::test_a_number_is_the_one_that_is_written",
    ),
    Fault(
        INPUT,
        "any configuration file",
        "A configuration that reads back the same, or one line.",
        "faults/test_fuzz_configuration.py::test_a_file_is_a_configuration_or_a_line",
    ),
    Fault(
        INPUT,
        "any config.yaml in a run's directory",
        "A configuration that reads back the same, or one line.",
        "faults/test_fuzz_configuration.py::test_a_recorded_configuration_is_read_or_a_line",
    ),
    Fault(
        INPUT,
        "any arguments of any command",
        "They are parsed, or one line names the wrong one.",
        "faults/test_fuzz_configuration.py::test_arguments_of_a_command_are_parsed_or_a_line",
    ),
    Fault(
        INPUT,
        "another run in the output directory is damaged or hostile",
        "It is left out with one line.",
        "unit/runs/test_index.py::test_a_hostile_run_is_left_out_with_one_line",
    ),
    Fault(
        INPUT,
        "a recorded configuration that runs code or names hosts",
        "`from=` obeys it only where the command gives it again.",
        "unit/runs/test_reproduce.py::test_what_runs_code_or_contacts_hosts_counts_only_when_the_command_gives_it_again",
    ),
    Fault(
        INPUT,
        "prompts/ that lay there beforehand",
        "The run is refused.",
        f"{_DIRECTORY}::test_what_was_generated_under_an_unknown_configuration_is_refused",
    ),
    Fault(
        INPUT,
        "rows whose task or split is a path",
        "`rescore` writes nothing outside of the run.",
        "unit/score/test_rescore.py::test_rows_that_would_be_written_elsewhere_are_refused",
    ),
    Fault(
        INPUT,
        "escape sequences in foreign text",
        "None reaches the terminal.",
        "unit/terminal/test_text.py::test_no_control_or_invisible_character_is_left",
    ),
    # What file systems do.
    Fault(
        FILES,
        "full, read-only, vanished, denied or failing in any stage",
        "One line; nothing is lost, doubled or half-written, and the same command resumes.",
        "faults/test_file_systems.py::test_a_fault_of_the_file_system_loses_doubles_and_half_writes_nothing",
    ),
    Fault(
        FILES,
        "full while rows are generated",
        "The run stops with one line, and keeps every finished row.",
        f"{_STORAGE}::test_a_full_disk_is_a_one_line_error_and_the_run_resumes_once_there_is_space",
    ),
    Fault(
        FILES,
        "read-only while rows are generated",
        "The run stops with one line, and keeps every finished row.",
        f"{_STORAGE}::test_a_directory_that_becomes_read_only_is_a_one_line_error_and_the_run_resumes_later",
    ),
    Fault(
        FILES,
        "a file of the run is cut or missing",
        "It is named with what to delete, and nothing is scored from half a file.",
        f"{_STORAGE}::test_a_missing_or_truncated_file_of_the_prompts_is_rejected",
    ),
    Fault(
        FILES,
        "a journal is cut",
        "Only the missing lines are generated again.",
        f"{_STORAGE}::test_the_advice_of_the_errors_fixes_the_run_and_a_truncated_journal_loses_only_its_missing_lines",
    ),
    Fault(
        FILES,
        "a file cannot be read just now",
        "It is not called damaged.",
        "unit/score/test_rescore.py::test_a_file_that_cannot_be_read_just_now_is_not_called_damaged",
    ),
    Fault(
        FILES,
        "a link in place of a run or a lock",
        "It is refused and not followed.",
        f"{_LOCK}::test_a_link_in_a_runs_place_is_refused_and_not_followed",
    ),
    Fault(
        FILES,
        "a full temporary directory",
        "One line.",
        "unit/generate/test_compaction.py::test_a_full_temporary_directory_is_a_one_line_error",
    ),
    Fault(
        FILES,
        "no temporary directory",
        "One line.",
        "unit/test_cli.py::test_no_temporary_directory_is_a_one_line_error",
    ),
    Fault(
        FILES,
        "the working directory is gone",
        "One line.",
        "unit/test_cli.py::test_a_working_directory_that_was_deleted_is_a_one_line_error",
    ),
    # What ends processes.
    Fault(
        PROCESS,
        "kill -9 in any stage, again and again",
        "The same command resumes: no row is lost or doubled, no file half-written.",
        "faults/kill_random.py::in_stages",
    ),
    Fault(
        PROCESS,
        "kill -9 of the driver, an actor or vLLM while rows are generated",
        "No finished row is generated again, and the samples are those of an undisturbed run.",
        "faults/kill_random.py::of_engines",
    ),
    Fault(
        PROCESS,
        "an actor's process dies",
        "Its rows are generated by the next, and none is lost.",
        f"{_RAY}::test_a_killed_process_loses_no_row",
    ),
    Fault(
        PROCESS,
        "one row kills the engine each time",
        "It becomes a failed row, and all others are answered.",
        f"{_RAY}::test_one_poison_row_among_200_fails_and_no_other_row_is_lost",
    ),
    Fault(
        PROCESS,
        "the engine dies with every row",
        "The run stops after three starts with the cause.",
        f"{_RAY}::test_an_engine_that_crashes_alike_with_every_row_ends_the_run_after_three_starts",
    ),
    Fault(
        PROCESS,
        "SIGINT or SIGTERM while rows are generated",
        "Rows in flight complete, none is asked twice, and the exit code is 130.",
        "ray/test_interrupt.py::test_rows_in_flight_complete_and_none_is_requested_twice",
    ),
    Fault(
        PROCESS,
        "a signal while prompts or samples are written",
        "No partial artifact is left.",
        "ray/test_interrupt.py::test_a_signal_in_prepare_or_score_leaves_no_partial_artifact",
    ),
    Fault(
        PROCESS,
        "a second signal",
        "The run ends at once.",
        "ray/test_interrupt.py::test_a_second_signal_does_not_wait_and_a_concurrent_run_is_rejected",
    ),
    Fault(
        PROCESS,
        "two commands with one run_id",
        "The second is refused until the first has ended.",
        f"{_LOCK}::test_a_second_process_is_refused_until_the_first_ends",
    ),
    Fault(
        PROCESS,
        "a machine of the cluster is lost",
        "Its rows are generated elsewhere, and none is lost.",
        "ray/test_nodes.py::test_a_lost_node_loses_no_row",
    ),
    Fault(
        PROCESS,
        "the terminal goes away",
        "The run ends with its own exit code.",
        "unit/test_cli.py::test_a_terminal_that_has_gone_loses_no_exit_code",
    ),
    Fault(
        PROCESS,
        "a rescore is stopped",
        "The next one finishes what it began.",
        "unit/score/test_rescore.py::test_a_rescore_that_was_stopped_is_finished_by_the_next",
    ),
)
