"""Proves that a host reads and writes the same output_dir as the driver: a local path may exist on each of them.

The driver writes a token into a directory of the run. A host reads it and writes it back under its own name, which the
driver reads. In object storage this also shows that the host's credentials work. A host takes `LONGEST_S` at most: a
disk that hangs, or a storage without credentials, may not answer for minutes. Out: an error that names the host.
"""

from __future__ import annotations

import os
import pickle
import re
import threading
import time
from dataclasses import dataclass

from pipeline.errors import ConfigError, PipelineError
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import without_credentials
from pipeline.terminal.text import escape_control, one_line

LONGEST_S = 20.0
"""Seconds that a host may take to read and write."""

LONGEST_UNSEEN_S = 5.0
"""Seconds that a shared directory may take to show on one host what another has just written."""

POLL_S = 0.25

DRIVER = "driver"
"""Name of the file that the driver writes."""

CREDENTIALS = {"s3": "AWS_", "gs": "GOOGLE_", "gcs": "GOOGLE_", "abfs": "AZURE_", "abfss": "AZURE_"}
"""Start of the environment variables that hold credentials, by the scheme of a URI."""

LONGEST_REASON = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageProof:
    """A token in a directory of the run. Sent to other hosts, so it must be picklable; it holds no secret.

    `directory` is pickled, because a client of object storage may hang where it is made. `variables` are the names of
    the driver's variables with credentials.
    """

    output_dir: str
    directory: bytes
    token: str
    variables: tuple[str, ...]

    @classmethod
    def begin(cls, output_dir: str, directory: ArtifactStore, token: str) -> StorageProof:
        """Write the token, as the driver; `directory` belongs to this proof or this session alone.

        Raises:
            RunError: The directory cannot be written.
        """
        start = _credentials(output_dir)
        variables = tuple(sorted(name for name in os.environ if start is not None and name.startswith(start)))
        directory.create()
        directory.write_text(DRIVER, token)
        return cls(output_dir=output_dir, directory=pickle.dumps(directory), token=token, variables=variables)

    def require_shared(self, host: str, answers_as: str | None = None) -> None:
        """Check, on a host, that it reads the driver's token; with `answers_as`, write it under this name.

        Raises:
            ConfigError: The host does not see the driver's files, or cannot read or write them.
        """
        failures: list[Exception] = [TimeoutError(f"no answer within {LONGEST_S:.0f} s")]

        def read_and_write() -> None:
            try:
                directory = self._directory()
                self._require_token(directory, DRIVER, host, time.monotonic() + LONGEST_UNSEEN_S)
                if answers_as is not None:
                    directory.write_text(answers_as, self.token)
            except Exception as error:  # whatever the storage raises becomes the reason
                failures.append(error)
            else:
                failures.clear()

        thread = threading.Thread(target=read_and_write, name="storage-proof", daemon=True)  # left behind if it hangs
        thread.start()
        thread.join(LONGEST_S)
        if not failures:
            return
        error = failures[-1]
        if isinstance(error, ConfigError):
            raise error
        raise ConfigError(self._refusal(host, error)) from error

    def require_answer(self, host: str, name: str, until: float) -> None:
        """Check, as the driver, that it reads what a host has written under this name, at the latest at `until`.

        Raises:
            ConfigError: It does not.
            RunError: The storage does not answer.
        """
        directory = self._directory()
        with directory.reaching():
            self._require_token(directory, name, host, until)

    def end(self) -> None:
        """Remove what the proof has written.

        Raises:
            RunError: It cannot be removed.
        """
        self._directory().remove()

    def _directory(self) -> ArtifactStore:
        directory = pickle.loads(self.directory)  # noqa: S301
        assert isinstance(directory, ArtifactStore)
        return directory

    def _require_token(self, directory: ArtifactStore, name: str, host: str, until: float) -> None:
        """Read a file until it holds the token, or it is `until` on the monotonic clock.

        Raises:
            ConfigError: It does not.
            OSError: The storage refuses.
        """
        while True:
            try:
                with directory.fs.open_input_stream(directory.path(name)) as stream:
                    if bytes(stream.read()) == self.token.encode():
                        return
            except FileNotFoundError:
                pass
            if time.monotonic() > until:
                break
            time.sleep(POLL_S)
        fix = "set it to a directory that all hosts share, or to object storage (s3://...)"
        if directory.local is None:
            fix = "give every host the same endpoint, in the URI or in its environment"
        where = without_credentials(self.output_dir)
        raise ConfigError(f"output_dir={where} is not shared with node {host}, which sees other files there: {fix}")

    def _refusal(self, host: str, error: Exception) -> str:
        """Return the line about a host that cannot read or write."""
        is_write = isinstance(error, PipelineError)  # of `write_text`
        cause = error.__cause__ or error
        text = str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
        reason = escape_control(
            one_line(re.sub(r"\S+://\S+", lambda uri: without_credentials(uri[0]), text), LONGEST_REASON)
        )
        line = (
            f"output_dir={without_credentials(self.output_dir)} cannot be {'written' if is_write else 'read'} on node "
            f"{host}: {reason}"
        )
        start = _credentials(self.output_dir)
        if start is None:
            return f"{line}: give the user that runs Ray there access to it"
        missing = [name for name in self.variables if name not in os.environ]
        lacks = f" (it lacks {', '.join(missing)}, which the driver has)" if missing else ""
        return (
            f"{line}{lacks}: export the credentials ({start}...) before `ray start` on that host, or put them into the "
            "job's runtime_env"
        )


def _credentials(output_dir: str) -> str | None:
    """Return the start of the variables with the credentials of an output_dir, or None for one on a disk."""
    return CREDENTIALS.get(output_dir.partition("://")[0]) if "://" in output_dir else None
