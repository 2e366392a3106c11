"""The one error type for what a user can fix."""


class UserError(ValueError):
    """A wrong key, value or file.

    The message is one sentence that names the key, value or file. The commands print it without a stack trace and exit
    with status 2. Every other exception keeps its trace.
    """
