"""Serial numbers of Ogg streams, so that the same sound gives the same file.

Source: RFC 3533, The Ogg Encapsulation Format, section 6.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from ft.errors import AudioError

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in reverse."""


def set_serial(path: Path, serial: int) -> None:
    """Gives the one stream of an Ogg file another serial number (32 bit), in place of the one that libsndfile drew.

    Raises:
        AudioError: the file is no Ogg file, or ends within a page.
        OSError: it cannot be changed.
    """
    with path.open("r+b") as file:
        while header := file.read(27):
            sizes = file.read(header[26]) if len(header) == 27 else b""
            body = file.read(sum(sizes))
            if header[:4] != b"OggS" or len(sizes) < header[26] or len(body) < sum(sizes):
                raise AudioError(f"{path}: not made of whole Ogg pages")
            header = header[:14] + struct.pack("<I", serial) + header[18:22] + bytes(4) + header[26:]
            header = header[:22] + struct.pack("<I", checksum(header + sizes + body)) + header[26:]
            end = file.tell()
            file.seek(end - len(body) - len(sizes) - len(header))
            file.write(header)
            file.seek(end)


def checksum(page: bytes) -> int:
    """CRC of a page: polynomial 0x04c11db7, from 0 on. zlib has the same with all bits mirrored, from -1 on.

    >>> hex(checksum(b"123456789"))
    '0x89a1897f'
    """
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")
