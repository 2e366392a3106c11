"""The arithmetic peaks of devices by their names."""

#: Dense bf16 products in TFLOP/s (NVIDIA's data sheets), by a part of the name; the first that fits.
_PEAKS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0}


def peak_tflops(device_name: str) -> float | None:
    """Returns the bf16 peak of a device in TFLOP/s.

    Args:
        device_name: Its name, as CUDA has it.

    Returns:
        None where the peak is not known.
    """
    for name, peak in _PEAKS.items():
        if name in device_name:
            return peak
    return None
