"""The devices and dtypes that a config can name, without torch."""

import re

from flamingo.utils.errors import UserError

#: A dtype of frozen parts: bfloat16, and int8 in the linear layers of the language model.
INT8 = "int8"
#: Values of the key ``dtype``, the dtype of frozen parts. auto: the dtype of the checkpoint.
DTYPES = ("auto", "float32", "bfloat16", "float16", INT8)


def check_device(key: str, name: str | None) -> None:
    """Checks the name of a device. The machine need not have the device.

    Raises:
        UserError: Unless the name is None, cpu, mps, cuda or cuda:NUMBER.
    """
    if name is not None and not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", str(name)):
        raise UserError(f"{key} must be null, cpu, mps, cuda or cuda:NUMBER, got {name!r}")
