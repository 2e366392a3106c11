"""Part: few-shot captioning with Flamingo-3B: queries a second, memory, and the operations of a naive way."""

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.benchmark.flops import Queries, naive_query, shared_query
from experiments.benchmark.shapes import Shape
from experiments.gpu_check.big_model import FLAMINGO_3B, TINY, build_model, build_processor
from experiments.gpu_check.check_parts import JSON, Save, Settings
from experiments.gpu_check.check_report import goal, table
from experiments.gpu_check.drawn_photographs import draw_photographs
from experiments.gpu_check.marks import forget_peak_memory, peak_memory, synchronize
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Document, Image, Text
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model import TRAINED_PARTS
from flamingo.utils.device_peaks import peak_tflops
from flamingo.utils.devices import use_device


@dataclass(frozen=True)
class Evaluation:
    """The sizes of an evaluation."""

    shape: Shape
    shots: tuple[int, ...]
    #: The number of images that demonstrations are drawn from.
    support: int
    queries: int
    #: The number of words of a demonstration.
    words: int
    new_tokens: int
    beams: int
    batch_size: int
    picture_size: int
    #: The number of queries that are answered the naive way.
    naive_queries: int


FULL = Evaluation(
    FLAMINGO_3B,
    (8, 32),
    support=64,
    queries=32,
    words=22,
    new_tokens=20,
    beams=3,
    batch_size=16,
    picture_size=320,
    naive_queries=4,
)
SMALL = Evaluation(
    TINY, (1, 3), support=4, queries=3, words=4, new_tokens=3, beams=2, batch_size=2, picture_size=32, naive_queries=1
)
#: Our queries a second as a multiple of the naive way's, with most shots.
_GOAL = 10.0


def measure(settings: Settings, save: Save) -> None:
    """Captions all queries for each number of shots, from image files to texts, after a warm-up.

    Each measurement has a new engine. All weights are in bf16 first; then the trained parts are in fp32, as in
    ``experiments.evaluate``.
    """
    evaluation = SMALL if settings.small else FULL
    device = use_device(settings.device)
    processor = build_processor(evaluation.shape)
    model = build_model(evaluation.shape, processor, device, torch.bfloat16)
    model.to(torch.bfloat16).eval()
    measured: list[JSON] = []
    with tempfile.TemporaryDirectory() as folder:
        number = evaluation.support + evaluation.queries
        images = draw_photographs(Path(folder) / "pictures", number, evaluation.picture_size, seed=0)
        for trained in (torch.bfloat16, torch.float32):
            for part in TRAINED_PARTS:
                getattr(model, part).to(trained)
            for shots in evaluation.shots:
                prompts = _prompts(evaluation, images, shots)
                seconds = _seconds(model, processor, prompts, evaluation)
                tokens = len(processor.encode(prompts[0], prompt=True, pixels=False).input_ids)
                values = _values(evaluation, shots, tokens, seconds, device)
                values["trained_parts"] = str(trained).removeprefix("torch.")
                if trained == torch.bfloat16 and shots == max(evaluation.shots):
                    naive = naive_seconds(model, processor, prompts[: evaluation.naive_queries + 1], evaluation)
                    values["naive_queries_per_second"] = 1 / naive
                    model.replays_steps = False
                    values["plain_queries_per_second"] = 1 / _seconds(model, processor, prompts, evaluation)
                    model.replays_steps = True
                measured.append(values)
                save({"settings": measured}, _text(evaluation, measured))


def _seconds(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    prompts: Sequence[Document],
    evaluation: Evaluation,
) -> float:
    """Returns the seconds of a query, after a warm-up."""
    # The first batch of a size and a dtype loads kernels and allocates memory. The engine keeps its images.
    warm_up = FlamingoEngine(model, processor, evaluation.batch_size)
    warm_up.generate(prompts[: evaluation.batch_size], evaluation.new_tokens, evaluation.beams)
    del warm_up
    engine = FlamingoEngine(model, processor, evaluation.batch_size)
    synchronize(model.device)
    forget_peak_memory(model.device)
    begin = time.perf_counter()
    engine.generate(prompts, evaluation.new_tokens, evaluation.beams)
    synchronize(model.device)
    return (time.perf_counter() - begin) / evaluation.queries


@torch.no_grad()
def naive_seconds(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    prompts: Sequence[Document],
    evaluation: Evaluation,
) -> float:
    """Returns the seconds of a query with our blocks, driven as OpenFlamingo drives them. The first one does not count.

    One query runs at a time. All of its images are encoded once for each beam, each beam runs the whole prompt, and
    each pass computes the keys and values of all images again. The choice of beams is left out, which favours this way.
    """
    seconds = []
    for prompt in prompts:
        synchronize(model.device)
        begin = time.perf_counter()
        _answer_naively(model, processor, prompt, evaluation)
        synchronize(model.device)
        seconds.append(time.perf_counter() - begin)
    return statistics.mean(seconds[1:])


def _answer_naively(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, prompt: Document, evaluation: Evaluation
) -> None:
    example = processor.encode(prompt, prompt=True, as_bytes=True)
    assert example.pixel_values is not None
    beams = evaluation.beams
    rows = {
        "pixel_values": example.pixel_values.expand(beams, -1, -1, -1, -1, -1),
        "input_ids": example.input_ids.expand(beams, -1),
        "image_index": example.image_index.expand(beams, -1),
    }
    tensors = processor.normalized({name: tensor.to(model.device) for name, tensor in rows.items()})
    visual_tokens = model.encode_images(tensors["pixel_values"].to(model.vision_model.dtype))
    ids, image_index = tensors["input_ids"], tensors["image_index"]
    mask = torch.ones_like(ids)
    cache = None
    for _ in range(evaluation.new_tokens):
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            image_index=image_index,
            visual_tokens=visual_tokens,
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs.past_key_values
        ids = outputs.logits[:, -1:].argmax(dim=-1)
        image_index = image_index[:, -1:]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)


def _prompts(evaluation: Evaluation, images: list[Path], shots: int) -> list[Document]:
    """Returns a prompt for each query, with demonstrations drawn from the support."""
    support, queries = images[: evaluation.support], images[evaluation.support :]
    prompts = []
    for number, query in enumerate(queries):
        rng = random.Random(number)
        parts: list[Image | Text] = []
        for image in rng.sample(support, shots):
            words = rng.choices(evaluation.shape.words, k=evaluation.words)
            parts.append(Image(image))
            parts.append(Text(" ".join(f"w{word}" for word in words)))
        parts.append(Image(query))
        parts.append(Text(f"w{evaluation.shape.words[0]}"))
        prompts.append(Document(parts))
    return prompts


def _values(evaluation: Evaluation, shots: int, tokens: int, seconds: float, device: torch.device) -> JSON:
    queries = Queries(shots, tokens, evaluation.new_tokens, evaluation.beams)
    naive = naive_query(evaluation.shape, queries) / 1e12
    shared = shared_query(evaluation.shape, queries) / 1e12
    peak = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return {
        "shots": shots,
        "prompt_tokens": tokens,
        "queries_per_second": 1 / seconds,
        "peak_memory_gb": peak_memory(device),
        "naive_tflop": naive,
        "shared_tflop": shared,
        "tflops": shared / seconds,
        "peak_share": None if peak is None else shared / seconds / peak,
        "naive_queries_per_second_at_400_tflops": 400 / naive,
    }


def _text(evaluation: Evaluation, measured: list[JSON]) -> str:
    rows = []
    for values in measured:
        memory = values["peak_memory_gb"]
        share = values["peak_share"]
        rows.append(
            (
                values["trained_parts"],
                values["shots"],
                values["prompt_tokens"],
                f"{values['queries_per_second']:.3g}",
                "-" if memory is None else f"{memory:.1f}",
                f"{values['shared_tflop']:.3g}",
                f"{values['tflops']:.3g}" + ("" if share is None else f" ({share:.1%})"),
                f"{values['naive_tflop']:.3g}",
                f"{values['naive_queries_per_second_at_400_tflops']:.3g}",
            )
        )
    header = (
        "trained parts",
        "shots",
        "prompt tokens",
        "queries/s",
        "peak memory, GB",
        "TFLOP a query",
        "TFLOP/s (of the peak)",
        "naive: TFLOP a query",
        "naive: queries/s at 400 TFLOP/s",
    )
    text = (
        f"{evaluation.queries} queries from image files to texts, {evaluation.beams} beams, "
        f"{evaluation.new_tokens} new tokens, {evaluation.batch_size} prompts at once, {evaluation.support} images to "
        "draw demonstrations from; frozen weights are in bf16.\n\n"
        + table(header, rows)
        + "\nTFLOP a query: the image of the query is encoded, the prompt runs once. Naive is an estimate, not a "
        "measurement: each beam encodes all images and runs the prompt, and each pass computes the keys and values of "
        "all images.\n"
    )
    for values in measured:
        naive = values.get("naive_queries_per_second")
        if naive is not None:
            ratio = values["queries_per_second"] / naive
            text += (
                f"\n{values['shots']} shots with our blocks, one query at a time, images encoded for each beam, "
                f"keys and values computed in each pass: {naive:.3g} queries/s.\n"
            )
            plain = values["plain_queries_per_second"]
            text += f"\nWithout a graph of the kernels of a decoding step: {plain:.3g} queries/s.\n"
            text += goal(f"{values['shots']} shots: queries/s as a multiple of it", ratio, _GOAL)
    return text
