"""RICES by texts: the checks before an evaluation, the search for candidates, and the record of the similarities."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from experiments.evaluate import EvaluateConfig
from experiments.schema import JSON
from experiments.setup.recorded_contents import keep_earlier
from flamingo.evaluation.caption_search import check_scikit_learn
from flamingo.evaluation.protocol import RecordTask, Task, TextRetrievalTask
from flamingo.evaluation.selection import CAPTION
from flamingo.evaluation.settings import Setting
from flamingo.inference.features import FeatureStore
from flamingo.inference.vector_store import VectorStore
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.memory import out_of_memory
from flamingo.utils.run_folder import Run, model_contents

#: The section of an evaluation's checksums, and its key in ``RunFiles.may_change``: similarities may be added.
_SECTION = "rices"
RICES_CONTENTS = f"contents.{_SECTION}"


def check_rices(config: EvaluateConfig, task: Task, settings: Sequence[Setting]) -> None:
    """Checks that retrieval by texts has what it needs.

    Raises:
        UserError: Without a dual encoder or scikit-learn, where one is needed; and for a dual encoder without a use.
    """
    names = [setting.demonstrations for setting in settings if setting.text_similarity is not None]
    encoder = config.rices_encoder
    if not names:
        if encoder is not None:
            raise UserError(f"rices_encoder={encoder} has no effect: no demonstrations are retrieved by texts")
        return
    if encoder is not None:
        from_pretrained(AutoConfig, encoder, "rices_encoder")
        return
    assert isinstance(task, TextRetrievalTask)
    if CAPTION in task.text_similarities:
        raise UserError(f"demonstrations={names[0]} compares images with captions: set rices_encoder to a dual encoder")
    check_scikit_learn()


def index_texts(config: EvaluateConfig, task: RecordTask, settings: Sequence[Setting], features: FeatureStore) -> None:
    """Finds the demonstrations that are similar by texts.

    Raises:
        UserError: If a query has too few candidates.
    """
    numbers: dict[str, int] = {}
    for setting in settings:
        similarity = setting.text_similarity
        if similarity is not None:
            numbers[similarity] = max(setting.shots, numbers.get(similarity, 0))
    if not numbers:
        return
    assert isinstance(task, TextRetrievalTask)
    with out_of_memory("features.batch_size"):
        vectors = None
        if config.rices_encoder is not None:
            # Beside the features: their folder belongs to the model's encoder.
            folder = Path(f"{features.folder}-dual_encoder")
            vectors = VectorStore(folder, config.rices_encoder, config.features.batch_size)
        task.index_texts(numbers, features, vectors)


def record_rices(run: Run, contents: JSON, config: EvaluateConfig, task: Task, settings: Sequence[Setting]) -> None:
    """Adds what each retrieval by texts compares with, also in earlier evaluations in the run's folder.

    Args:
        run: The run.
        contents: The checksums of this evaluation. They are changed.
        config: The evaluation.
        task: Its task.
        settings: All settings.

    Raises:
        UserError: If a retrieval has another encoder than in an earlier evaluation.
    """
    about: JSON = {"tf_idf": task.language}
    if config.rices_encoder is not None:
        about = {"encoder": config.rices_encoder, "contents": model_contents(config.rices_encoder)}
    for setting in settings:
        if setting.text_similarity is not None:
            contents.setdefault(_SECTION, {})[setting.demonstrations] = about
    if run.has_results and not config.overwrite:
        keep_earlier(run, contents, _SECTION, "demonstrations={name} has another rices_encoder", "")
