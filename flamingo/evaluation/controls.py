"""Controls: evaluations in which a part of the prompt is missing or wrong, or no model answers.

A control shows what the score of the plain setting depends on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flamingo.evaluation.protocol import Example, Task
from flamingo.evaluation.random_draws import query_rng
from flamingo.utils.errors import UserError

#: Parts of seeds: another text draws other images and captions.
_IMAGE_STREAM, _CAPTION_STREAM = "shuffled_images", "shuffled_captions"
#: The largest number of draws of a caption from other queries' supports.
_MAX_DRAWS = 1000

#: (task, query, demonstrations, seed) -> the demonstrations that are shown instead.
Replacement = Callable[[Task, Example, Sequence[Example], int], list[Example]]


@dataclass(frozen=True)
class Control:
    """The changes of a control. Without any argument it changes nothing."""

    #: Whether no token attends to any image. The prompt keeps its markers.
    blind: bool = False
    #: Replaces the demonstrations.
    replacement: Replacement | None = None
    #: Returns the output from the demonstrations that are shown, without a model or a prompt.
    answer: Callable[[Sequence[Example]], str] | None = None
    #: Whether the setting must have demonstrations with images.
    needs_demonstrations: bool = True


def shuffled_images(task: Task, query: Example, demonstrations: Sequence[Example], seed: int) -> list[Example]:
    """Returns the demonstrations with their images permuted uniformly. Some may keep their image."""
    images = [example.image for example in demonstrations]
    query_rng(seed, query, _IMAGE_STREAM).shuffle(images)
    return [replace(example, image=image) for example, image in zip(demonstrations, images, strict=True)]


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


def last_caption(demonstrations: Sequence[Example]) -> str:
    """Returns the caption of the last demonstration."""
    return demonstrations[-1].references[0]


#: Name in configs and result files -> the control.
CONTROLS = {
    "blind": Control(blind=True, needs_demonstrations=False),
    "shuffled_images": Control(replacement=shuffled_images),
    "shuffled_captions": Control(replacement=shuffled_captions),
    "copied_caption": Control(answer=last_caption),
}
