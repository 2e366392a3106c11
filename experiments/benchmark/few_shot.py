"""Few-shot captioning: every query with its demonstrations, from images to texts."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from experiments.benchmark.materials import Sizes, make_prompts
from experiments.benchmark.ratios import Ratio, make_ratio
from experiments.benchmark.worker import Worker

#: Two continuations whose log-probabilities differ by less than this are equal up to rounding.
NEAR_TIE = {"fp32": 1e-4, "bf16": 0.5}


@dataclass
class Agreement:
    """The number of equal outputs of two implementations."""

    near_tie: float
    identical: int = 0
    ties: list[float] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not (self.identical or self.ties or self.different):
            return "Outputs were not compared in the last run."
        text = f"Outputs compared: {self.identical} identical"
        if self.ties:
            text += f", {len(self.ties)} near-ties (differences {self.ties})"
        if self.different:
            text += f", {len(self.different)} DIFFERENT: {self.different}"
        return f"{text}."


@dataclass
class FewShot:
    """Few-shot captioning by two implementations.

    Ours answers all queries in each round. The peer answers ``peer_queries`` of them, different ones in each round. The
    peer gets preprocessed tensors. Our time includes opening the images, encoding each once, and decoding the texts.
    """

    sizes: Sizes
    ours: Worker
    peer: Worker
    folder: Path
    rounds: int
    peer_queries: int
    agreement: Agreement

    def run(self, name: str, shared: bool) -> list[Ratio]:
        """Returns seconds per query for each number of shots.

        Args:
            name: The name of the benchmark.
            shared: Whether all queries have the same demonstrations.
        """
        return [self._measure(name, shots, shared) for shots in self.sizes.shots]

    def _measure(self, name: str, shots: int, shared: bool) -> Ratio:
        prompts = [asdict(prompt) for prompt in make_prompts(self.sizes, shots, shared)]
        path = str(self.folder / "prompt.pt")
        our_times = []
        peer_times = []
        for turn in range(self.rounds):
            sizes = self.sizes
            answer = self.ours.ask("few_shot", prompts=prompts, batch=sizes.batch, beams=sizes.beams, new=sizes.new)
            our_times.append(answer["seconds"] / len(prompts))
            seconds = 0.0
            for i in range(self.peer_queries):
                query = (turn * self.peer_queries + i) % len(prompts)
                self.ours.ask("tensors", prompt=prompts[query], path=path)
                peer_answer = self.peer.ask("few_shot", path=path, beams=sizes.beams, new=sizes.new)
                seconds += peer_answer["seconds"]
                peer_text = self.ours.ask("text", ids=peer_answer["result"])["result"]
                self._compare(path, answer["result"][query], peer_text, f"{name}, {shots} shots, query {query}")
            peer_times.append(seconds / self.peer_queries)
        return make_ratio(name, f"{shots} shots", self.peer.name, our_times, peer_times, "s/query")

    def _compare(self, path: str, our_text: str, peer_text: str, location: str) -> None:
        if our_text == peer_text:
            self.agreement.identical += 1
            return
        our_score = self.ours.ask("score", path=path, text=our_text)["result"]
        peer_score = self.ours.ask("score", path=path, text=peer_text)["result"]
        difference = abs(our_score - peer_score)
        if difference < self.agreement.near_tie:
            self.agreement.ties.append(difference)
        else:
            texts = f"{our_text!r} ({our_score}) and {peer_text!r} ({peer_score})"
            self.agreement.different.append(f"{location}: {texts}")
