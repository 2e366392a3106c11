"""Tasks of few-shot evaluation: the config of each kind, and its class."""

from dataclasses import dataclass

from flamingo.evaluation.metrics import METRICS
from flamingo.utils.checks import one_of
from flamingo.utils.kinds import Kinds


@dataclass(kw_only=True)
class TaskConfig:
    """What the configs of all tasks have."""

    kind: str


@dataclass(kw_only=True)
class CaptioningConfig(TaskConfig):
    """Captions of images; queries and demonstrations come from captioned images of any known layout."""

    #: As in the result files: flickr8k, ...
    name: str
    #: The queries, and the pool of demonstrations: a folder, a file, or a pattern of shards in quotes.
    query: str
    support: str
    #: Names of :data:`flamingo.evaluation.metrics.METRICS`.
    metrics: list[str]
    #: Null: all splits.
    query_split: str | None = None
    support_split: str | None = None
    #: The folder of the images, where it is not that of the captions.
    images: str | None = None
    #: The format of the captions; null: recognised by the files.
    format: str | None = None

    def __post_init__(self) -> None:
        for metric in self.metrics:
            one_of("metrics", metric, METRICS)


#: ``kind -> (config dataclass, "module:Class")``.
TASKS: Kinds = {
    "captioning": (CaptioningConfig, "flamingo.evaluation.tasks.captioning:Captioning"),
}
