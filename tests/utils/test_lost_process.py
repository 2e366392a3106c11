"""The sentence for processes that have lost another one."""

import os
import traceback
from datetime import timedelta

import pytest
from torch import distributed

from flamingo.utils.lost_process import lost_process_explained


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_of_collectives_are_explained_after_their_trace(error, explained):
    with pytest.raises(RuntimeError) as caught, lost_process_explained():
        raise error
    assert caught.value is error
    assert ("Another process" in "".join(traceback.format_exception(error)).splitlines()[-1]) == explained


def test_a_process_whose_peer_is_killed_ends_with_the_sentence(tmp_path):
    """The text of gloo's error is that of this torch."""
    store = distributed.FileStore(str(tmp_path / "store"), 2)
    if (pid := os.fork()) == 0:
        distributed.init_process_group("gloo", store=store, rank=1, world_size=2, timeout=timedelta(seconds=60))
        os._exit(1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=timedelta(seconds=60))
    try:
        os.waitpid(pid, 0)
        with pytest.raises(RuntimeError) as caught, lost_process_explained():
            distributed.barrier()
    finally:
        distributed.destroy_process_group()
    assert caught.value.__notes__
