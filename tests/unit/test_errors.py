"""What an error's line shows."""

from __future__ import annotations

import pytest

from pipeline.errors import HostError, RunError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SEC/RET@b/c cannot", "s3://***@b/c cannot"),
        ("'https://x/y?sig=abc&region=eu' is", "'https://x/y?***&region=eu' is"),
        ("'https://x/y?abc'", "'https://x/y?***'"),
        ("s3://b/c?endpoint_override=127.0.0.1:9", "s3://b/c?endpoint_override=127.0.0.1:9"),
        ("a?b=c and\nx@y", "a?b=c and x@y"),
    ],
)
def test_no_line_shows_the_secrets_of_a_uri(text: str, shown: str) -> None:
    assert str(RunError(text)) == shown
    assert HostError(text).lines == (shown,)
