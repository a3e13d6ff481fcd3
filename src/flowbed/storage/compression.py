"""Zstandard compression of stored objects; loaded only where an object is, or becomes, compressed."""

from __future__ import annotations

from flowbed.errors import Rejected

# The beginning of every Zstandard frame (RFC 8878).
MAGIC = b"\x28\xb5\x2f\xfd"
# Bytes of an object once decompressed: batch files have some megabytes, and a few kilobytes can be made to grow into
# all memory.
MOST_BYTES = 2**29


def compress(body: bytes) -> bytes:
    """Compress an object: texts become a third to a quarter as large."""
    import zstandard

    made: bytes = zstandard.ZstdCompressor().compress(body)
    return made


def plain(body: bytes) -> bytes:
    """Return an object decompressed if it is compressed, else as it is.

    Raises:
        Rejected: it is damaged, or has more than MOST_BYTES once decompressed.
    """
    if not body.startswith(MAGIC):
        return body
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
            found: bytes = reader.read(MOST_BYTES + 1)
    except zstandard.ZstdError as error:
        raise Rejected(f"its compressed data is damaged: {error}") from error
    if len(found) > MOST_BYTES:
        raise Rejected(f"it has more than {MOST_BYTES:,} bytes once decompressed: split it")
    if zstandard.frame_content_size(body) > len(found):
        raise Rejected("its compressed data is damaged: it ends too early")
    return found
