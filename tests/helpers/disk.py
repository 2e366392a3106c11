"""A full disk, simulated."""

import errno
import os


def full_disk(calls):
    """Returns a :func:`flamingo.utils.io.write` that fails at one of its calls."""
    left = [calls]

    def write(descriptor, content):
        left[0] -= 1
        if left[0] == 0:
            os.write(descriptor, bytes(content)[: len(content) // 2])  # what still fitted
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, content)

    return write
