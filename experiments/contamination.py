"""Searches training data for images and captions of evaluations: exact and near duplicates by task.

python -m experiments.contamination data.root=DIR "+tasks.coco={query: DIR, query_split: test}" output=FOLDER
python -m experiments.contamination data=streamed_pairs data.documents.streamed.sources.pairs.root=DIR \
    "+tasks.coco={query: DIR, query_split: test}" "+tasks.nocaps={query: DIR}" output=FOLDER

`data` has the keys and the group of `data` in experiments.train. The training data are read once, and no model is
loaded. Leaves contamination.json, and contamination.html with pictures.
"""

from dataclasses import dataclass, field

from experiments.cli.command import command
from experiments.schema import DataConfig, Entry
from flamingo.utils.checks import positive_probability, whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_config
from flamingo.utils.languages import check_language


@dataclass(kw_only=True)
class TaskSourceConfig:
    """The queries of a task, as `task` in experiments.evaluate names them."""

    #: Queries: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME.
    query: str
    #: The split of the queries, or several, such as val+test; null: all splits.
    query_split: str | None = None
    #: The folder of the images, if the captions lie elsewhere.
    images: str | None = None
    #: The format of the queries; null: recognised by the files.
    format: str | None = None
    #: The language of the captions, which decides on the words.
    language: str = "en"

    def __post_init__(self) -> None:
        check_language("language", self.language)


@dataclass(kw_only=True)
class ContaminationConfig:
    """The training data, the tasks, and what counts as a near duplicate."""

    #: The training data, by data=NAME.
    data: DataConfig
    #: Tasks by name: "+tasks.NAME={query: FOLDER, query_split: SPLIT}". As a dataclass, a :class:`TaskSourceConfig`.
    tasks: dict[str, Entry] = field(default_factory=dict)
    #: The most bits of 256 in which the perceptual hashes of near-duplicate images differ.
    max_distance: int = 48
    #: The fewest words of a caption that is searched.
    min_words: int = 8
    #: The least share of word pairs that near-duplicate captions have in common.
    min_overlap: float = 0.6
    #: The most pictures, and the most captions, of each task on the page.
    pictures: int = 100
    #: The folder of the results.
    output: str

    def __post_init__(self) -> None:
        whole("max_distance", self.max_distance, least=0, most=128)
        whole("min_words", self.min_words, least=1)
        whole("pictures", self.pictures, least=0)
        positive_probability("min_overlap", self.min_overlap)
        for name, entry in self.tasks.items():
            if not isinstance(entry, TaskSourceConfig):
                self.tasks[name] = load_config(TaskSourceConfig, entry, f"tasks.{name}")


def check_config(config: ContaminationConfig) -> None:
    """Checks that there are training data and a task.

    Raises:
        UserError: With the key of what is missing.
    """
    if config.data.root is None and not config.data.streamed():
        raise UserError("there are no training data: set data.root=FOLDER, or data=streamed_pairs")
    if config.data.root is not None and not config.data.of_records():
        raise UserError(f"data.root={config.data.root} has no effect: no documents of data are made of its images")
    if not config.tasks:
        raise UserError('tasks is empty: add one by "+tasks.NAME={query: FOLDER, query_split: SPLIT}"')


main = command("contamination", ContaminationConfig, "experiments.runs.run_contamination:run_job", check_config)

if __name__ == "__main__":
    main()
