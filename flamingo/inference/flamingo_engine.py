"""The engine of our models. Images, and the common beginning of all prompts, run once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from flamingo.data.collate import EncodedExample, collate
from flamingo.data.document import Document
from flamingo.data.processor import FlamingoProcessor
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.inference.candidate_scoring import score_nodes
from flamingo.inference.candidates import CandidateTries
from flamingo.inference.encoded_prompt import EncodedPrompt, ScoredPrompt
from flamingo.inference.engine import AttentionMeasures
from flamingo.inference.features import FeatureStore
from flamingo.inference.lockstep import Lockstep
from flamingo.inference.prompt_batches import batch_cost, make_batches
from flamingo.inference.prompt_images import pad_images, pool_images
from flamingo.inference.prompt_measures import Part, chunk_of_tokens, measures_of_prompt, parts_of_tokens
from flamingo.inference.visual_token_cache import VisualTokenCache, image_key
from flamingo.model.beam_search import decode, search
from flamingo.model.cache import PromptCache
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.prompt_attention import prompt_attention
from flamingo.model.sampling import Sampling
from flamingo.utils.checks import whole
from flamingo.utils.devices import products_in, to_device
from flamingo.utils.errors import UserError
from flamingo.utils.sharing import Result, nothing, shared


class FlamingoEngine:
    """Continues prompts, and scores their candidates.

    The visual tokens of the most recently used images stay on the model's device. Batches are the same for any number
    of processes.
    """

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        batch_size: int,
        features: FeatureStore | None = None,
        cache_bytes: int = 2**30,
        is_shared: bool = False,
        lockstep: Lockstep | None = None,
    ) -> None:
        """Makes the engine.

        Args:
            model: The model, in evaluation mode.
            processor: The model's processor.
            batch_size: The number of prompts that run at once.
            features: The features of all images, whose files are then not opened.
            cache_bytes: The memory of visual tokens between batches, in bytes, at most. A batch keeps all that it
                needs.
            is_shared: Whether all processes of this run call the engine with the same prompts, and share the batches.
            lockstep: That of a shared engine whose processes also share the layers of the language model.

        Raises:
            ValueError: If the model is in training mode.
        """
        whole("batch_size", batch_size, least=1)
        whole("cache_bytes", cache_bytes, least=0)
        if model.training:
            raise ValueError("the model is in training mode: call model.eval() first")
        processor.limit_length(model.config.text_config)
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.is_shared = is_shared
        self._leave: Callable[[], object] = nothing if lockstep is None else lockstep.leave
        self.visual_tokens = VisualTokenCache(model, processor, features, cache_bytes)

    def generate(
        self,
        prompts: Sequence[Document],
        max_new_tokens: int,
        num_beams: int = 1,
        blind: bool = False,
        on_progress: Callable[[int], object] | None = None,
        min_new_tokens: int = 0,
        sampling: Sampling | None = None,
        length_penalty: float = 0.0,
    ) -> list[str]:
        """Returns the continuation of each prompt, up to ``<|endofchunk|>`` and without leading spaces.

        See :meth:`flamingo.inference.engine.Engine.generate`.

        Raises:
            UserError: As there, and for sampling with several beams.
        """
        if sampling is not None and num_beams > 1:
            raise UserError(f"sampling has one beam: num_beams is {num_beams}, temperature {sampling.temperature}")
        max_length = self.processor.tokenizer.model_max_length - max_new_tokens
        rows = [self._encode(prompt, max_length, blind) for prompt in prompts]
        batches = make_batches(rows, self.batch_size)
        texts: dict[int, str] = {}
        # With frozen weights of 16 bits the trained weights, in fp32, are also multiplied in 16 bits.
        with products_in(self.model.language_model.dtype, self.model.device):
            prefix = self._shared_prefix(rows)
            prefix_length = 0 if prefix is None else prefix.get_seq_length()

            def continue_batch(number: int) -> list[str]:
                batch_rows = [rows[row] for row in batches[number]]
                return self._continue(
                    batch_rows, prefix, max_new_tokens, num_beams, min_new_tokens, sampling, length_penalty
                )

            costs, sizes = [], []
            for batch in batches:
                costs.append(batch_cost([rows[row] for row in batch], num_beams * max_new_tokens, prefix_length))
                sizes.append(len(batch))
            outputs = self._each_batch(continue_batch, costs, sizes, on_progress)
        for batch, of_batch in zip(batches, outputs, strict=True):
            texts.update(zip(batch, of_batch, strict=True))
        return [texts[number] for number in range(len(prompts))]

    def score(
        self,
        prompts: Sequence[Document],
        candidates: Sequence[Sequence[str]],
        end: bool = False,
        prior: bool = True,
        blind: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[CandidateScores]:
        """Returns the log-likelihoods of the candidates of each prompt.

        Candidates share the tokens that they begin with, and the last token of a candidate never runs. Equal prompts
        with equal candidates run once, such as priors of prompts without demonstrations.

        See :meth:`flamingo.inference.engine.Engine.score`.
        """
        tries = CandidateTries(self.processor, end)
        scored: list[list[ScoredPrompt]] = []
        for prompt, texts in zip(prompts, candidates, strict=True):
            trie = tries.of(prompt, texts)
            row = self._encode(prompt, self.processor.tokenizer.model_max_length - max(trie.depths), blind)
            scored.append([ScoredPrompt(row, trie)])
            if prior:
                unseen = row.without_last_images(len(prompt.last_images()), self._sees_one_image)
                scored[-1].append(ScoredPrompt(unseen, trie))
        likelihoods = self._log_likelihoods(scored, on_progress)
        results = []
        for texts, of_prompt in zip(candidates, scored, strict=True):
            sums = [tuple(likelihoods[one.key]) for one in of_prompt]
            trie = of_prompt[0].trie
            num_tokens = tuple(trie.depths[node] for node in trie.ends)
            results.append(CandidateScores(tuple(texts), num_tokens, *sums))
        return results

    def _log_likelihoods(
        self, scored: Sequence[Sequence[ScoredPrompt]], on_progress: Callable[[int], object] | None
    ) -> dict[object, list[float]]:
        """Returns the sums of each trie's candidates by the key of their prompt."""
        distinct = {one.key: one for of_prompt in scored for one in of_prompt}
        keys = list(distinct)
        batches = make_batches([one.row for one in distinct.values()], self.batch_size)
        with products_in(self.model.language_model.dtype, self.model.device):
            # The longest prompt is the first.
            prefix = self._shared_prefix([distinct[keys[number]].row for batch in batches for number in batch])
            prefix_length = 0 if prefix is None else prefix.get_seq_length()

            def score_batch(number: int) -> list[list[float]]:
                of_batch = [distinct[keys[row]] for row in batches[number]]
                tries = [one.trie for one in of_batch]
                inputs = self._inputs([one.row for one in of_batch], prefix_length)
                log_probs = score_nodes(self.model, inputs, prefix, tries, self.batch_size)
                return [trie.sums(values) for trie, values in zip(tries, log_probs, strict=True)]

            costs = []
            for batch in batches:
                of_batch = [distinct[keys[row]] for row in batch]
                candidate_tokens = max(len(one.trie.tokens) for one in of_batch)
                costs.append(batch_cost([one.row for one in of_batch], candidate_tokens, prefix_length))
            batch_of_key = {keys[row]: number for number, batch in enumerate(batches) for row in batch}
            sizes = [0] * len(batches)
            for of_prompt in scored:
                sizes[max(batch_of_key[one.key] for one in of_prompt)] += 1
            sums = self._each_batch(score_batch, costs, sizes, on_progress)
        likelihoods: dict[object, list[float]] = {}
        for batch, of_batch_sums in zip(batches, sums, strict=True):
            for row, of_prompt_sums in zip(batch, of_batch_sums, strict=True):
                likelihoods[keys[row]] = of_prompt_sums
        return likelihoods

    def _each_batch(
        self,
        run: Callable[[int], Result],
        costs: Sequence[int],
        sizes: Sequence[int],
        on_progress: Callable[[int], object] | None,
    ) -> list[Result]:
        """Returns the result of each batch, by its number. Processes share the batches of a shared engine."""
        if self.is_shared:
            return shared(lambda numbers: map(run, numbers), costs, sizes, on_progress, self._leave)
        results = []
        for number, size in enumerate(sizes):
            results.append(run(number))
            if on_progress is not None:
                on_progress(size)
        return results

    def attention(self, prompts: Sequence[Document]) -> list[AttentionMeasures]:
        """Returns the measures of the attention of the last token of each prompt.

        See :meth:`flamingo.inference.engine.InspectingEngine.attention`.
        """
        rows = [self._encode(prompt, self.processor.tokenizer.model_max_length, blind=False) for prompt in prompts]
        starts = range(0, len(prompts), self.batch_size)
        costs, sizes = [], []
        for start in starts:
            batch_rows = rows[start : start + self.batch_size]
            costs.append(batch_cost(batch_rows, 0, 0))
            sizes.append(len(batch_rows))

        def measure_batch(number: int) -> list[AttentionMeasures]:
            batch = slice(starts[number], starts[number] + self.batch_size)
            attention = prompt_attention(self.model, self._inputs(rows[batch], 0))
            measures = []
            for place, (prompt, row) in enumerate(zip(prompts[batch], rows[batch], strict=True)):
                measures.append(measures_of_prompt(attention, place, self._parts(prompt, row)))
            return measures

        with products_in(self.model.language_model.dtype, self.model.device):
            measures_of_batches = self._each_batch(measure_batch, costs, sizes, None)
        return [measures for of_batch in measures_of_batches for measures in of_batch]

    def _parts(self, prompt: Document, row: EncodedPrompt) -> list[Part]:
        """Returns the part of each token of a prompt."""
        end = self.processor.end_of_chunk_token_id
        chunks = chunk_of_tokens(prompt, row.input_ids, row.image_index, end)
        is_image = row.input_ids == self.processor.image_token_id
        return parts_of_tokens(chunks, is_image.tolist())

    def _encode(self, prompt: Document, max_length: int, blind: bool) -> EncodedPrompt:
        example = self.processor.encode(prompt, prompt=True, pixels=False, max_length=max_length)
        if blind:
            no_image = torch.full_like(example.image_index, -1)
            return EncodedPrompt(example.input_ids, no_image, [], [], prompt.id)
        images = [chunk.image for chunk in prompt.chunks() if chunk.image is not None]
        keys = [image_key(image) for image in images]
        return EncodedPrompt(example.input_ids, example.image_index, images, keys, prompt.id)

    def _shared_prefix(self, rows: Sequence[EncodedPrompt]) -> PromptCache | None:
        """Returns the cache of the tokens that all prompts begin with, such as equal demonstrations, or None."""
        if len(rows) < 2 or not self._sees_one_image or not self.model.shares_prefixes:
            return None
        length = _common_length([row.tokens_with_images() for row in rows])
        length = self._to_whole_images(rows[0].input_ids, length)
        if length == 0:
            return None
        first = rows[0]
        visual_tokens, [image_index] = pool_images(self.visual_tokens, [first], slice(length))
        ids = to_device(first.input_ids[:length].unsqueeze(0), self.model.device)
        image_index = to_device(image_index.unsqueeze(0), self.model.device)
        with torch.no_grad():
            state = self.model.visual_state(visual_tokens)
        cache = self.model.prefill(ids, torch.ones_like(ids), image_index, state)
        assert isinstance(cache, PromptCache)
        return cache

    def _to_whole_images(self, ids: Int[Tensor, " t"], length: int) -> int:
        """Returns ``length``, or less if it would end among the positions of an image."""
        if self.processor.tokens_per_image == 0:
            return length
        is_marker = ids[:length] == self.processor.image_token_id
        return length - int(is_marker.sum()) % self.processor.tokens_per_image

    def _continue(
        self,
        rows: Sequence[EncodedPrompt],
        prefix: PromptCache | None,
        max_new_tokens: int,
        num_beams: int,
        min_new_tokens: int,
        sampling: Sampling | None,
        length_penalty: float,
    ) -> list[str]:
        prefix_length = 0 if prefix is None else prefix.get_seq_length()
        inputs = self._inputs(rows, prefix_length)
        inputs["past_key_values"] = prefix
        tokenizer = self.processor.tokenizer
        end = self.processor.end_of_chunk_token_id
        processors = None
        if sampling is not None:
            processors = sampling.processors([row.id for row in rows], inputs["input_ids"].shape[1])
        ids = search(
            self.model,
            tokenizer,
            inputs,
            end=end,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            min_new_tokens=min_new_tokens,
            length_penalty=length_penalty,
            processors=processors,
        )
        return [decode(tokenizer, row, end) for row in ids.tolist()]

    def _inputs(self, rows: Sequence[EncodedPrompt], prefix_length: int) -> dict[str, Any]:
        """Returns the model's arguments for a batch whose first tokens are in a cache."""
        rest = slice(prefix_length, None)
        gather = pool_images if self._sees_one_image else pad_images
        visual_tokens, image_index = gather(self.visual_tokens, rows, rest)
        examples = []
        for row, index in zip(rows, image_index, strict=True):
            examples.append(EncodedExample(row.input_ids[rest], index, None, None))
        inputs: dict[str, Any] = collate(examples, self.processor.tokenizer.pad_token_id, "left")
        # The padding of shorter prompts lies after the shared prefix. The cache records which images the prefix sees.
        fills = {
            "input_ids": 0,
            "attention_mask": 1,
            "image_index": -1,
        }
        for name, fill in fills.items():
            inputs[name] = F.pad(inputs[name], (prefix_length, 0), value=fill)
        inputs["input_ids"][:, :prefix_length] = rows[0].input_ids[:prefix_length]
        for name in fills:
            inputs[name] = to_device(inputs[name], self.model.device)
        inputs["visual_tokens"] = visual_tokens
        return inputs

    @property
    def _sees_one_image(self) -> bool:
        """Whether a token sees only one image, rather than all images before it."""
        return self.model.fusion.sees_by_index


def _common_length(rows: Sequence[Sequence[object]]) -> int:
    """Returns the number of equal elements at the beginning of all rows. At least one element of each row remains."""
    first, *others = rows
    longest = min(len(row) for row in rows) - 1
    for position in range(longest):
        if any(row[position] != first[position] for row in others):
            return position
    return longest
