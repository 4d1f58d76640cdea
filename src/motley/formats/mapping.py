"""A file mapped into memory: nothing is read until it is used, and clean pages can be dropped."""

import errno
import mmap
from pathlib import Path

from motley.errors import CapacityError, FormatError, UsageError

AGAIN = "download or copy the file again"


def map_file(path: Path) -> mmap.mmap:
    """Read-only. Raises UsageError for a file that can't be opened, FormatError for an empty one, CapacityError for one
    that is more than this process may map."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise FormatError(f"{path}: the file is empty; {AGAIN}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise CapacityError(f"{path}: this process may not map any more memory: raise its limit") from error
        raise UsageError(f"{path}: cannot be opened: {error.strerror or error}") from error
