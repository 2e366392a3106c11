"""Few-shot captioning: every query with its demonstrations, from pictures to texts."""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.benchmark.materials import Sizes, prompts
from experiments.benchmark.ratios import Row, row
from experiments.benchmark.worker import Worker

#: Two continuations whose log-probabilities differ by less are equally right: rounding decides.
NEAR_TIE = {"fp32": 1e-4, "bf16": 0.5}


@dataclass
class Agreement:
    """Whether both said the same."""

    near_tie: float
    identical: int = 0
    ties: list[float] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not (self.identical or self.ties or self.different):
            return "Outputs were not compared in the last run."
        ties = f", {len(self.ties)} near-ties (differences {self.ties})" if self.ties else ""
        different = f", {len(self.different)} DIFFERENT: {self.different}" if self.different else ""
        return f"Outputs compared: {self.identical} identical{ties}{different}."


def few_shot(
    name: str,
    sizes: Sizes,
    ours: Worker,
    theirs: Worker,
    folder: Path,
    rounds: int,
    peer_queries: int,
    agreement: Agreement,
) -> list[Row]:
    """Seconds a query. We answer all queries in each round; the peer answers other ``peer_queries`` of them.

    The peer gets preprocessed tensors; our time includes opening the pictures, encoding each once, and the texts.
    """
    rows = []
    path = str(folder / "prompt.pt")
    for shots in sizes.shots:
        asked = prompts(sizes, shots, shared=name == "few_shot_shared")
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds):
            answer = ours.ask("few_shot", prompts=asked, batch=sizes.batch, beams=sizes.beams, new=sizes.new)
            times[0].append(answer["seconds"] / len(asked))
            seconds = 0.0
            for i in range(peer_queries):
                query = (turn * peer_queries + i) % len(asked)
                ours.ask("tensors", prompt=asked[query], path=path)
                answered = theirs.ask("few_shot", path=path, beams=sizes.beams, new=sizes.new)
                seconds += answered["seconds"]
                said = ours.ask("text", ids=answered["result"])["result"]
                _compare(ours, path, answer["result"][query], said, f"{name}, {shots} shots, query {query}", agreement)
            times[1].append(seconds / peer_queries)
        rows.append(row(name, f"{shots} shots", theirs.name, *times, unit="s/query"))
    return rows


def _compare(ours: Worker, path: str, mine: str, said: str, where: str, agreement: Agreement) -> None:
    if mine == said:
        agreement.identical += 1
        return
    scores = [ours.ask("score", path=path, text=text)["result"] for text in (mine, said)]
    if abs(scores[0] - scores[1]) < agreement.near_tie:
        agreement.ties.append(abs(scores[0] - scores[1]))
    else:
        agreement.different.append(f"{where}: {mine!r} ({scores[0]}) and {said!r} ({scores[1]})")
