"""The devices and dtypes that a config can name, without torch."""

import re

from flamingo.utils.errors import UserError

#: Values of the key ``dtype``, the dtype of frozen parts. auto: as they were saved.
DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_device(key: str, name: str | None) -> None:
    """Raises UserError unless the name is null, cpu, mps, cuda or cuda:NUMBER. The device need not be there."""
    if name is not None and not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", str(name)):
        raise UserError(f"{key} must be null, cpu, mps, cuda or cuda:NUMBER, got {name!r}")
