"""Every error that a user can encounter, as one tree.

    PipelineError                 exit code
    ├── UserError                 2     the user can fix it: one line, no traceback
    │   ├── ConfigError                 a key of the configuration
    │   ├── DataError                   a data set, a row, or a file of a run
    │   ├── ModelError                  the model's directory, tokenizer or chat template
    │   │   └── StartError                  an engine did not start; perhaps another one does
    │   ├── InstallationError           the packages of this Python environment
    │   ├── HostError                   the machines of the run; a line for each fault
    │   ├── EndpointError               the server behind engine.kind=endpoint
    │   ├── RunError                    the run's directory or its state
    │   │   ├── Incomparable                two runs whose questions differ
    │   │   └── Locked                      another process writes the directory
    │   ├── NightFailed                 runs of a night that could not finish
    │   └── InvalidArchive              an archive that the leaderboard's server would reject
    ├── Differs                   3     a completed check found differences
    ├── GateFailed                3     finished, but a rule of the gate is broken
    ├── TooManyFailedRows         4     finished, but more rows failed than max_failed_rows
    └── Interrupted               130   stopped by a signal; the same run_id resumes

Any other exception that reaches the top is a bug of this project and keeps its traceback. A failure of a single row
is not an exception: the row has `error` set.
"""

from __future__ import annotations

import re

PLAIN_PARAMETERS = frozenset(
    (
        *("allow_bucket_creation", "allow_bucket_deletion", "anonymous", "check_directory_existence_before_creation"),
        *(
            "default_block_size",
            "default_bucket_location",
            "enable_tls",
            "endpoint_override",
            "force_virtual_addressing",
        ),
        *("project_id", "region", "replication", "retry_limit_seconds", "scheme", "tls_ca_file_path"),
        *("blob_storage_authority", "blob_storage_scheme", "dfs_storage_authority", "dfs_storage_scheme"),
        *("api-version", "id", "lang", "page", "ref", "revision", "tab", "version"),
    )
)
"""Query parameters of URIs that are no secrets: those of pyarrow's file systems, and of links to pages."""

_URI = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s?'\"]*@)?(?P<rest>[^\s?'\"]*)(?P<query>\?[^\s'\"]*)?"
)

LONGEST_LINE = 4_000
"""Characters of an error's line: it may quote foreign text."""

CAN_BE_RESUMED = "interrupted: the same command with the same run_id resumes where it stopped"


def without_secrets(text: str) -> str:
    """Return a text in which no URI has a user, a password or a query parameter but `PLAIN_PARAMETERS`."""
    return _URI.sub(_shown, text) if "://" in text else text


def _shown(uri: re.Match[str]) -> str:
    parameters = [each.partition("=") for each in (uri["query"] or "")[1:].split("&")]
    shown = [name + sign + value if name in PLAIN_PARAMETERS else "***" for name, sign, value in parameters]
    query = f"?{'&'.join(shown)}" if uri["query"] else ""
    return f"{uri['scheme']}{'***@' if uri['user'] else ''}{uri['rest']}{query}"


def _line(text: str) -> str:
    line = without_secrets(" ".join(text.split()))
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


class PipelineError(Exception):
    """An error that a command reports as one line and an exit code."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message on one line without secrets, whatever a library's or a user's text in it has."""
        return _line(super().__str__())

    @property
    def lines(self) -> tuple[str, ...]:
        """The message as the lines to print."""
        return (str(self),)


class UserError(PipelineError):
    """An error that the user can fix; the message names the key (or the task and id), its value, and the fix."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration key is unknown, has the wrong type, or has an invalid value."""


class DataError(UserError):
    """A data set, one of its rows, or a file of a run does not match its expected layout."""


class ModelError(UserError):
    """The model's directory, its tokenizer or its chat template cannot be used."""


class StartError(ModelError):
    """The engine did not start, and the configuration is not known to be the cause: elsewhere it may start."""


class InstallationError(UserError):
    """The packages installed in this Python environment cannot run the configured engine."""


class HostError(UserError):
    """Machines lack what an engine needs, or do not share the run's storage. Each argument is the line of a fault."""

    def __str__(self) -> str:
        """Return all lines as one."""
        return "; ".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each fault."""
        return tuple(_line(str(each)) for each in self.args)


class EndpointError(UserError):
    """The OpenAI-compatible server cannot be reached, rejects the request, or sends an invalid response."""


class RunError(UserError):
    """The run's directory cannot be written, is complete already, or belongs to another run."""


class Incomparable(RunError):
    """Two runs cannot be compared: their questions differ."""


class Locked(RunError):
    """Another process holds the lock of the directory."""


class NightFailed(UserError):
    """Runs of a night could not finish; the same command does what is missing."""


class InvalidArchive(UserError):
    """The leaderboard's server would reject the archive."""


class Differs(PipelineError):
    """The harness's logs and this pipeline do not agree; every difference is on disk."""

    exit_code = 3


class GateFailed(PipelineError):
    """The run is complete, but breaks rules of its gate; the lines printed before name them."""

    exit_code = 3


class TooManyFailedRows(PipelineError):
    """The run finished, but more rows failed than `max_failed_rows` allows."""

    exit_code = 4


class Interrupted(PipelineError):
    """A signal stopped the run; finished rows are on disk."""

    exit_code = 130
