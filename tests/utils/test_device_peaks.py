import pytest

from flamingo.utils.device_peaks import peak_tflops


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H200", 989.0), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA GeForce", None)],
)
def test_peaks_belong_to_parts_of_the_names(name, peak):
    assert peak_tflops(name) == peak
