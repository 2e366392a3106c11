"""Prompts -> outputs: generated texts, or the best of each query's candidates with their ranking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document
from flamingo.evaluation import EvaluationConfig, cleaned
from flamingo.evaluation.protocol import Example, Rank, RankingTask, Task
from flamingo.evaluation.settings import Setting
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.inference.engine import Engine
from flamingo.model.sampling import Sampling


@dataclass(frozen=True)
class Output:
    """The output for one query."""

    text: str
    #: The field ``ranking`` of a prediction; None: the output is generated, or the answer of a control.
    ranking: dict[str, Any] | None = None


def make_outputs(
    engine: Engine,
    task: Task,
    setting: Setting,
    queries: Sequence[Example],
    prompts: Sequence[Sequence[Document]],
    config: EvaluationConfig,
    template: CaptionTemplate,
    on_progress: Callable[[int], object],
) -> list[Output]:
    """Returns the output for each query.

    Args:
        engine: The model.
        task: The task.
        setting: The setting.
        queries: The queries.
        prompts: The prompt of each query; with prompt ensembling several, as many for each query.
        config: The limits of new tokens, the length penalty and the clean-up are used here.
        template: The template of captions.
        on_progress: Called with the size of each batch that is done.
    """
    blind = setting.change.blind
    if isinstance(task, RankingTask):
        requests = [task.rank(query) for query in queries]
        return _ranked(engine, queries, prompts, requests, template, blind, on_progress)
    sampling = None
    if setting.temperature is not None:
        sampling = Sampling(setting.temperature, setting.top_p, setting.seed)
    texts = engine.generate(
        [prompt for [prompt] in prompts],
        config.max_new_tokens or task.max_new_tokens,
        setting.num_beams,
        blind=blind,
        on_progress=on_progress,
        min_new_tokens=config.min_new_tokens,
        sampling=sampling,
        length_penalty=config.length_penalty,
    )
    return [Output(cleaned(text, config)) for text in texts]


def _ranked(
    engine: Engine,
    queries: Sequence[Example],
    prompts: Sequence[Sequence[Document]],
    requests: Sequence[Rank],
    template: CaptionTemplate,
    blind: bool,
    on_progress: Callable[[int], object],
) -> list[Output]:
    """Returns the best candidate of each query, with the ranking of all."""
    outputs: dict[int, Output] = {}
    has_own_end = template.affixes.end_of_chunk is not None  # then candidates have it in their texts
    for end in {request.end for request in requests}:
        numbers = [number for number, request in enumerate(requests) if request.end == end]
        own_prompts: list[Document] = []
        texts: list[list[str]] = []
        for number in numbers:
            own_prompts += prompts[number]
            texts += [continuations(queries[number], requests[number], template)] * len(prompts[number])
        advance = _by_queries(on_progress, len(prompts[numbers[0]]))
        results = engine.score(own_prompts, texts, end=end and not has_own_end, blind=blind, on_progress=advance)
        of_prompts = iter(results)
        for number in numbers:
            scores = CandidateScores.averaged(list(islice(of_prompts, len(prompts[number]))))
            ranking = ranking_of(requests[number], scores)
            outputs[number] = Output(ranking["candidates"][0]["text"], ranking)
    return [outputs[number] for number in range(len(requests))]


def _by_queries(on_progress: Callable[[int], object], prompts_per_query: int) -> Callable[[int], None]:
    """Returns a function that is called with numbers of prompts, and calls ``on_progress`` with numbers of queries."""
    num_prompts = 0

    def advance(number: int) -> None:
        nonlocal num_prompts
        num_before = num_prompts // prompts_per_query
        num_prompts += number
        on_progress(num_prompts // prompts_per_query - num_before)

    return advance


def continuations(query: Example, request: Rank, template: CaptionTemplate) -> list[str]:
    """Returns the candidates as texts that follow the query's prompt, as in a demonstration.

    A text that ends chunks in place of the checkpoint's token follows each candidate of a request with an end.
    """
    end = template.affixes.end_of_chunk if request.end else None
    texts = []
    for candidate in request.candidates:
        answered = query.with_caption(candidate).answered(template)
        texts.append(answered.removeprefix(query.question(template)) + (end or ""))
    return texts


def ranking_of(request: Rank, scores: CandidateScores) -> dict[str, Any]:
    """Returns the candidates, the best first, with their log-likelihoods, and the measures of their probabilities."""
    candidates = []
    for position in scores.ranking(request.by):
        candidates.append(
            {
                "text": request.candidates[position],
                "sum": scores.sums[position],
                "mean": scores.means[position],
                "minus_prior": scores.minus_prior[position],
            }
        )
    return {"by": request.by, "entropy": scores.entropy, "kl": scores.kl, "candidates": candidates}
