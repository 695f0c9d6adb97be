"""Guards for formats that are ZIP archives: what they claim to unfold into is checked first.

The limits of the child process catch what lies about its size.
"""

from __future__ import annotations

import io
import zipfile

from chains.retrieval.errors import DamagedDocument

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
MAX_RATIO = 200
_SMALL = 8 * 1024 * 1024


def check_archive(name: str, data: bytes) -> zipfile.ZipFile:
    """The archive, opened; raises DamagedDocument where it is none or unfolds suspiciously far."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise DamagedDocument(
            f"expected a ZIP-based document in {name!r}, found {str(error)!r}; save the document anew"
        ) from error
    total = sum(entry.file_size for entry in archive.infolist())
    if total > MAX_UNPACKED_BYTES or (total > _SMALL and total > MAX_RATIO * len(data)):
        raise DamagedDocument(
            f"expected a document in {name!r}, found {len(data)} bytes that claim to unfold into {total}; "
            "it looks like a decompression bomb and was not opened"
        )
    return archive
