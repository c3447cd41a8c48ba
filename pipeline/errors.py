"""Every error that a user can meet, as one tree.

    PipelineError                 exit code
    ├── UserError                 2     the user can mend it: one line, no traceback
    │   ├── ConfigError                 a key of the configuration
    │   ├── DataError                   a data set, a row, or a file of a run
    │   ├── ModelError                  the model's directory, tokenizer or chat template
    │   ├── EndpointError               the server behind engine.kind=endpoint
    │   ├── RunError                    the run's directory or its state
    │   │   └── Incomparable                two runs whose questions differ
    │   └── InvalidArchive              an archive that the leaderboard's server would refuse
    ├── Differs                   3     a check that ran to its end says no
    ├── GateFailed                3     finished, but a rule of the gate is broken
    ├── TooManyFailedRows         4     finished, but more rows failed than max_failed_rows
    └── Interrupted               130   stopped by a signal; the same run_id goes on

Anything else that reaches the top is our own bug and keeps its traceback. What is wrong with one row alone is
no exception at all: it is a row with `error` set.
"""

from __future__ import annotations

CAN_BE_RESUMED = "interrupted: the same command with the same run_id goes on where it stopped"


class PipelineError(Exception):
    """An end that a command turns into one line and an exit code."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message on one line, whatever a foreign library put into it."""
        return " ".join(super().__str__().split())


class UserError(PipelineError):
    """Something that the user can mend; the message names the thing, the value that came, and the mend."""

    exit_code = 2


class ConfigError(UserError):
    """A key of the configuration is unknown, of the wrong type, or impossible."""


class DataError(UserError):
    """A data set, one of its rows, or a file of a run is not what its layout promises."""


class ModelError(UserError):
    """The model's directory, its tokenizer or its chat template cannot be used."""


class EndpointError(UserError):
    """The OpenAI-compatible server cannot be reached, refuses us, or answers rubbish."""


class RunError(UserError):
    """The run's directory cannot be written, is complete already, or belongs to another run."""


class Incomparable(RunError):
    """Two runs cannot be compared: their questions differ."""


class InvalidArchive(UserError):
    """The leaderboard's server would refuse the archive."""


class Differs(PipelineError):
    """The harness's logs and this pipeline do not agree; every difference is on disk."""

    exit_code = 3


class GateFailed(PipelineError):
    """The run finished and is complete, and rules of its gate are broken; the lines before say which."""

    exit_code = 3


class TooManyFailedRows(PipelineError):
    """The run finished, and more rows failed than `max_failed_rows` allows."""

    exit_code = 4


class Interrupted(PipelineError):
    """A signal stopped the run; what was finished is on disk."""

    exit_code = 130
