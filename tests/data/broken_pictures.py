"""Images that no decoder can open: truncated, of another kind, or small files that are huge in memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image as PILImage


def picture(kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """Noise, which does not compress, so that a cut falls into the pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PILImage.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def broken_pictures() -> dict[str, bytes]:
    """What no decoder takes for a picture, each under the suffix ``.png``."""
    found = {"empty": b"", "text": b"no picture", "a page of HTML": b"<html><body>404</body></html>" * 20}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = picture(kind)
        for share in (5, 30, 60, 90):
            found[f"{kind} cut off at {share} of 100"] = whole[: len(whole) * share // 100]
    found["PNG of 60,000 by 60,000 pixels"] = _png((60_000, 60_000))
    found["PNG with 100 MB of text"] = _png((4, 4), b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    found["PNG with a profile of 100 MB"] = _png((4, 4), b"iCCP", b"ICC\0\0" + zlib.compress(bytes(100_000_000), 9))
    found["PNG with a wrong checksum"] = picture()[:40] + b"\xff\xff" + picture()[42:]
    return found


def _png(size: tuple[int, int], kind: bytes = b"", content: bytes = b"") -> bytes:
    """A black PNG with a chunk of this kind before its pixels, of which it has those of 4 rows at most."""
    rows = (b"\0" + bytes(3 * size[0])) * min(4, size[1])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)), (kind, content), (b"IDAT", zlib.compress(rows))]
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks if k]
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed) + end
