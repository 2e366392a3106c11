"""Pretrains a vision encoder by contrast with captions (CLIP, arXiv 2103.00020), and probes its features.

python -m experiments.pretrain_vision                                    the synthetic benchmark's encoder
python -m experiments.pretrain_vision pairs=captions.jsonl image_size=128 training.steps=20000

`pairs` are captioned images as experiments.train takes them: each is paired with each of its captions. `model` has the
fields of the config.json of any vision encoder of transformers. Only the encoder is saved, without the text tower and
the two projections.
"""

from dataclasses import dataclass, field

from experiments.command import command
from flamingo.model import Fields
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.training import TrainingConfig
from flamingo.training.optim import OptimizerConfig, check_warmup
from flamingo.utils.checks import whole
from flamingo.utils.device_names import check_device


@dataclass(kw_only=True)
class PretrainVisionConfig:
    """The encoder, the pairs that it learns from, and its training."""

    output: str
    overwrite: bool = False
    #: cpu, mps, cuda or cuda:NUMBER; null: CUDA, else MPS, else the CPU.
    device: str | None = None
    model: Fields = field(default_factory=dict)
    vision_features: VisionFeaturesConfig = field(default_factory=VisionFeaturesConfig)
    image_size: int
    #: Null: scenes of the synthetic benchmark, in groups that differ in one thing each.
    pairs: str | None = None
    #: Groups in a batch, and pairs in a group of the synthetic benchmark.
    batch_size: int
    group_size: int
    #: The width of the text tower and of the embeddings that are compared.
    embed_dim: int
    num_workers: int
    #: Scenes that the probe of the synthetic benchmark is trained on; without `pairs`.
    probed_scenes: int
    #: Set by the group optimizer.
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        check_device("device", self.device)
        for key in ("image_size", "batch_size", "group_size", "embed_dim"):
            whole(key, getattr(self, key), least=1)
        whole("num_workers", self.num_workers, least=0)
        whole("probed_scenes", self.probed_scenes, least=128)
        check_warmup(self.optimizer, self.training.steps)


main = command("pretrain_vision", PretrainVisionConfig, "experiments.run_vision_pretraining:run_job", sweeps=True)

if __name__ == "__main__":
    main()
