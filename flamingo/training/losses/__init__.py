"""Losses: one file each, chosen for each data set."""

from dataclasses import dataclass
from typing import ClassVar

from flamingo.data.builders import DocumentsConfig, InterleavedConfig
from flamingo.data.streams.streamed_config import StreamedConfig
from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds
from flamingo.utils.languages import check_language


@dataclass
class LossConfig:
    """The config that all losses share."""

    #: The kind of loss.
    kind: str
    #: The smallest number of records that the loss needs.
    min_records: ClassVar[int] = 1

    def tokens_to_generate(self) -> int:
        """Returns the number of tokens that the loss generates after a document."""
        return 0

    def check_documents(self, documents: DocumentsConfig | StreamedConfig) -> None:
        """Checks that the loss can train on documents of this config.

        Raises:
            UserError: If it cannot; the error begins with a key of the documents.
        """


@dataclass
class NextTokenConfig(LossConfig):
    """Cross-entropy of each token given the tokens before it."""

    kind: str = "next_token"


@dataclass
class SelfCriticalConfig(LossConfig):
    """The reward of generated captions of the last image; the other captions of this image are the references."""

    kind: str = "self_critical"
    #: The number of captions of an image that are compared: the beams of a beam search.
    num_captions: int = 5
    #: The largest number of tokens of a caption.
    max_new_tokens: int = 30
    #: The language of the captions, as a code. It determines the tokens of CIDEr. See task.language.
    language: str = "en"
    #: CIDEr weighs a word by the number of images whose captions have it.
    min_records: ClassVar[int] = 2

    def __post_init__(self) -> None:
        whole("num_captions", self.num_captions, least=2)
        whole("max_new_tokens", self.max_new_tokens, least=1)
        check_language("language", self.language)

    def tokens_to_generate(self) -> int:
        """Returns the largest number of tokens of a generated caption."""
        return self.max_new_tokens

    def check_documents(self, documents: DocumentsConfig | StreamedConfig) -> None:
        """Checks that documents have several captions of their last image, and each image before its caption.

        Raises:
            UserError: If they have not; the error begins with a key of the documents.
        """
        needs = "loss.kind=self_critical needs kind=interleaved, captions_per_image>1, pack_to=0 and p_next=0"
        if not isinstance(documents, InterleavedConfig):
            raise UserError(f"kind is {documents.kind}, but {needs}")
        if documents.captions_per_image < 2:
            raise UserError(f"captions_per_image is {documents.captions_per_image}, but {needs}")
        if documents.pack_to != 0:
            raise UserError(f"pack_to is {documents.pack_to}, but {needs}")
        if documents.p_next != 0:
            raise UserError(f"p_next is {documents.p_next}, but {needs}")


#: A loss is called with its config, the processor, and a function that makes the reward for a language.
LOSSES: Kinds = {
    "next_token": (NextTokenConfig, "flamingo.training.losses.next_token:make_next_token"),
    "self_critical": (SelfCriticalConfig, "flamingo.training.losses.self_critical:SelfCritical"),
}
