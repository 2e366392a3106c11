"""Records -> documents."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import ANSWER_CHOICES
from flamingo.utils.checks import finite, flag, one_of, positive, probability, whole
from flamingo.utils.errors import UserError
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
    #: Rows of a packed batch, which has more if it needs them; 0: as few as possible.
    rows: int = 0
    #: The factor of this data set's mean loss (lambda in Flamingo, section 2.4).
    weight: float = 1.0

    def __post_init__(self) -> None:
        whole("min_images", self.min_images, least=1)
        whole("max_images", self.max_images, least=self.min_images)
        whole("batch_size", self.batch_size, least=1)
        probability("p_next", self.p_next)
        whole("pack_to", self.pack_to, least=0)
        whole("rows", self.rows, least=0)
        if self.rows > 0 and self.pack_to == 0:
            raise UserError(f"rows={self.rows} is for packed documents, but pack_to is 0")
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


@dataclass(kw_only=True)
class PairsConfig:
    """A captioned image and one of its captions."""

    #: The kind of documents.
    kind: str = "pairs"


#: Where the window of a page begins: at its first token, anywhere, or anywhere but more often before images.
WINDOW_STARTS = ("beginning", "uniform", "before_images")
#: How an image whose place is unknown finds its text: the most similar one, or by the best assignment of all images to
#: different texts.
ASSIGNMENTS = ("most_similar", "linear")


@dataclass(kw_only=True)
class WebDocumentConfig:
    """A window of a page: at most ``max_tokens`` tokens and ``max_images`` images."""

    #: The kind of documents.
    kind: str = "web_document"
    #: The most tokens of a document: the length of the window.
    max_tokens: int
    #: The fewest tokens of a document. No window begins closer to the end of its page.
    min_tokens: int = 1
    #: The fewest images of a document.
    min_images: int = 1
    #: The most images of a document. Later images are left out, and their texts stay.
    max_images: int
    #: Where the window begins: beginning, uniform or before_images. With before_images a start
    #: weighs 1, and 2 more for each image in the next 0.75 x max_tokens tokens (M4).
    window_start: str = "beginning"
    #: Probability that texts belong to the image after them, not before (Flamingo, A.3.2).
    p_next: float = 0.0
    #: The text of an image without a place: most_similar, or linear. With linear all images get different texts, of the
    #: largest sum of similarities.
    assignment: str = "most_similar"
    #: The least similarity to its text of an image without a place. Others are left out.
    min_similarity: float = 0.0
    #: The fewest bytes of an image's file. Smaller images are left out.
    min_image_bytes: int = 0
    #: Probability that a document with one image is kept.
    single_image_prob: float = 1.0
    #: Whether the two keys above also hold for pages whose images all have places.
    filter_placed: bool = True
    #: What a missing image leaves out: drop_image or drop_page.
    missing_images: str = "drop_image"
    #: The most images in a row. A page with more is left out. null: any number.
    max_images_in_a_row: int | None = None
    #: The most images after the last text. A page with more is left out. null: any number.
    max_images_at_the_end: int | None = None
    #: The text between texts without an image between them.
    text_separator: str = " "
    #: The text before the first image: chunk, or context. A context has no end of chunk and is not trained on.
    leading_text: str = "chunk"
    #: The sections of a page with section breaks: all, or one. It is drawn from those with images.
    sections: str = "all"
    #: Texts with a special token of the tokenizer: drop, or escape. An escaped token has a blank in it.
    special_tokens: str = "drop"

    def __post_init__(self) -> None:
        whole("max_tokens", self.max_tokens, least=1)
        whole("min_tokens", self.min_tokens, least=1, most=self.max_tokens)
        whole("min_images", self.min_images, least=1)
        whole("max_images", self.max_images, least=self.min_images)
        one_of("window_start", self.window_start, WINDOW_STARTS)
        probability("p_next", self.p_next)
        one_of("assignment", self.assignment, ASSIGNMENTS)
        finite("min_similarity", self.min_similarity)
        whole("min_image_bytes", self.min_image_bytes, least=0)
        probability("single_image_prob", self.single_image_prob)
        flag("filter_placed", self.filter_placed)
        one_of("missing_images", self.missing_images, ("drop_image", "drop_page"))
        for key in ("max_images_in_a_row", "max_images_at_the_end"):
            value = getattr(self, key)
            if value is not None:
                whole(key, value, least=1)
        one_of("leading_text", self.leading_text, ("chunk", "context"))
        one_of("sections", self.sections, ("all", "one"))
        one_of("special_tokens", self.special_tokens, ("drop", "escape"))


#: Builders of streamed samples. A builder is called with its config, the processor and a seed. Its method
#: ``document(sample, position)`` returns a :class:`flamingo.data.document.Document` or a
#: :class:`flamingo.data.drops.Dropped`, as a pure function of the seed and the position.
SAMPLE_BUILDERS: Kinds = {
    "pairs": (PairsConfig, "flamingo.data.builders.pairs:Pairs"),
    "web_document": (WebDocumentConfig, "flamingo.data.builders.web_document:WebDocument"),
}
