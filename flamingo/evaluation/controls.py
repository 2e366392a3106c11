"""Controls: evaluations in which a part of the prompt is missing or wrong, or no model answers.

A control shows what the score of the plain setting depends on.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flamingo.evaluation.protocol import CaptionTask, DescribedTask, Example, NearestTask, Task
from flamingo.evaluation.random_draws import query_rng
from flamingo.utils.errors import UserError
from flamingo.utils.maximum import last_maximum

#: Parts of seeds: another text draws other images and captions.
_IMAGE_STREAM, _CAPTION_STREAM = "shuffled_images", "shuffled_captions"
#: The largest number of draws of a caption from other queries' supports.
_MAX_DRAWS = 1000

#: (task, query, demonstrations, seed) -> the demonstrations that are shown instead.
Replacement = Callable[[Task, Example, Sequence[Example], int], list[Example]]
#: (task, query, the demonstrations that are shown) -> the output.
Baseline = Callable[[Task, Example, Sequence[Example]], str]


@dataclass(frozen=True)
class Control:
    """The changes of a control. Without any argument it changes nothing."""

    #: Whether no token attends to any image. The prompt keeps its markers.
    blind: bool = False
    #: Replaces the demonstrations.
    replacement: Replacement | None = None
    #: Returns the output without a model.
    answer: Baseline | None = None
    #: The smallest number of demonstrations with images.
    least_shots: int = 1
    #: Whether the control also runs with retrieved demonstrations.
    with_retrieved: bool = True
    #: The protocol of the tasks that have this control; None: all tasks.
    protocol: type | None = None

    @property
    def every_support(self) -> bool:
        """Whether the control also runs with other supports than the task's own: it keeps the demonstrations."""
        return self.replacement is None


def shuffled_images(task: Task, query: Example, demonstrations: Sequence[Example], seed: int) -> list[Example]:
    """Returns the demonstrations with their images permuted uniformly. Some may keep theirs.

    All images of a demonstration stay together.
    """
    images = [example.images for example in demonstrations]
    query_rng(seed, query, _IMAGE_STREAM).shuffle(images)
    return [example.with_images(others) for example, others in zip(demonstrations, images, strict=True)]


def shuffled_captions(task: Task, query: Example, demonstrations: Sequence[Example], seed: int) -> list[Example]:
    """Returns the demonstrations with captions of examples outside this prompt, from other queries' supports.

    Raises:
        UserError: If no such caption is found.
    """
    rng = query_rng(seed, query, _CAPTION_STREAM)
    queries = task.queries()
    excluded = {query.id}
    excluded.update(example.id for example in demonstrations)

    def draw_caption() -> str:
        # Rejection sampling: listing the candidates of all queries would take long.
        for _ in range(_MAX_DRAWS):
            other = queries[rng.randrange(len(queries))]
            if other.id == query.id:
                continue
            groups = task.support(other)
            group = groups[rng.randrange(len(groups))]
            example = group[rng.randrange(len(group))]
            if example.id not in excluded:
                return rng.choice(example.references)
        raise UserError(f"{task.name} has no other caption to replace those of {query.id}")

    return [example.with_caption(draw_caption()) for example in demonstrations]


def described(task: Task, query: Example, demonstrations: Sequence[Example], seed: int) -> list[Example]:
    """Returns the demonstrations with words in place of their images."""
    assert isinstance(task, DescribedTask)
    return [replace(example, description=task.description(query, example)) for example in demonstrations]


def last_caption(task: Task, query: Example, demonstrations: Sequence[Example]) -> str:
    """Returns the caption of the last demonstration."""
    return demonstrations[-1].references[0]


def nearest_caption(task: Task, query: Example, demonstrations: Sequence[Example]) -> str:
    """Returns the caption of the demonstration whose image is most similar to the query's."""
    assert isinstance(task, NearestTask)
    return task.nearest(query, demonstrations).references[0]


def consensus_caption(task: Task, query: Example, demonstrations: Sequence[Example]) -> str:
    """Returns the caption with the highest mean CIDEr-D to the other captions, of equal ones the last."""
    assert isinstance(task, CaptionTask)
    captions = [example.references[0] for example in demonstrations]
    others = [captions[:position] + captions[position + 1 :] for position in range(len(captions))]
    scores = task.cider(query)(captions, others)
    return captions[last_maximum(scores)]


def majority_answer(task: Task, query: Example, demonstrations: Sequence[Example]) -> str:
    """Returns the most frequent answer, of equally frequent ones the one that occurs last."""
    answers = [example.references[0] for example in demonstrations]
    counts = Counter(answers)
    return answers[last_maximum([counts[answer] for answer in answers])]


#: Name in configs and result files -> the control.
CONTROLS = {
    "blind": Control(blind=True, least_shots=0),
    "shuffled_images": Control(replacement=shuffled_images),
    "shuffled_captions": Control(replacement=shuffled_captions),
    "described": Control(replacement=described, protocol=DescribedTask),
    "copied_caption": Control(answer=last_caption),
    # The last of retrieved demonstrations is the nearest: there it equals the copied caption.
    "nearest_caption": Control(answer=nearest_caption, with_retrieved=False, protocol=NearestTask),
    "consensus_caption": Control(answer=consensus_caption, least_shots=3, protocol=CaptionTask),
    "majority_answer": Control(answer=majority_answer),
}
