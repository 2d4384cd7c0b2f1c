"""How the studio's processes and pages frame what they say: a JSON header, then bytes.

    length of header (4 bytes, big-endian), header (UTF-8 JSON object), body

The same on a WebSocket (one binary message each) and in a pipe, where the length of the whole
(4 bytes) stands before it. Knows nothing of what is said.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

# A mask or a picture; nothing the page sends over a socket is larger.
MAX_BYTES = 64 * 2**20

Header = dict[str, Any]


class BadMessage(ValueError):
    """What came is no message."""


def pack(header: Header, body: bytes = b"") -> bytes:
    """One message."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">I", len(text)) + text + body


def unpack(data: bytes) -> tuple[Header, bytes]:
    """The inverse; BadMessage where it is none."""
    if len(data) < 4:
        raise BadMessage("too short")
    (length,) = struct.unpack_from(">I", data)
    if length > len(data) - 4:
        raise BadMessage("cut off")
    try:
        header = json.loads(data[4 : 4 + length])
    except (ValueError, RecursionError) as error:
        raise BadMessage("no JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise BadMessage("no type")
    return header, data[4 + length :]


def write(stream: BinaryIO, header: Header, body: bytes = b"") -> None:
    """Put one message into a pipe."""
    data = pack(header, body)
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def read(stream: BinaryIO) -> tuple[Header, bytes] | None:
    """The next message of a pipe; None at its end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    if length > MAX_BYTES:
        raise BadMessage("too long")
    data = stream.read(length)
    return unpack(data) if len(data) == length else None
