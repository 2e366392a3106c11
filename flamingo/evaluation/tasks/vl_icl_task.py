"""What the tasks of VL-ICL Bench share (Zong et al., arXiv 2403.13164): their files, their limits and their score."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from flamingo.data.question_template import QuestionTemplate
from flamingo.evaluation.metrics.vl_icl import VL_ICL_ACCURACY
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.tasks import VlIclConfig
from flamingo.evaluation.tasks.vl_icl_files import FileRow, VlIclFiles


class VlIclTask(ABC):
    """Queries and demonstrations of one folder of the benchmark."""

    max_new_tokens: ClassVar[int] = 15
    text_only: ClassVar[bool] = False
    measures_copying: ClassVar[bool] = True
    corpus_metrics: ClassVar[tuple[str, ...]] = ()
    language: ClassVar[str] = "en"

    def __init__(self, config: VlIclConfig) -> None:
        """Reads the task.

        Raises:
            UserError: If a file is missing or malformed, or an image cannot be opened.
        """
        self.name = config.name
        files = VlIclFiles(Path(config.root), config.folder, QuestionTemplate(config.question_template))
        self._queries = [self._read_query(files, row) for row in files.rows("query")]
        self._read_support(files)
        files.open_images()
        #: All files of the task. The evaluation records their checksum.
        self.files = files.paths

    @classmethod
    def from_config(cls, config: VlIclConfig, open_images: bool = True) -> "VlIclTask":
        """Returns the task of a config. Images are opened in any case, since no features of them are kept.

        Raises:
            UserError: If a file is missing or malformed, or an image cannot be opened.
        """
        return cls(config)

    def _read_query(self, files: VlIclFiles, row: FileRow) -> Example:
        return files.example(row)

    @abstractmethod
    def _read_support(self, files: VlIclFiles) -> None:
        """Reads the demonstrations."""

    def queries(self) -> Sequence[Example]:
        """Returns all queries, in the order of the file."""
        return self._queries

    @abstractmethod
    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns the candidates for this query's demonstrations, in groups."""

    @abstractmethod
    def is_right(self, output: str, answer: str) -> bool:
        """Returns whether the output counts as the answer."""

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``vl_icl_accuracy``."""
        return {VL_ICL_ACCURACY: float(self.is_right(output, query.references[0]))}
