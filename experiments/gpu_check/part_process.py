"""The process of one part: runs it and writes its records immediately."""

import json
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

from experiments.gpu_check.check_parts import JSON, RECORDED, Settings, SkippedError
from flamingo.utils.ancestors import end_with
from flamingo.utils.io import write_text


def results_file(output: Path, part: str) -> Path:
    """Returns the file with the values of a part and its section of the report."""
    return output / RECORDED / f"{part}.json"


def main() -> None:
    """Runs the part of the command line: NAME MODULE:FUNCTION OUTPUT DEVICE SIZE."""
    end_with(os.getppid())
    name, location, output, device, size = sys.argv[1:]
    module, _, function = location.partition(":")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    settings = Settings(Path(output), None if device == "best" else device, size == "small")
    file = results_file(settings.output, name)

    def save(values: JSON, text: str) -> None:
        write_text(file, json.dumps({"values": values, "text": text}, indent=1) + "\n")

    try:
        getattr(import_module(module), function)(settings, save)
    except SkippedError as reason:
        write_text(file, json.dumps({"skipped": str(reason)}) + "\n")


if __name__ == "__main__":
    main()
