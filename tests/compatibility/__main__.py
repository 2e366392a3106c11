"""python -m tests.compatibility decoders|encoders [MODEL_TYPE ...]

Tries every model type of transformers, tiny and random, and writes docs/compatibility.md.
"""

import argparse
import importlib
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.compatibility.sweep import sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("decoders", "encoders"))
    parser.add_argument("model_types", nargs="*", help="only these; all that have no outcome yet by default")
    arguments = parser.parse_args()
    module = importlib.import_module(f"tests.compatibility.{arguments.kind}")
    sys.exit(int(sweep(arguments.kind, module.CLASSES, module.trial, arguments.model_types) > 0))


if __name__ == "__main__":
    main()
