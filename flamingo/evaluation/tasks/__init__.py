"""Tasks of few-shot evaluation: the config of each kind, and its class."""

from dataclasses import dataclass

from flamingo.data.source_config import SourceConfig
from flamingo.evaluation.metrics import METRICS
from flamingo.utils.checks import one_of
from flamingo.utils.kinds import Kinds
from flamingo.utils.languages import check_language


@dataclass(kw_only=True)
class TaskConfig:
    """The config that all tasks share."""

    #: The kind of task.
    kind: str


@dataclass(kw_only=True)
class CaptioningConfig(TaskConfig, SourceConfig):
    """Captions of images. Queries and demonstrations come from captioned images of any known layout."""

    #: The name in result files.
    name: str
    #: Images to caption: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME.
    query: str
    #: Demonstrations: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME. Without them there are 0 shots.
    support: str | None = None
    #: The scores. Names of :data:`flamingo.evaluation.metrics.METRICS`.
    metrics: list[str]
    #: The language of the captions, as a code: en, de, zh. Metrics compare words of English (Penn Treebank),
    #: characters of Chinese and Japanese, and words by Unicode's boundaries of all others.
    language: str = "en"
    #: The split of the queries; null: all splits.
    query_split: str | None = None
    #: The split of the demonstrations; null: all splits.
    support_split: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_language("language", self.language)
        for metric in self.metrics:
            one_of("metrics", metric, METRICS)


#: ``kind -> (config dataclass, "module:Class")``.
TASKS: Kinds = {
    "captioning": (CaptioningConfig, "flamingo.evaluation.tasks.captioning:Captioning"),
}
