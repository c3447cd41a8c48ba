#!/bin/sh
# One night as a Ray job, on hosts with a Ray cluster of their own (`ray start`); for cron on the head host:
#     0 21 * * * /opt/pipeline/conf/hosts/nightly.sh
# The environment, RAY_AUTH_* among it, is in the file that NIGHT_ENV names (mode 0600). The night's id is the date, so a
# run of this script on the same day resumes the night; NIGHT=2026-11-28 resumes another one. Arguments of this script are
# for all runs: nightly.sh run.retry_failed=true
set -eu
. "${NIGHT_ENV:-/etc/pipeline/night.env}"
home=${PIPELINE_HOME:-/opt/pipeline}
night=${NIGHT:-$(date +%F)}
export RAY_ADDRESS="${RAY_JOBS_ADDRESS:-http://127.0.0.1:8265}"

# One night at a time: a second one ends here, with an error that cron mails.
exec 9>"${TMPDIR:-/tmp}/nightly.lock"
flock -n 9 || { echo "nightly: the lock is held: a night is still running" >&2; exit 1; }

# A failed job is submitted again, at most twice: the night then does only what is missing.
for try in 1 2 3; do
    "$home/.venv-gpu/bin/ray" job submit --submission-id="night-$night-$(date +%s)" \
        --runtime-env-json='{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "90"}}' -- \
        "$home/.venv-gpu/bin/python" -m pipeline.night night="$night" runs="$RUNS" output_dir="$OUTPUT_DIR" \
        engine.replicas=auto wait_s=3600 "$@" && exit 0
    echo "nightly: try $try of night $night has failed" >&2
done
exit 2
