"""Tasks of few-shot evaluation: the config of each kind, and its class."""

from dataclasses import dataclass, field, replace

from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import ANSWER_CHOICES
from flamingo.data.source_config import SourceConfig
from flamingo.evaluation.metrics import METRICS
from flamingo.inference.candidate_scores import RANKED_BY
from flamingo.utils.checks import one_of, whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds
from flamingo.utils.languages import check_language


@dataclass(kw_only=True)
class TaskConfig:
    """The config that all tasks share."""

    #: The kind of task.
    kind: str


@dataclass(kw_only=True)
class ChairConfig:
    """The files of CHAIR, which counts objects that are in captions but not in images. All or none are set."""

    #: COCO's instances_*.json, with the objects in the images.
    instances: str | None = None
    #: The names of the objects: a line for each, with its synonyms after commas.
    synonyms: str | None = None
    #: Pairs of words that are one word: a line for each, and its meaning after a comma.
    double_words: str | None = None

    def __post_init__(self) -> None:
        values = vars(self)
        missing = [key for key, value in values.items() if value is None]
        if missing and len(missing) < len(values):
            raise UserError(f"{missing[0]} needs a value: CHAIR reads instances, synonyms and double_words")


@dataclass(kw_only=True)
class PooledConfig(TaskConfig, SourceConfig):
    """The config of a task whose queries and demonstrations are records of data sets of any known layout."""

    #: The name in result files.
    name: str
    #: Queries: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME.
    query: str
    #: Demonstrations: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME. Without them there are 0 shots.
    support: str | None = None
    #: The folder of the support's images; null: that of the queries, images.
    support_images: str | None = None
    #: The split of the queries, or several, such as val+test; null: all splits.
    query_split: str | None = None
    #: The split of the demonstrations, also of other supports; null: all splits.
    support_split: str | None = None
    #: The number of records that demonstrations come from, drawn once; null: all.
    support_size: int | None = None
    #: The language of captions, answers or labels, as a code: en, de, zh. Metrics of captions compare words of English
    #: (Penn Treebank), characters of Chinese and Japanese, and words by Unicode's boundaries of all others. Answers
    #: are processed by rules for English.
    language: str = "en"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_language("language", self.language)
        if self.support_size is not None:
            whole("support_size", self.support_size, least=1)
        if self.support_images is not None and self.support is None:
            raise UserError(f"support_images={self.support_images} has no effect: support has no value")

    @property
    def of_support(self) -> "PooledConfig":
        """How the support is read: as the queries, but for the folder of its images."""
        return self if self.support_images is None else replace(self, images=self.support_images)


#: The ways to choose the caption that a demonstration shows.
CAPTION_CHOICES = ("random", "first")


@dataclass(kw_only=True)
class CaptioningConfig(PooledConfig):
    """Captions of images. Queries and demonstrations are captioned images."""

    #: Other data sets by name, whose demonstrations are shown in further settings. They are read with the same keys as
    #: the support.
    other_supports: dict[str, str] = field(default_factory=dict)
    #: The caption that a demonstration shows: random, by the setting's seed, or first.
    shown_caption: str = "random"
    #: The scores. Names of :data:`flamingo.evaluation.metrics.METRICS`.
    metrics: list[str]
    #: The dual encoder of CLIPScore, such as CLIP: a folder or a hub name; null: none.
    clip_score: str | None = None
    #: The files of CHAIR.
    chair: ChairConfig = field(default_factory=ChairConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("shown_caption", self.shown_caption, CAPTION_CHOICES)
        for metric in self.metrics:
            one_of("metrics", metric, METRICS)
        if self.other_supports and self.support is None:
            raise UserError("other_supports needs support, whose demonstrations theirs are compared with")


@dataclass(kw_only=True)
class QuestionConfig(PooledConfig):
    """The config of a task on questions about images. Queries and demonstrations are questions with answers."""

    #: The text after each image, with {question}, and with {answer} at its end.
    question_template: str = QuestionTemplate().text
    #: The answer that a demonstration shows: majority, the most frequent one, or first.
    shown_answer: str = "majority"

    def __post_init__(self) -> None:
        super().__post_init__()
        QuestionTemplate(self.question_template)
        one_of("shown_answer", self.shown_answer, ANSWER_CHOICES)


@dataclass(kw_only=True)
class VqaConfig(QuestionConfig):
    """Open-ended questions about images."""

    #: Types that have scores of their own: answer_type, question_type. Data without types have none.
    score_types: list[str] = field(default_factory=lambda: ["answer_type"])
    #: Whether outputs are stemmed, as OK-VQA's answers are. Without nltk_data the scores are marked unstemmed.
    stem: bool = False
    #: The folder of nltk's data, which stemming needs; null: none.
    nltk_data: str | None = None
    #: A file of exceptions to stemming, with WORD,STEM in each line; null: none.
    stems: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.score_types:
            one_of("score_types", name, SCORE_TYPES)
        if self.nltk_data is not None and not self.stem:
            raise UserError(f"nltk_data={self.nltk_data} has no effect: stem is false")
        if self.stems is not None and self.nltk_data is None:
            raise UserError(f"stems={self.stems} has no effect: nltk_data has no value")


@dataclass(kw_only=True)
class RankingConfig:
    """How candidates are ranked by their log-likelihoods."""

    #: The value that ranks candidates: sum, mean (per token), or minus_prior.
    rank_by: str = "sum"
    #: Whether candidates end with the token that ends an answer.
    end: bool = True
    #: Prompt ensembling: random orders of the demonstrations that are averaged; 1: none.
    ensembled_orders: int = 1

    def __post_init__(self) -> None:
        one_of("rank_by", self.rank_by, RANKED_BY)
        whole("ensembled_orders", self.ensembled_orders, least=1)


@dataclass(kw_only=True)
class ClassificationConfig(PooledConfig, RankingConfig):
    """Classes of images. Queries and demonstrations are labelled images: captions are the labels."""

    #: The JSON file of class names, label -> name; null: the labels are the names.
    class_names: str | None = None

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        RankingConfig.__post_init__(self)


@dataclass(kw_only=True)
class HatefulMemesConfig(QuestionConfig, RankingConfig):
    """Memes that are hateful or not. Queries and demonstrations come from the data set's files."""

    def __post_init__(self) -> None:
        QuestionConfig.__post_init__(self)
        RankingConfig.__post_init__(self)


@dataclass(kw_only=True)
class VlIclConfig(TaskConfig):
    """A task of VL-ICL Bench. Queries and demonstrations come from its own files."""

    #: The name in result files.
    name: str
    #: The folder VL-ICL, which holds a folder for each task. Files name images relative to it.
    root: str
    #: The task's folder in it, with query.json, support.json and images.
    folder: str
    #: The text after the images, with {question}, and with {answer} at its end.
    question_template: str = "{question}\nAnswer: {answer}"

    def __post_init__(self) -> None:
        QuestionTemplate(self.question_template)


#: The number of classes that a query of open-ended miniImageNet has.
_NUM_CLASSES = 5


@dataclass(kw_only=True)
class OpenMiConfig(VlIclConfig):
    """Open-ended miniImageNet: new names of classes that only the demonstrations define."""

    #: The number of classes that a prompt shows.
    num_ways: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("num_ways", self.num_ways, least=2, most=_NUM_CLASSES)


@dataclass(kw_only=True)
class Nlvr2Config(PooledConfig, RankingConfig):
    """Statements about two images, which are true or false. Queries and demonstrations come from NLVR2's files."""

    #: The text after both images, with {question}, the statement, and {answer} at its end.
    question_template: str

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        RankingConfig.__post_init__(self)
        QuestionTemplate(self.question_template)


#: The rounds of dialogues that are asked: those with dense annotations, or all.
ROUNDS = ("annotated", "all")


@dataclass(kw_only=True)
class VisdialConfig(PooledConfig, RankingConfig):
    """Dialogues about images, whose candidate answers are ranked. Demonstrations are whole dialogues."""

    #: The text after the image, with {caption} for its caption.
    opening: str
    #: The text of each round, with {question}, and with {answer} at its end. A space stands before each round.
    question_template: str
    #: The rounds that are asked: annotated, those with dense annotations, or all.
    rounds: str = "annotated"

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        RankingConfig.__post_init__(self)
        QuestionTemplate(self.question_template)
        one_of("rounds", self.rounds, ROUNDS)
        if self.opening.count("{caption}") != 1:
            raise UserError(f"opening must have {{caption}} once: {self.opening!r}")


@dataclass(kw_only=True)
class WinogroundConfig(PooledConfig, RankingConfig):
    """Pairs of images with two captions. The support is any captioned images, or the pairs themselves."""

    #: A dual encoder, such as CLIP, with scores of its own: a folder or a hub name.
    dual_encoder: str | None = None

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        RankingConfig.__post_init__(self)


#: The types of a question by which its accuracy may be scored.
SCORE_TYPES = ("answer_type", "question_type")

#: ``kind -> (config dataclass, "module:Class")``.
TASKS: Kinds = {
    "captioning": (CaptioningConfig, "flamingo.evaluation.tasks.captioning:Captioning"),
    "classification": (ClassificationConfig, "flamingo.evaluation.tasks.classification:Classification"),
    "hateful_memes": (HatefulMemesConfig, "flamingo.evaluation.tasks.hateful_memes:HatefulMemes"),
    "nlvr2": (Nlvr2Config, "flamingo.evaluation.tasks.nlvr2:Nlvr2"),
    "visdial": (VisdialConfig, "flamingo.evaluation.tasks.visdial:Visdial"),
    "vl_icl_matching": (VlIclConfig, "flamingo.evaluation.tasks.vl_icl_matching:Matching"),
    "vl_icl_open_mi": (OpenMiConfig, "flamingo.evaluation.tasks.vl_icl_open_mi:OpenMi"),
    "vl_icl_operators": (VlIclConfig, "flamingo.evaluation.tasks.vl_icl_operators:OperatorInduction"),
    "vl_icl_questions": (VlIclConfig, "flamingo.evaluation.tasks.vl_icl_questions:VlIclQuestions"),
    "vqa": (VqaConfig, "flamingo.evaluation.tasks.vqa:Vqa"),
    "winoground": (WinogroundConfig, "flamingo.evaluation.tasks.winoground:Winoground"),
}
