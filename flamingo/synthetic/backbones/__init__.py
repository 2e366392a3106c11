"""Two tiny backbones that were pretrained on the synthetic benchmark; each folder has a card, README.md."""

from pathlib import Path

VISION = Path(__file__).parent / "vision"
LANGUAGE = Path(__file__).parent / "language"
