"""Tasks of few-shot evaluation: the config of each kind, and its class."""

from dataclasses import dataclass

from flamingo.data.source_config import SourceConfig
from flamingo.evaluation.metrics import METRICS
from flamingo.utils.checks import one_of
from flamingo.utils.kinds import Kinds
from flamingo.utils.languages import check_language


@dataclass(kw_only=True)
class TaskConfig:
    """What the configs of all tasks have."""

    kind: str


@dataclass(kw_only=True)
class CaptioningConfig(TaskConfig, SourceConfig):
    """Captions of images; queries and demonstrations come from captioned images of any known layout."""

    #: As in the result files: flickr8k, ...
    name: str
    #: The queries, and the pool of demonstrations: a folder, a file, a pattern of shards in quotes, or
    #: hf://datasets/OWNER/NAME. Without a pool there are no demonstrations.
    query: str
    support: str | None = None
    #: Names of :data:`flamingo.evaluation.metrics.METRICS`.
    metrics: list[str]
    #: The code of the language of the captions, such as en, de or zh: metrics compare words of English (Penn
    #: Treebank), characters of Chinese and Japanese, and words by Unicode's boundaries of all others.
    language: str = "en"
    #: Null: all splits.
    query_split: str | None = None
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
