"""Records -> documents."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from flamingo.data.question_record import ANSWER_CHOICES
from flamingo.data.question_template import QuestionTemplate
from flamingo.utils.checks import one_of, positive, probability, whole
from flamingo.utils.kinds import Kinds


@dataclass(kw_only=True)
class DocumentsConfig:
    """The config that all kinds of documents share. A document has ``min_images`` to ``max_images`` images."""

    #: Whether the documents are made of questions; otherwise of captions.
    of_questions: ClassVar[bool] = False

    #: The kind of documents.
    kind: str
    #: The fewest images of a document.
    min_images: int
    #: The most images of a document.
    max_images: int
    #: Documents of a batch.
    batch_size: int
    #: Probability that texts belong to the image after them, not before (Flamingo, A.3.2).
    p_next: float = 0.0
    #: Tokens of a row that short documents share; 0: each document has its own row.
    pack_to: int = 0
    #: The factor of this data set's mean loss (lambda in Flamingo, section 2.4).
    weight: float = 1.0

    def __post_init__(self) -> None:
        whole("min_images", self.min_images, least=1)
        whole("max_images", self.max_images, least=self.min_images)
        whole("batch_size", self.batch_size, least=1)
        probability("p_next", self.p_next)
        whole("pack_to", self.pack_to, least=0)
        positive("weight", self.weight)

    @property
    def num_neighbours(self) -> int:
        """The number of nearest neighbours that the builder needs for each record."""
        return 0

    @property
    def num_views(self) -> int:
        """The number of crops of each image that documents show, including the image itself."""
        return 1

    @property
    def group_size(self) -> int:
        """The number of consecutive documents that show the same images."""
        return 1

    def of_size(self, num_images: int) -> Self:
        """Returns the config of documents that all have ``num_images`` images, chosen at random."""
        return replace(self, min_images=num_images, max_images=num_images)

    def without_neighbours(self) -> Self:
        """Returns the config with random images in place of neighbours."""
        return self


@dataclass(kw_only=True)
class InterleavedConfig(DocumentsConfig):
    """Captioned images, one after the other."""

    kind: str = "interleaved"
    #: Probability that the images before the last one are its nearest neighbours.
    similar_prob: float = 0.0
    #: Versions of an image: itself and random crops of it, half of them mirrored.
    num_crops: int = 1
    #: Captions of an image that are learnt at once, in as many documents. This costs little more than one caption.
    captions_per_image: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        probability("similar_prob", self.similar_prob)
        whole("num_crops", self.num_crops, least=1)
        whole("captions_per_image", self.captions_per_image, least=1)

    @property
    def num_neighbours(self) -> int:
        """The number of nearest neighbours of each record that precede it in documents of neighbours."""
        return self.max_images - 1 if self.similar_prob > 0 else 0

    @property
    def num_views(self) -> int:
        """The number of crops of each image, including the image itself."""
        return self.num_crops

    @property
    def group_size(self) -> int:
        """The number of documents with the same images and different captions."""
        return self.captions_per_image

    def of_size(self, num_images: int) -> Self:
        """Returns the config of documents with ``num_images`` random images, uncropped and with one caption each."""
        documents = super().of_size(num_images)
        return replace(documents, similar_prob=0.0, num_crops=1, captions_per_image=1)

    def without_neighbours(self) -> Self:
        """Returns the config with random images in place of neighbours."""
        return replace(self, similar_prob=0.0)


@dataclass(kw_only=True)
class QuestionsConfig(DocumentsConfig):
    """Questions about images, one after the other, each with an answer."""

    kind: str = "questions"
    of_questions: ClassVar[bool] = True
    #: The text after each image, with {question}, and with {answer} at its end.
    question_template: str = QuestionTemplate().text
    #: The answer that is trained on: majority, the most frequent one, first, or random.
    answer: str = "majority"

    def __post_init__(self) -> None:
        super().__post_init__()
        QuestionTemplate(self.question_template)
        one_of("answer", self.answer, (*ANSWER_CHOICES, "random"))


#: A builder is called with its config, the records, a seed, the neighbours of the records (None if it needs none) and
#: the template of captions. It is an endless sequence of documents, and raises UserError for too few records.
BUILDERS: Kinds = {
    "interleaved": (InterleavedConfig, "flamingo.data.builders.interleaved:Interleaved"),
    "questions": (QuestionsConfig, "flamingo.data.builders.questions:Questions"),
}
