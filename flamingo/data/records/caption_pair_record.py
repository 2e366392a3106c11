"""CaptionPairRecord: one image of a pair of captioned images, whose captions are easily confused."""

from dataclasses import dataclass

from flamingo.data.records.record import Record


@dataclass(frozen=True)
class CaptionPairRecord(Record):
    """An image with its caption. ``other_caption`` is the caption of the other image of the pair."""

    #: The id of the pair.
    pair: str
    other_caption: str
