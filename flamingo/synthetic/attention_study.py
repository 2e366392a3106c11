"""Measures the share of a word's cross-attention inside the object that the word names."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flamingo.data.processor import FlamingoProcessor
from flamingo.evaluation.metrics.resampling import bootstrap, mean
from flamingo.model.inspection import inspect
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.synthetic.documents import Turn, show
from flamingo.synthetic.drawing import masks
from flamingo.synthetic.grammar import caption
from flamingo.synthetic.scenes import Scene, random_scene
from flamingo.utils.devices import products_in, to_device

ATTRIBUTES = ("colour", "shape")
#: Part of the seed: another text draws other scenes.
_STREAM = "attention"

#: Gated layer -> the attention of each head and word over the patches.
Maps = dict[int, Float[np.ndarray, "k words p"]]


@dataclass(frozen=True)
class Word:
    """A word of a scene's plain caption, and the token that predicts it: the token before its first one."""

    text: str
    attribute: str
    #: Indices of the scene, of the object in it, and of the token in the document.
    scene: int
    object: int
    token: int


@dataclass(frozen=True)
class AttentionShare:
    """A row of ``attention.json``: the attention of all words of an attribute in one head."""

    #: The number of objects in each scene.
    objects: int
    #: The attribute: colour or shape.
    words: str
    #: The head is None for the mean over the heads of a layer; both are None for the mean over all layers.
    layer: int | None
    head: int | None
    #: The attention inside the object that the word names, relative to all attention to the image. The attention to a
    #: patch is spread over its receptive field.
    share: float
    #: The 95% bootstrap interval over scenes.
    ci95: tuple[float, float]
    scenes: int
    #: For comparison: the object's share of the image's area, the share of uniform attention, and the share of
    #: attention to only the best patch.
    area: float
    uniform: float
    best: float
    #: The attention inside the other object; None if there is one object.
    other: float | None
    #: The share for the attention of the same kind of word in another scene with the same layout.
    elsewhere: float


def make_scenes(count: int, objects: int, seed: int) -> list[Scene]:
    """Returns scenes of the evaluation split with two objects, or with one object near the centre."""
    rng = random.Random(f"{_STREAM}/{objects}/{seed}")
    pairs = 1.0 if objects == 2 else 0.0
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng, "evaluation", pairs)
        if scene.count == objects:
            scenes.append(scene)
    return scenes


def named_words(scene: Scene, scene_index: int, tokens: Sequence[str], prompt: str) -> list[Word]:
    """Returns the colour and shape words of a plain caption, in reading order.

    Args:
        scene: The scene.
        scene_index: Its index, for the words.
        tokens: The tokens of a document that ends with the caption.
        prompt: The text after whose last occurrence the caption begins.
    """
    text = "".join(tokens)
    lengths = [len(token) for token in tokens]
    starts = list(accumulate(lengths, initial=0))
    words = []
    position = text.rindex(prompt)
    for object_index, kind in enumerate(scene.kinds):
        for attribute in ATTRIBUTES:
            word = getattr(kind, attribute)
            position = text.index(word, position)
            token = bisect_right(starts, position) - 2
            words.append(Word(word, attribute, scene_index, object_index, token))
    return words


@torch.no_grad()
def word_attention(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    scenes: Sequence[Scene],
    batch_size: int,
) -> tuple[list[Word], Maps]:
    """Returns the words of the scenes' plain captions, and their attention over the patches.

    The prompts have no demonstrations.

    Args:
        model: The model.
        processor: Its processor.
        scenes: The scenes.
        batch_size: The number of scenes in a forward pass.
    """
    documents = []
    for scene in scenes:
        turn = Turn(scene, None, caption(scene))
        documents.append(show([turn], template=processor.template))
    words: list[Word] = []
    maps: dict[int, list[Tensor]] = {}
    for start in range(0, len(scenes), batch_size):
        batch = processor.batch(documents[start : start + batch_size])
        inputs = {name: to_device(tensor, model.device) for name, tensor in batch.items()}
        with products_in(model.language_model.dtype, model.device):
            inspection = inspect(model, **inputs)
        batch_words: list[Word] = []
        for row, ids in enumerate(batch["input_ids"]):
            is_token = batch["attention_mask"][row].bool()
            token_ids = ids[is_token].tolist()
            tokens = [processor.tokenizer.decode([token_id]) for token_id in token_ids]
            scene_index = start + row
            batch_words += named_words(scenes[scene_index], scene_index, tokens, processor.template.prompt)
        rows = [word.scene - start for word in batch_words]
        columns = [word.token for word in batch_words]
        for layer in inspection.image_attention:
            over_patches = inspection.words_over_patches(layer)[rows, :, columns, 0]
            by_head = over_patches.transpose(0, 1).cpu()
            maps.setdefault(layer, []).append(by_head)
        words += batch_words
    return words, {layer: torch.cat(parts, dim=1).numpy() for layer, parts in maps.items()}


def object_coverage(scene: Scene, fields: Float[np.ndarray, "p h w"]) -> Float[np.ndarray, "objects p"]:
    """Returns the share of each patch's receptive field inside each object."""
    object_masks = masks(scene, size=fields.shape[-1])
    return np.einsum("ohw,phw->op", object_masks, fields)


def attention_shares(
    words: Sequence[Word],
    maps: Maps,
    scenes: Sequence[Scene],
    fields: Float[np.ndarray, "p h w"],
) -> list[AttentionShare]:
    """Returns a row for each attribute, layer and head, and for the means over heads and layers.

    Args:
        words: The words of :func:`word_attention`, of scenes with equal numbers of objects.
        maps: The attention of the words.
        scenes: The scenes of the words.
        fields: The receptive field of each patch.
    """
    coverage = [object_coverage(scene, fields) for scene in scenes]
    named_coverage, other_coverage, areas, layouts = [], [], [], []
    for word in words:
        scene = scenes[word.scene]
        object_mask = masks(scene, size=fields.shape[-1])[word.object]
        named_coverage.append(coverage[word.scene][word.object])
        other_coverage.append(coverage[word.scene][-1 - word.object])
        areas.append(object_mask.mean())
        layouts.append((scene.axis, word.object, word.attribute))
    named = np.stack(named_coverage)
    other = np.stack(other_coverage)
    area = np.stack(areas)
    elsewhere = _next_of_group(layouts)
    objects = len(scenes[0].kinds)
    rows = []
    for attribute in ATTRIBUTES:
        selected = [i for i, word in enumerate(words) if word.attribute == attribute]
        for (layer, head), attention in _with_means(maps).items():
            inside = (attention * named).sum(axis=-1)[selected]
            inside_by_scene = inside.reshape(len(scenes), objects).mean(axis=1)
            share = mean(inside_by_scene.tolist())
            inside_other = (attention * other).sum(axis=-1)[selected]
            inside_elsewhere = (attention[elsewhere] * named).sum(axis=-1)[selected]
            row = AttentionShare(
                objects=objects,
                words=attribute,
                layer=layer,
                head=head,
                share=share.value,
                ci95=bootstrap(share),
                scenes=len(scenes),
                area=float(area[selected].mean()),
                uniform=float(named[selected].mean()),
                best=float(named[selected].max(axis=-1).mean()),
                other=float(inside_other.mean()) if objects == 2 else None,
                elsewhere=float(inside_elsewhere.mean()),
            )
            rows.append(row)
    return rows


def _with_means(maps: Maps) -> dict[tuple[int | None, int | None], Float[np.ndarray, "words p"]]:
    """Returns maps by (layer, head), and means over heads and layers under None. Each word's map sums to 1."""
    by_head: dict[tuple[int | None, int | None], np.ndarray] = {}
    layer_means = []
    for layer, heads in maps.items():
        for head, attention in enumerate(heads):
            by_head[layer, head] = attention
        layer_mean = heads.mean(axis=0)
        by_head[layer, None] = layer_mean
        layer_means.append(layer_mean)
    by_head[None, None] = np.mean(layer_means, axis=0)
    return {key: attention / attention.sum(axis=-1, keepdims=True) for key, attention in by_head.items()}


def _next_of_group(groups: Sequence[tuple]) -> list[int]:
    """Returns for each item the index of the next item of its group; for the last one that of the first."""
    following = list(range(len(groups)))
    for group in set(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        successors = members[1:] + members[:1]
        for member, successor in zip(members, successors, strict=True):
            following[member] = successor
    return following
