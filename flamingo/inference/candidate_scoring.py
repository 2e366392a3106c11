"""Prompts and the tries of their candidates -> the log-probability of each node, with as few tokens as possible.

A cache that takes any attention mask branches: each node runs once, and attends to the prompt and to its ancestors.
Where it cannot branch, the paths to all leaves are rows that begin with the prompt, from its cache or from its tokens.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from flamingo.inference.candidate_trie import CandidateTrie
from flamingo.inference.trie_passes import NO_PASS, TriePass, make_passes
from flamingo.model.cache import PromptCache
from flamingo.model.fusion.base import VisualContext, VisualState
from flamingo.model.generation import visible_tokens
from flamingo.model.language import has_plain_cache
from flamingo.model.masks import positions
from flamingo.model.modeling import FlamingoForConditionalGeneration

#: The number of nodes of all rows that run at once. Each has a logit for every token of the vocabulary.
_PASS_TOKENS = 512

#: A scored node: the row of the batch, and the node of its trie.
_Scored = tuple[int, int]


@dataclass(frozen=True)
class _Prompts:
    """A batch of prompts, padded on the left."""

    ids: Int[Tensor, "b s"]
    mask: Int[Tensor, "b s"]
    #: The mask without hidden visual tokens.
    visible: Int[Tensor, "b s"]
    context: VisualContext

    @property
    def last_positions(self) -> Int[Tensor, "b 1"]:
        """The position of each prompt's last token, which counts real tokens."""
        return positions(self.mask)[:, -1:]


@torch.no_grad()
def score_nodes(
    model: FlamingoForConditionalGeneration,
    inputs: dict[str, Any],
    prefix: PromptCache | None,
    tries: Sequence[CandidateTrie],
    num_rows: int,
) -> list[list[float]]:
    """Returns the log-probability of each node of the trie of each prompt, given the prompt and the node's ancestors.

    Args:
        model: The model.
        inputs: The model's arguments for the prompts, padded on the left.
        prefix: The cache of the tokens that all prompts begin with, or None.
        tries: The trie of each prompt.
        num_rows: The number of rows that run at once where the cache cannot branch.

    Returns:
        The values in nats, 0 for node 0.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    images = {"visual_tokens": inputs["visual_tokens"]}
    context = model.visual_context(ids, inputs["image_index"], images)
    for trie in {id(trie): trie for trie in tries}.values():
        model.new_tokens.known_ids.check(torch.tensor([trie.tokens]))
    prompts = _Prompts(ids, mask, visible_tokens(mask, context, prefix), context)
    log_probs = [[0.0] * len(trie.tokens) for trie in tries]
    if model.shares_prefixes:
        scores = _branching(model, prompts, prefix, tries)
    else:
        scores = _in_rows(model, prompts, tries, num_rows)
    for nodes, values in scores:
        for (row, node), value in zip(nodes, values.tolist(), strict=True):
            log_probs[row][node] = value
    return log_probs


def _branching(
    model: FlamingoForConditionalGeneration,
    prompts: _Prompts,
    prefix: PromptCache | None,
    tries: Sequence[CandidateTrie],
) -> Iterator[tuple[list[_Scored], Float[Tensor, " scored"]]]:
    """Yields the nodes that each pass scores, and their log-probabilities."""
    cache = _prefilled(model, prompts, prefix)
    assert isinstance(cache, PromptCache)
    size = max(1, _PASS_TOKENS // len(tries))
    passes_of = {id(trie): make_passes(trie, size) for trie in tries}
    passes_of_row = [passes_of[id(trie)] for trie in tries]
    context = model.fusion.after_prompt(prompts.context)
    num_kept = 0
    for number in range(max(map(len, passes_of_row))):
        passes = [row[number] if number < len(row) else NO_PASS for row in passes_of_row]
        if number > 0:
            kept_places = num_kept + _kept_places(passes)
            cache.keep(prompts.ids.shape[1] - 1, kept_places.to(prompts.ids.device))
            num_kept = kept_places.shape[1]
        logits = _run_pass(model, prompts, cache, tries, passes, context, begins=number == 0)
        scored, places, tokens = [], [], []
        for row, (one, trie) in enumerate(zip(passes, tries, strict=True)):
            for node, place in zip(one.children, one.places, strict=True):
                scored.append((row, node))
                places.append(place)
                tokens.append(trie.tokens[node])
        yield scored, _log_probs(logits, [row for row, _ in scored], places, tokens)


def _run_pass(
    model: FlamingoForConditionalGeneration,
    prompts: _Prompts,
    cache: PromptCache,
    tries: Sequence[CandidateTrie],
    passes: Sequence[TriePass],
    context: VisualContext,
    begins: bool,
) -> Float[Tensor, "b t vocabulary"]:
    """Returns the logits after the nodes of one pass of each row.

    Args:
        model: The model.
        prompts: The prompts.
        cache: The cache of the prompts without their last tokens, and of the nodes that each pass keeps.
        tries: The trie of each prompt.
        passes: The pass of each prompt.
        context: The images that the last token of each prompt sees.
        begins: Whether this is the first pass, which begins with node 0.
    """
    device = prompts.ids.device
    nodes = max(len(one.nodes) for one in passes)
    ids = torch.zeros(len(passes), nodes, dtype=torch.long)
    depths = torch.zeros_like(ids)
    for row, (one, trie) in enumerate(zip(passes, tries, strict=True)):
        for place, node in enumerate(one.nodes):
            ids[row, place] = trie.tokens[node]
            depths[row, place] = trie.depths[node]
    ids, depths = ids.to(device), depths.to(device)
    tree_mask = _tree_mask(passes, prompts.visible[:, -1].tolist()).to(device)
    visual_index = None
    if context.visual_index is not None:
        visual_index = torch.full_like(ids, -1)
    if begins:
        ids[:, 0] = prompts.ids[:, -1]
        if visual_index is not None and context.visual_index is not None:
            visual_index[:, 0] = context.visual_index[:, -1]
    prompt_mask = prompts.visible[:, None, :-1].bool().expand(-1, nodes, -1)
    return model(
        ids,
        torch.cat([prompt_mask, tree_mask], dim=-1).unsqueeze(1),
        context.image_index[:, -1:].expand_as(ids),
        visual_state=context.state,
        visual_index=visual_index,
        position_ids=prompts.last_positions + depths,
        past_key_values=cache,
        use_cache=True,
    ).logits


def _kept_places(passes: Sequence[TriePass]) -> Int[Tensor, "b kept"]:
    """Returns the places of the kept nodes, which rows with fewer nodes have on the right."""
    kept = max(len(one.kept) for one in passes)
    places = torch.zeros(len(passes), kept, dtype=torch.long)
    for row, one in enumerate(passes):
        places[row, kept - len(one.kept) :] = torch.tensor(one.kept)
    return places


def _tree_mask(passes: Sequence[TriePass], begins: Sequence[int]) -> Bool[Tensor, "b nodes columns"]:
    """Returns the masks of all rows over the kept nodes, padded on the left, and the nodes, padded on the right.

    Args:
        passes: The pass of each row.
        begins: Whether tokens may attend to node 0 of each row. A hidden visual token may end a prompt.
    """
    nodes = max(len(one.nodes) for one in passes)
    kept = max(len(one.kept) for one in passes)
    mask = np.zeros((len(passes), nodes, kept + nodes), dtype=bool)
    # Padding attends to itself: each token must attend to at least one.
    mask[:, range(nodes), range(kept, kept + nodes)] = True
    for row, one in enumerate(passes):
        first = kept - len(one.kept)
        own_nodes, own_columns = one.mask.shape
        mask[row, :own_nodes, kept : kept + own_nodes] = False
        mask[row, :own_nodes, first : first + own_columns] = one.mask
        if not begins[row]:
            mask[row, :own_nodes, first] = False
    return torch.from_numpy(mask)


def _in_rows(
    model: FlamingoForConditionalGeneration, prompts: _Prompts, tries: Sequence[CandidateTrie], num_rows: int
) -> Iterator[tuple[list[_Scored], Float[Tensor, " scored"]]]:
    """Yields the nodes on the paths that run at once, and their log-probabilities."""
    cache = None
    context = prompts.context
    if has_plain_cache(model.language_model):
        cache = _prefilled(model, prompts, None)
        context = model.fusion.after_prompt(context)
    paths: list[tuple[int, list[int]]] = []
    for row, trie in enumerate(tries):
        paths += [(row, trie.path(leaf)) for leaf in trie.leaves]
    # Paths of similar lengths run together.
    paths.sort(key=lambda path: len(path[1]), reverse=True)
    for start in range(0, len(paths), num_rows):
        rows_and_nodes = paths[start : start + num_rows]
        logits = _run_rows(model, prompts, cache, context, tries, rows_and_nodes)
        scored, rows, places, tokens = [], [], [], []
        for number, (row, path) in enumerate(rows_and_nodes):
            for place, node in enumerate(path):
                scored.append((row, node))
                rows.append(number)
                places.append(place)
                tokens.append(tries[row].tokens[node])
        yield scored, _log_probs(logits, rows, places, tokens)


def _run_rows(
    model: FlamingoForConditionalGeneration,
    prompts: _Prompts,
    cache: Any,
    context: VisualContext,
    tries: Sequence[CandidateTrie],
    paths: Sequence[tuple[int, list[int]]],
) -> Float[Tensor, "rows t vocabulary"]:
    """Returns the logits after the last token of the prompt, and after all tokens of a path but its last.

    Args:
        model: The model.
        prompts: The prompts.
        cache: The cache of the prompts without their last tokens; None: the prompts run again.
        context: The images of the prompts, or those that their last tokens see if there is a cache.
        tries: The trie of each prompt.
        paths: The rows, padded on the right: the prompt of each, and the nodes of its candidate.
    """
    device = prompts.ids.device
    rows = torch.tensor([row for row, _ in paths], device=device)
    fed = []
    for row, path in paths:
        fed.append(torch.tensor([tries[row].tokens[node] for node in path[:-1]], dtype=torch.long))
    fed_ids = pad_sequence(fed, batch_first=True).to(device)
    fed_mask = pad_sequence([torch.ones_like(one) for one in fed], batch_first=True).to(device)
    t = fed_ids.shape[1]
    start = 0
    if cache is not None:
        start = prompts.ids.shape[1] - 1
        cache = _selected(cache, rows)
    ids = torch.cat([prompts.ids[rows, start:], fed_ids], dim=1)
    last_image = context.image_index[rows, -1:]
    image_index = torch.cat([context.image_index[rows, start:], last_image.expand(-1, t)], dim=1)
    visual_index = None
    if context.visual_index is not None:
        visual_index = F.pad(context.visual_index[rows, start:], (0, t), value=-1)
    mask = torch.cat([prompts.mask[rows], fed_mask], dim=1)
    return model(
        ids,
        torch.cat([prompts.visible[rows], fed_mask], dim=1),
        image_index,
        visual_state=_state_of_rows(context.state, rows),
        visual_index=visual_index,
        position_ids=positions(mask)[:, start:],
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=t + 1,
    ).logits


def _selected(cache: Any, rows: Int[Tensor, " rows"]) -> DynamicCache:
    """Returns a cache of these rows of a cache, which does not change."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in selected.layers:
        layer.batch_select_indices(rows.to(layer.keys.device))
    return selected


def _state_of_rows(state: VisualState, rows: Int[Tensor, " rows"]) -> list[tuple[Tensor, ...]]:
    """Returns the images of each row, or all images where the prompts share them."""
    if len(state[0][0]) == 1:
        return state
    selected = []
    for tensors in state:
        selected.append(tuple(tensor[rows.to(tensor.device)] for tensor in tensors))
    return selected


def _prefilled(model: FlamingoForConditionalGeneration, prompts: _Prompts, prefix: PromptCache | None) -> Any:
    """Returns the cache of the prompts without their last tokens."""
    context = prompts.context
    visual_index = None if context.visual_index is None else context.visual_index[:, :-1]
    return model.prefill(
        prompts.ids[:, :-1], prompts.mask[:, :-1], context.image_index[:, :-1], context.state, prefix, visual_index
    )


def _log_probs(
    logits: Float[Tensor, "b t vocabulary"], rows: list[int], places: list[int], tokens: list[int]
) -> Float[Tensor, " scored"]:
    """Returns the log-probability of each token after the place of a row."""
    log_totals = logits.float().logsumexp(dim=-1)
    return logits[rows, places, tokens].float() - log_totals[rows, places]
