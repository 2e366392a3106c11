"""METEOR 1.5 (Denkowski and Lavie, 2014) by the jar of pycocoevalcap, from counts that can be added."""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flamingo.evaluation.metrics.corpus import Captions, merge, split
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.utils.errors import UserError
from flamingo.utils.languages import primary_language

# The parameters for English that pycocoevalcap uses.
_ALPHA = 0.85
_BETA = 0.2
_GAMMA = 0.6
_DELTA = 0.75
# The weights of exact matches, stems, synonyms and paraphrases.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
# Columns of counts: words (output, reference), function words (likewise), 4 matchers times (content words of the
# output, of the reference, function words of the output, of the reference), chunks, matched words (output, reference).
_COLUMNS = 23


class Meteor:
    """METEOR. Its Java program runs once for all groups."""

    def unavailable(self, language: str) -> str | None:
        """Returns the reason why METEOR cannot be computed; None if it can."""
        if primary_language(language) != "en":
            return f"its stems, synonyms and paraphrases are English, and task.language is {language}"
        if shutil.which("java") is None:
            return "there is no java"
        if not _jar().is_file():
            return f"{_jar()} is missing"
        return None

    def statistics(self, groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
        """Returns the METEOR of each group."""
        merged = merge(groups)
        counts = meteor_counts(merged.outputs, merged.references)
        statistics = []
        for group, own_counts in zip(groups, split(counts, groups), strict=True):
            statistic = Statistic(
                parts=own_counts,
                of_sums=meteor,
                n=len(group.outputs),
                about=group.about(),
            )
            statistics.append({"METEOR": statistic})
        return statistics


def meteor_counts(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, "queries 23"]:
    """Returns METEOR's counts for each query, against the reference with the best score, from tokenized captions.

    The jar runs once. It loads its paraphrases for some seconds.

    Raises:
        RuntimeError: If the jar fails, with its message.
    """
    lines = []
    for output, captions in zip(outputs, references, strict=True):
        fields = ["SCORE"] + list(captions) + [output]
        lines.append(" ||| ".join(fields) + "\n")
    jar = _jar()
    process = subprocess.run(
        ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"],
        cwd=jar.parent,
        input="".join(lines),
        capture_output=True,
        encoding="utf-8",
    )
    rows = [row.split() for row in process.stdout.splitlines()]
    if process.returncode or len(rows) != len(lines):
        raise RuntimeError(f"METEOR gave {len(rows)} of {len(lines)} answers and ended with: {process.stderr.strip()}")
    counts = np.array(rows, dtype=float).reshape(-1, _COLUMNS)
    # A caption that matches from end to end has no chunks.
    words = counts[:, :2]
    chunks = counts[:, 20]
    matched_words = counts[:, 21:]
    complete = (matched_words == words).all(axis=1)
    chunks[(chunks == 1) & complete] = 0
    return counts


def meteor(counts: Float[np.ndarray, "*resamples 23"]) -> Float[np.ndarray, "*resamples"]:
    """Returns METEOR of summed :func:`meteor_counts`: a mean of precision and recall, less a penalty for order."""
    words = counts[..., :2]
    function_words = counts[..., 2:4]
    lengths = _DELTA * (words - function_words) + (1 - _DELTA) * function_words
    # The axes are matcher, content or function words, output or reference.
    matches = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 2, 2)
    weighted_matches = np.tensordot(matches, _WEIGHTS, axes=(-3, 0))
    content_matches = weighted_matches[..., 0, :]
    function_matches = weighted_matches[..., 1, :]
    matched_lengths = _DELTA * content_matches + (1 - _DELTA) * function_matches
    with np.errstate(invalid="ignore", divide="ignore"):  # an output without words has no match
        ratios = matched_lengths / lengths
        precision = ratios[..., 0]
        recall = ratios[..., 1]
        weighted_sum = _ALPHA * precision + (1 - _ALPHA) * recall
        mean = precision * recall / weighted_sum
        chunks = counts[..., 20]
        matched_words = counts[..., 21:].mean(axis=-1)
        fragmentation = (chunks / matched_words) ** _BETA
        penalty = _GAMMA * fragmentation
    return np.asarray(np.nan_to_num(mean * (1 - penalty)))


def _jar() -> Path:
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise UserError("METEOR needs the package pycocoevalcap: pip install pycocoevalcap")
    folder = Path(package.submodule_search_locations[0])
    return folder / "meteor" / "meteor-1.5.jar"
