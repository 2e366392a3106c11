"""A device without enough memory is an error of one sentence, which names the keys to lower."""

import pytest
import torch

from flamingo.utils.errors import UserError
from flamingo.utils.memory import out_of_memory


def test_out_of_memory_names_the_keys_before_the_device_message():
    named = pytest.raises(UserError, match=r"a\.batch_size or b\.batch_size")
    with named as caught, out_of_memory("a.batch_size", "b.batch_size"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "2.00 GiB" in str(caught.value.__cause__)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^CUDA error$"), out_of_memory("batch_size"):
        raise RuntimeError("CUDA error")
