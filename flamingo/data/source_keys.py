"""The keys of a config that a source is read by, which errors name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceKeys:
    """The keys of a source, such as ``data.root`` and ``data.split``."""

    #: The key of the folder, file or glob.
    root: str = "root"
    #: The key of the split.
    split: str = "split"
    #: The section that has the keys of :class:`flamingo.data.source_config.SourceConfig`; empty: they are at the top.
    section: str = ""

    def named(self, name: str) -> str:
        """Returns the full key of a field of the section."""
        return f"{self.section}.{name}" if self.section else name


#: The keys of the data that are trained on, or inspected, of the samples that are logged, and of held-out documents.
DATA_KEYS = SourceKeys("data.root", "data.split", "data")
SAMPLE_KEYS = SourceKeys("data.root", "data.sample_split", "data")
VALIDATION_KEYS = SourceKeys("data.root", "data.validation_split", "data")
