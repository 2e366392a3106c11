"""Scenes of the synthetic benchmark with their plain captions, as records."""

from flamingo.data.document import Image
from flamingo.data.records.record import LazySequence, Record
from flamingo.synthetic.documents import stream
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.grammar import PLAIN, caption
from flamingo.synthetic.scenes import Split, random_scene


class CaptionedScenes(LazySequence):
    """``length`` scenes of a split. Each depends only on the split and its index. Captions may be equal."""

    def __init__(self, split: Split, length: int) -> None:
        self.split, self.length = split, length
        self.skipped = {}

    def __len__(self) -> int:
        return self.length

    def item(self, index: int) -> Record:
        """Returns the scene at an index, drawn anew."""
        rng, name = stream("captioned scenes", self.split, index)
        scene = random_scene(rng, self.split)
        return Record(name, Image(draw(scene)), (caption(scene, PLAIN),), self.split)
