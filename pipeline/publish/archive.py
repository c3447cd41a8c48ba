"""A zip from anywhere, read without harm: nothing is extracted, and every size is bounded.

In: a seekable stream. Out: the members' names and the bytes of one. What is wrong with the whole raises `BadArchive`,
what is wrong with one member `BadMember`; both carry the reason and nothing else.
"""

from __future__ import annotations

import io
import stat
from collections import Counter
from pathlib import PurePosixPath
from typing import IO
from zipfile import ZipFile

from pipeline.publish.findings import shown

MOST_MEMBERS = 1_000

MOST_DIRECTORY_BYTES = 16 << 20
"""Size of a zip's list of members up to which it is read: more than a hundred thousand of them."""

MOST_MEMBER_BYTES = 512 << 20
"""Size of a member up to which it is unpacked: 4,590 answers of 10,000 tokens of Russian are half of it."""

BOMB_RATIO = 300
"""Unpacked to packed size above which a large member is told: rows of one letter with their ids are packed to 1/20."""

LARGE_BYTES = 16 << 20

_CHUNK = 1 << 20
_ENCRYPTED = 0x1


class BadArchive(Exception):
    """The zip cannot be read at all."""


class BadMember(Exception):
    """A member of the zip cannot be read."""


class _Bounded(io.RawIOBase):
    """A stream of which nobody reads more at once than a list of members may take; zipfile reads that list whole."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._stream.seek(offset, whence)
        return self._stream.tell()

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size if 0 <= size <= MOST_DIRECTORY_BYTES else MOST_DIRECTORY_BYTES + 1)
        if len(content) > MOST_DIRECTORY_BYTES:
            raise BadArchive(f"its list of members is larger than {MOST_DIRECTORY_BYTES >> 20} MiB")
        return bytes(content)


class Archive:
    """The members of a zip by name; of members with the same name, the last."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Read the list of members.

        Raises:
            BadArchive: It is no zip, is damaged, or has too many members.
        """
        try:
            self._zip = ZipFile(_Bounded(stream))
        except BadArchive:
            raise
        except Exception as error:  # a damaged list makes zipfile raise anything
            raise BadArchive(f"it is no zip that can be read ({_reason(error)})") from error
        infos = self._zip.infolist()
        if len(infos) > MOST_MEMBERS:
            raise BadArchive(f"it has {len(infos):,} members; an archive has a file a task and {MOST_MEMBERS} at most")
        self.members = {info.filename: info for info in infos if not info.is_dir()}
        self.repeated = sorted(name for name, num in Counter(info.filename for info in infos).items() if num > 1)

    def suspicions(self, name: str) -> list[str]:
        """Return what is strange about a member, before anything of it is read."""
        info, path = self.members[name], PurePosixPath(name.replace("\\", "/"))
        found = []
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            found.append("the name leads out of the directory that the archive is unpacked in")
        if stat.S_ISLNK(info.external_attr >> 16):
            found.append("it is a symbolic link")
        if info.file_size > LARGE_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
            times = info.file_size // max(info.compress_size, 1)
            found.append(f"it unpacks to {times:,} times its size: a zip bomb, or outputs that go round in circles")
        return found

    def require_readable(self, most_bytes: int) -> None:
        """Unpack every member and keep nothing.

        Raises:
            BadMember: One is encrypted or damaged, or all together are larger than `most_bytes`; it is named.
        """
        for name in self.members:
            try:
                self.copy(name, None, most_bytes)
            except BadMember as error:
                raise BadMember(f"its '{shown(name)}' {error}") from error
            most_bytes -= self.members[name].file_size

    def read(self, name: str) -> bytes:
        """Return a member's bytes.

        Raises:
            BadMember: It is encrypted, damaged, or larger than `MOST_MEMBER_BYTES`.
        """
        content = io.BytesIO()
        self.copy(name, content, MOST_MEMBER_BYTES)
        return content.getvalue()

    def copy(self, name: str, target: IO[bytes] | None, most_bytes: int) -> None:
        """Unpack a member into a file, or only check that it unpacks.

        Raises:
            BadMember: It is encrypted, damaged, or larger than `most_bytes`.
        """
        info = self.members[name]
        if info.flag_bits & _ENCRYPTED:
            raise BadMember("is encrypted")
        if info.file_size > most_bytes:
            raise BadMember(f"unpacks to {info.file_size:,} bytes, more than the {most_bytes:,} that are read")
        try:
            with self._zip.open(info) as source:
                while chunk := source.read(_CHUNK):  # never more than the size in the list, and the CRC is compared
                    if target is not None:
                        target.write(chunk)
        except Exception as error:  # a damaged member makes zipfile and its decompressors raise anything
            raise BadMember(f"cannot be unpacked ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
