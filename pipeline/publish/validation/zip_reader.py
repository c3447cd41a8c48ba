"""Read an untrusted zip: the attacker is the sender of the archive. Nothing is extracted, and every size is bounded.

In: a seekable stream. Out: the members' names and the bytes of one. A fault of the archive raises `BadArchive`, a fault
of one member raises `BadMember`; the message of both is the reason and nothing else.
"""

from __future__ import annotations

import io
import stat
from collections import Counter
from pathlib import PurePosixPath
from typing import IO
from zipfile import ZipFile

from pipeline.publish.validation.findings import quoted
from pipeline.terminal.text import counted

MOST_MEMBERS = 1_000

MOST_DIRECTORY_BYTES = 16 << 20
"""Maximum size of a zip's list of members: enough for more than a hundred thousand members."""

MOST_MEMBER_BYTES = 512 << 20
"""Maximum unpacked size of a member: 4,590 answers of 10,000 tokens of Russian take half of it."""

BOMB_RATIO = 300
"""Ratio of unpacked to packed size above which a large member gets a warning; rows of one letter with ids have 20."""

LARGE_BYTES = 16 << 20

_CHUNK = 1 << 20
_LOCAL_HEADER = b"PK\3\4"
"""The first bytes of a zip's first member (APPNOTE 6.3.10, section 4.3.7)."""
_ELSEWHERE = 0xFFFFFFFF  # the offset is in the extra field: a zip of more than 4 GB
_FIX = "copy or pack the archive again"
_ENCRYPTED = 0x1


class BadArchive(Exception):
    """The zip cannot be read at all."""


class BadMember(Exception):
    """A member of the zip cannot be read."""


class _Bounded(io.RawIOBase):
    """A stream that limits one read to the maximum size of a list of members, which zipfile reads at once."""

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
            most = MOST_DIRECTORY_BYTES >> 20
            raise BadArchive(f"its list of files is larger than the {most} MiB that are read: {_FIX}")
        return bytes(content)


class Archive:
    """The members of a zip by name; of several members with the same name, the last."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Read the list of members.

        Raises:
            BadArchive: It is not a zip, is damaged, is empty, or has too many members.
        """
        try:
            self._zip = ZipFile(_Bounded(stream))
        except BadArchive:
            raise
        except Exception as error:  # a damaged list makes zipfile raise anything
            raise BadArchive(_why_unreadable(stream)) from error
        infos = self._zip.infolist()
        _require_whole(stream, _shift(stream, self._zip))
        if not infos:
            raise BadArchive(f"it is a zip without files in it: {_FIX}")
        if len(infos) > MOST_MEMBERS:
            raise BadArchive(
                f"it holds {len(infos):,} files, of which up to {MOST_MEMBERS:,} are read: pack a JSON file a task and "
                "logs_public.zip"
            )
        self.members = {info.filename: info for info in infos if not info.filename.endswith("/")}
        self.repeated = sorted(name for name, num in Counter(info.filename for info in infos).items() if num > 1)

    def member_warnings(self, name: str) -> list[str]:
        """Return the warnings about a member, without reading it."""
        info, path = self.members[name], PurePosixPath(name.replace("\\", "/"))
        found = []
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            found.append(
                "the name leads out of the directory that the archive is unpacked in: pack it under its bare name"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            found.append("it is a symbolic link: pack the file itself")
        if info.file_size > LARGE_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
            times = info.file_size // max(info.compress_size, 1)
            found.append(
                f"it unpacks to {times:,} times its size, as a zip bomb does: cut outputs that go round in circles"
            )
        return found

    def require_readable(self, most_bytes: int) -> None:
        """Check that every member can be unpacked; nothing is kept.

        Raises:
            BadMember: A member is encrypted or damaged, or all together are larger than `most_bytes`; it is named.
        """
        for name in self.members:
            try:
                self.copy(name, None, most_bytes)
            except BadMember as error:
                raise BadMember(f"its '{quoted(name)}' {error}") from error
            most_bytes -= self.members[name].file_size

    def read(self, name: str) -> bytes:
        """Return a member's bytes.

        Raises:
            BadMember: The member is encrypted, damaged, or larger than `MOST_MEMBER_BYTES`.
        """
        content = io.BytesIO()
        self.copy(name, content, MOST_MEMBER_BYTES)
        return content.getvalue()

    def copy(self, name: str, target: IO[bytes] | None, most_bytes: int) -> None:
        """Unpack a member into `target`, or only check that it can be unpacked if `target` is None.

        Raises:
            BadMember: The member is encrypted, damaged, or larger than `most_bytes`.
        """
        info = self.members[name]
        if info.flag_bits & _ENCRYPTED:
            raise BadMember("is encrypted: pack it without a password")
        if info.file_size > most_bytes:
            sizes = f"{info.file_size:,} bytes, more than the {most_bytes:,} that are read"
            raise BadMember(f"unpacks to {sizes}: cut outputs that go round in circles")
        try:
            with self._zip.open(info) as source:
                while chunk := source.read(_CHUNK):  # zipfile stops at the size in the list and checks the CRC
                    if target is not None:
                        target.write(chunk)
        except NotImplementedError as error:
            raise BadMember("is packed in a way that cannot be read: pack it with deflate, as zip does") from error
        except Exception as error:  # a damaged member makes zipfile and its decompressors raise anything
            raise BadMember(f"is damaged and cannot be unpacked: {_FIX}") from error


def _why_unreadable(stream: IO[bytes]) -> str:
    """Return the reason why a file's list of members cannot be read."""
    if stream.seek(0, io.SEEK_END) == 0:
        return f"it is empty, 0 bytes: {_FIX}"
    if _begins_as_zip(stream):
        return f"it begins as a zip, but the list of files at its end is cut off or damaged: {_FIX}"
    return f"it is no zip: it does not begin as one, and no list of files can be read at its end: {_FIX}"


def _shift(stream: IO[bytes], found: ZipFile) -> int:
    """Return the offset in bytes between the first member and its position in the list of members.

    Source: APPNOTE.TXT 6.3, section 4.3.12: a member's offset is in bytes 42 to 46 of its entry in the list.
    """
    if not found.infolist():
        return found.start_dir
    stream.seek(found.start_dir + 42)
    listed = int.from_bytes(stream.read(4), "little")
    return 0 if listed == _ELSEWHERE else found.infolist()[0].header_offset - listed


def _require_whole(stream: IO[bytes], shift: int) -> None:
    """Refuse a file whose members are not at their positions in the list of members.

    zipfile uses the last list of members that it finds. In a file whose end is cut off, that is the list of a nested
    zip, far behind its position (`shift` > 0). In a file that has lost bytes, members are before their positions
    (`shift` < 0).

    Args:
        stream: The file.
        shift: The offset in bytes of the members from their positions.

    Raises:
        BadArchive: A part of the file is missing, or other bytes precede the zip.
    """
    if shift < 0:
        raise BadArchive(f"it is cut: {counted(-shift, 'byte')} missing: {_FIX}")
    if shift and _begins_as_zip(stream):
        raise BadArchive(f"it is cut: its own list of files is missing, the only one is of a zip inside it: {_FIX}")
    if shift:
        raise BadArchive(f"{counted(shift, 'byte')} of something else before its files, or it is cut: {_FIX}")


def _begins_as_zip(stream: IO[bytes]) -> bool:
    stream.seek(0)
    return stream.read(len(_LOCAL_HEADER)) == _LOCAL_HEADER
