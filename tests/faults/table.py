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
    """A fault. `promise` is what the run does; `test` is a file below tests/ and a function in it.

    Those `on_page` are in the page for users.
    """

    kind: str
    name: str
    promise: str
    test: str
    on_page: bool = False


FAULTS = (
    # server
    Fault(
        SERVER,
        "the endpoint is unavailable for a while",
        "each request is retried `engine.endpoint.max_retries` times with growing delays; "
        "when no request succeeds any more, the run stops with one line and can be resumed",
        "unit/generate/test_failures.py::test_a_server_that_is_down_ends_the_run_and_one_that_is_up_fails_the_row",
        on_page=True,
    ),
    Fault(
        SERVER,
        "the endpoint fails one row, also by 401, 403 or 404, and answers others",
        "the row fails, with the reason",
        "unit/generate/test_failures.py::test_a_failure_is_the_rows_when_another_was_answered_since_it_began",
        on_page=True,
    ),
    Fault(
        SERVER,
        "all rows fail for the same reason",
        "after `run.max_alike_failures` of them the run stops with the reason; the same command generates them again",
        "unit/generate/test_failures.py::test_failures_alike_without_an_answer_end_the_run",
        on_page=True,
    ),
    Fault(
        SERVER,
        "rows failed, and the cause is fixed",
        "the same command with `run.retry_failed=true` generates only these rows again, including those in `noise/`",
        "ray/test_run.py::test_retry_failed_retries_failed_rows_only_those_of_the_second_pass_too",
        on_page=True,
    ),
    Fault(
        SERVER,
        "43 ways to answer at once: 4xx, 5xx, closed connections, rubbish, bombs",
        "each failure is its row's, with the reason; all other rows are answered",
        "faults/test_mixed_server.py::test_every_row_has_the_outcome_of_its_mode",
    ),
    Fault(
        SERVER,
        "the server is repaired",
        "`run.retry_failed=true` asks the failed rows again, each once, and no other",
        "faults/test_mixed_server.py::test_once_the_server_is_fixed_only_the_failed_rows_are_asked_and_each_once",
    ),
    Fault(
        SERVER,
        "a failure that cannot pass",
        "the row is asked once, and one whose failure may pass at most `max_retries` times more",
        "faults/test_mixed_server.py::test_a_row_that_fails_for_good_is_asked_once_and_one_that_may_pass_at_most_three_times",
    ),
    Fault(
        SERVER,
        "any status, headers and body",
        "the row is answered or fails with a reason, or the run ends with one line",
        "faults/test_fuzz_server.py::test_every_answer_is_an_output_a_failed_row_or_a_line",
    ),
    Fault(
        SERVER,
        "any chat completion",
        "what is stored is what the server sent; a count that is none is unknown",
        "faults/test_fuzz_server.py::test_what_is_taken_is_what_the_server_sent",
    ),
    Fault(
        SERVER,
        "any list of models",
        "the only model is named, or the run ends with one line",
        "faults/test_fuzz_server.py::test_every_list_of_models_names_the_model_or_is_a_line",
    ),
    Fault(
        SERVER,
        "an error that quotes the key",
        "the key is in no message",
        "faults/test_fuzz_server.py::test_the_key_is_in_no_answer_that_is_stored",
    ),
    Fault(
        SERVER,
        "402, 429 or 529 that retries do not outlast",
        "the run stops with one line and resumes; the rows do not fail",
        "unit/generate/engines/test_openai_endpoint.py::test_an_exhausted_quota_fails_the_run",
    ),
    Fault(
        SERVER,
        "one byte a second",
        "a request ends after `engine.endpoint.timeout_s`, its retries included",
        "unit/generate/engines/test_openai_endpoint.py::test_the_timeout_covers_the_whole_answer_and_is_not_retried",
    ),
    Fault(
        SERVER,
        "a compressed answer of gigabytes",
        "it is read up to 64 MB, and the row fails",
        "unit/generate/engines/test_openai_endpoint.py::test_a_compressed_answer_is_read_and_bounded",
    ),
    Fault(
        SERVER,
        "a redirect",
        "it is not followed, and its target is named",
        "unit/generate/engines/test_openai_endpoint.py::test_a_redirect_is_not_followed",
    ),
    Fault(
        SERVER,
        "several models, none named",
        "the run is refused with their list",
        "unit/generate/engines/test_openai_endpoint.py::test_several_models_and_no_name_are_refused_with_the_list",
    ),
    Fault(
        SERVER,
        "an unknown finish reason",
        "the text and the word are kept; only words for a failure fail the row",
        "unit/generate/engines/test_openai_endpoint.py::test_another_finish_reason_keeps_the_text",
    ),
    # data set
    Fault(
        DATA,
        "any JSON rows",
        "each becomes its own prompt and answer, or the data set is refused with one line",
        "faults/test_fuzz_rows.py::test_json_rows_are_prompts_or_refused",
    ),
    Fault(
        DATA,
        "damaged JSON",
        "what is read is what the lines say, or the line is named",
        "faults/test_fuzz_rows.py::test_damaged_json_is_prompts_or_refused",
    ),
    Fault(DATA, "nesting of any depth", "one line", "faults/test_fuzz_rows.py::test_nested_json_is_prompts_or_refused"),
    Fault(
        DATA,
        "any Parquet rows",
        "each becomes its own prompt and answer, or the data set is refused with one line",
        "faults/test_fuzz_rows.py::test_parquet_rows_are_prompts_or_refused",
    ),
    Fault(
        DATA,
        "damaged Parquet",
        "one line with the file",
        "faults/test_fuzz_rows.py::test_damaged_parquet_is_prompts_or_refused",
    ),
    Fault(
        DATA,
        "a README that names files elsewhere",
        "nothing outside of the directory is opened",
        "unit/prepare/test_dataset.py::test_a_readme_that_names_anything_else_is_refused",
    ),
    Fault(
        DATA,
        "two files for one split",
        "the data set is refused with both names",
        "unit/prepare/test_dataset.py::test_two_files_that_name_the_same_split_are_refused",
    ),
    Fault(
        DATA,
        "rows that change between two sessions",
        "the run is refused",
        "unit/prepare/test_dataset.py::test_rows_that_have_changed_since_the_prompts_were_made_are_refused",
    ),
    Fault(
        DATA,
        "an id twice",
        "the data set is refused with the id",
        "unit/prepare/test_stage.py::test_an_id_twice_in_one_split_is_rejected",
    ),
    Fault(
        DATA,
        "a hub that is away",
        "one line that says how to go without it",
        "unit/prepare/test_dataset.py::test_an_unreachable_hub_is_one_line_without_retries",
    ),
    # chat template
    Fault(
        TEMPLATE,
        "the chat template fails on one row",
        "the row fails with the reason; on the first row the run is refused",
        "unit/prepare/test_stage.py::test_a_template_that_fails_on_a_later_row_makes_that_row_an_error",
        on_page=True,
    ),
    Fault(
        TEMPLATE,
        "any template",
        "each row is rendered with its text or fails with a reason, or the run is refused",
        "faults/test_fuzz_templates.py::test_a_template_renders_each_row_fails_it_or_is_refused",
    ),
    Fault(
        TEMPLATE,
        "any bytes in its file",
        "the template is those bytes, or the file is named",
        "faults/test_fuzz_templates.py::test_a_template_file_is_read_or_refused",
    ),
    Fault(
        TEMPLATE,
        "the question is left out",
        "the run is refused at its first row, a later row fails",
        "unit/prepare/test_chat_template.py::test_a_prompt_that_cannot_be_the_question_is_refused",
    ),
    # foreign file or word
    Fault(
        INPUT,
        "another user's run in `output_dir` is damaged or hostile",
        "a line names it; history, `latest` and the preview ignore it",
        "unit/runs/test_index.py::test_a_hostile_run_is_left_out_with_one_line",
        on_page=True,
    ),
    Fault(
        INPUT,
        "a damaged archive",
        "`validate` reports findings, a line each",
        "faults/test_fuzz_archives.py::test_damaged_archives_are_findings",
    ),
    Fault(
        INPUT,
        "changed answers in an archive",
        "what is not refused has a text for each id",
        "faults/test_fuzz_archives.py::test_changed_answers_are_findings",
    ),
    Fault(
        INPUT,
        "damaged answers in an archive",
        "what is not refused has a text for each id",
        "faults/test_fuzz_archives.py::test_damaged_answers_are_findings",
    ),
    Fault(
        INPUT,
        "an archive of other files",
        "each is a finding",
        "faults/test_fuzz_archives.py::test_archives_of_other_files_are_findings",
    ),
    Fault(
        INPUT,
        "any line of a harness log",
        "it is read with its own values, or named with file and number",
        "faults/test_fuzz_logs.py::test_a_line_is_read_with_its_values_or_named",
    ),
    Fault(
        INPUT,
        "a damaged line of a harness log",
        "it is read with its own values, or named with file and number",
        "faults/test_fuzz_logs.py::test_a_damaged_line_is_read_with_its_values_or_named",
    ),
    Fault(
        INPUT,
        "a damaged archive of harness logs",
        "one line with the archive",
        "faults/test_fuzz_logs.py::test_a_damaged_archive_of_logs_is_read_or_named",
    ),
    Fault(
        INPUT,
        "any words on the command line",
        "a configuration that reads back the same, or one line",
        "faults/test_fuzz_configuration.py::test_words_are_a_configuration_or_a_line",
    ),
    Fault(
        INPUT,
        "any text for a text key",
        "it is kept as it is written",
        "faults/test_fuzz_configuration.py::test_a_text_is_kept_as_it_is_written",
    ),
    Fault(
        INPUT,
        "any text for a number",
        "it is that number, or one line",
        "faults/test_fuzz_configuration.py::test_a_number_is_the_one_that_is_written",
    ),
    Fault(
        INPUT,
        "any configuration file",
        "a configuration that reads back the same, or one line",
        "faults/test_fuzz_configuration.py::test_a_file_is_a_configuration_or_a_line",
    ),
    Fault(
        INPUT,
        "any config.yaml in a run's directory",
        "a configuration that reads back the same, or one line",
        "faults/test_fuzz_configuration.py::test_a_recorded_configuration_is_read_or_a_line",
    ),
    Fault(
        INPUT,
        "any arguments of any command",
        "they are parsed, or one line names the wrong one",
        "faults/test_fuzz_configuration.py::test_arguments_of_a_command_are_parsed_or_a_line",
    ),
    Fault(
        INPUT,
        "a recorded configuration that runs code or names hosts",
        "`from=` obeys it only where the command gives it again",
        "unit/runs/test_reproduce.py::test_what_runs_code_or_contacts_hosts_counts_only_when_the_command_gives_it_again",
    ),
    Fault(
        INPUT,
        "prompts/ that lay there beforehand",
        "the run is refused",
        "unit/runs/test_directory.py::test_what_was_generated_under_an_unknown_configuration_is_refused",
    ),
    Fault(
        INPUT,
        "rows whose task or split is a path",
        "`rescore` writes nothing outside of the run",
        "unit/score/test_rescore.py::test_rows_that_would_be_written_elsewhere_are_refused",
    ),
    Fault(
        INPUT,
        "escape sequences in foreign text",
        "none reaches the terminal",
        "unit/terminal/test_text.py::test_no_control_or_invisible_character_is_left",
    ),
    # file system
    Fault(
        FILES,
        "the disk is full, read-only or fails, in any stage",
        "the run stops with one line; fix it and run the same command: nothing is lost, doubled or half-written",
        "faults/test_file_systems.py::test_a_fault_of_the_file_system_loses_doubles_and_half_writes_nothing",
        on_page=True,
    ),
    Fault(
        FILES,
        "a file of the run is truncated or missing",
        "the error names it, and what to delete; nothing is scored from a damaged file",
        "ray/test_storage.py::test_a_missing_or_truncated_file_of_the_prompts_is_rejected",
        on_page=True,
    ),
    Fault(
        FILES,
        "full while rows are generated",
        "the run stops with one line, and keeps every finished row",
        "ray/test_storage.py::test_a_full_disk_is_a_one_line_error_and_the_run_resumes_once_there_is_space",
    ),
    Fault(
        FILES,
        "read-only while rows are generated",
        "the run stops with one line, and keeps every finished row",
        "ray/test_storage.py::test_a_directory_that_becomes_read_only_is_a_one_line_error_and_the_run_resumes_later",
    ),
    Fault(
        FILES,
        "a journal is cut",
        "only the missing lines are generated again",
        "ray/test_storage.py::test_the_advice_of_the_errors_fixes_the_run_and_a_truncated_journal_loses_only_its_missing_lines",
    ),
    Fault(
        FILES,
        "a file cannot be read just now",
        "it is not called damaged",
        "unit/score/test_rescore.py::test_a_file_that_cannot_be_read_just_now_is_not_called_damaged",
    ),
    Fault(
        FILES,
        "a link in place of a run or a lock",
        "it is refused and not followed",
        "unit/runs/test_lock.py::test_a_link_in_a_runs_place_is_refused_and_not_followed",
    ),
    Fault(
        FILES,
        "a full temporary directory",
        "one line",
        "unit/generate/test_compaction.py::test_a_full_temporary_directory_is_a_one_line_error",
    ),
    Fault(
        FILES, "no temporary directory", "one line", "unit/test_cli.py::test_no_temporary_directory_is_a_one_line_error"
    ),
    Fault(
        FILES,
        "the working directory is gone",
        "one line",
        "unit/test_cli.py::test_a_working_directory_that_was_deleted_is_a_one_line_error",
    ),
    # signal or crash
    Fault(
        PROCESS,
        "the command is killed in any stage, or its machine reboots",
        "its engines end within seconds; the same command with the same `run_id` keeps every "
        "completed response and generates the rest",
        "faults/kill_random.py::in_stages",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "Ctrl-C or SIGTERM",
        "no new request starts; requests in flight have `run.grace_s` seconds to complete; exit code 130; "
        "a second signal ends the run at once",
        "ray/test_interrupt.py::test_rows_in_flight_complete_and_none_is_requested_twice",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "an engine or its process crashes",
        "a line names the cause; the engine restarts with growing delays, "
        "at most `engine.max_restarts` times for each replica; only its requests in flight are generated again",
        "ray/test_faults.py::test_a_killed_process_loses_no_row",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "an engine crashes with every row",
        "its replica gives up after 3 starts; when no other replica is left, the run stops with the cause",
        "ray/test_faults.py::test_an_engine_that_crashes_alike_with_every_row_ends_the_run_after_three_starts",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "the hub limits requests, NFS fails, a crashed engine's memory is not free yet",
        "the start is retried 5 times with growing delays, 7 minutes in total; each retry is a line",
        "ray/test_faults.py::test_a_start_that_fails_for_a_passing_reason_is_repeated",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "one question crashes the engine each time",
        "the rows that were in flight run in groups of eight and then in isolation; "
        "the row becomes a failed row with the reason, and the others continue",
        "ray/test_faults.py::test_one_poison_row_among_200_fails_and_no_other_row_is_lost",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "one question fails in the engine",
        "it is a failed row; `max_failed_rows` decides the exit code",
        "ray/test_run.py::test_a_run_with_failed_rows_is_complete_and_they_decide_its_exit_code",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "the engine of a GPU does not start",
        "its replica gives up, and the others do its work; when another engine has started, "
        "it is tried again, up to 3 times, unless vLLM refused; when all have given up, one line has the reason",
        "ray/test_replicas.py::test_a_replica_that_gave_up_is_tried_again_when_the_other_has_started",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "the engine of a GPU keeps crashing",
        "its replica gives up, and the others do its work; when all replicas have given up, one line has the reason",
        "ray/test_replicas.py::test_a_replica_whose_engine_refuses_to_start_leaves_its_rows_to_the_other",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "a node is lost",
        "its questions are generated elsewhere, at the latest when another replica has no other work",
        "ray/test_nodes.py::test_a_lost_node_loses_no_row",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "a node joins",
        "with `engine.replicas=auto` its GPUs get replicas; "
        "with a number they replace those of a lost node, or stay idle",
        "ray/test_nodes.py::test_a_node_that_joins_is_used_and_every_row_is_there_once",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "every node is lost, or the remaining ones hold only replicas that have given up",
        "after five minutes, or `cluster.wait_s` if that is longer, the run stops with one line and can be resumed",
        "ray/test_nodes.py::test_a_run_without_a_machine_left_fails_with_one_line",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "the command of a complete run is repeated",
        "it prints the summary and ends with the run's exit code (0, 3 or 4); nothing is generated or written",
        "unit/runs/test_again.py::test_a_run_ends_again_with_the_code_that_it_had",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "a run was killed and not resumed",
        "its status in the manifest is `running`; commands report it as `crashed`; the same command resumes it",
        "unit/runs/test_again.py::test_a_running_manifest_that_no_process_holds_is_shown_as_crashed",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "the second pass of `noise.share` fails",
        "the run's own completions are kept; the same command runs the second pass alone, `noise.share=0` skips it",
        "ray/test_run.py::test_a_noise_pass_that_fails_loses_no_row_and_is_resumed_by_itself",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "two commands use one `run_id`",
        "the second one is refused; in object storage also for 45 seconds after the first was killed",
        "unit/runs/test_lock.py::test_a_second_process_is_refused_until_the_first_ends",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "a key that completions depend on, the model's files or the chat template have changed",
        "the run is refused, and the line names the key; `run.restart=true` starts a new run next to it",
        "ray/test_run.py::test_another_configuration_under_the_same_id_is_rejected_by_key",
        on_page=True,
    ),
    Fault(
        PROCESS,
        "kill -9 of the driver, an actor or vLLM while rows are generated",
        "no finished row is generated again, and the samples are those of an undisturbed run",
        "faults/kill_random.py::of_engines",
    ),
    Fault(
        PROCESS,
        "a signal while prompts or samples are written",
        "no partial artifact is left",
        "ray/test_interrupt.py::test_a_signal_in_prepare_or_score_leaves_no_partial_artifact",
    ),
    Fault(
        PROCESS,
        "a second signal",
        "the run ends at once",
        "ray/test_interrupt.py::test_a_second_signal_does_not_wait_and_a_concurrent_run_is_rejected",
    ),
    Fault(
        PROCESS,
        "the terminal goes away",
        "the run ends with its own exit code",
        "unit/test_cli.py::test_a_terminal_that_has_gone_loses_no_exit_code",
    ),
    Fault(
        PROCESS,
        "a rescore is stopped",
        "the next one finishes what it began",
        "unit/score/test_rescore.py::test_a_rescore_that_was_stopped_is_finished_by_the_next",
    ),
)
