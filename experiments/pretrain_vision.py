"""Pretrains a vision encoder by contrast with captions, as CLIP (arXiv 2103.00020).

python -m experiments.pretrain_vision                                    the synthetic benchmark's encoder
python -m experiments.pretrain_vision pairs=captions.jsonl image_size=128 training.steps=20000

`pairs` are captioned images, as in experiments.train. Each image is paired with each of its captions. `model` has the
fields of the config.json of any vision encoder of transformers. `model` in the run's folder is the encoder,
`dual_encoder` are both towers with their projections, which experiments.retrieve and CLIPScore read.
"""

from dataclasses import dataclass, field

from experiments.cli.command import command
from flamingo.model import Fields
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.training import TrainingConfig
from flamingo.training.optim import OptimizerConfig, check_warmup
from flamingo.utils.checks import whole
from flamingo.utils.device_names import check_device


@dataclass(kw_only=True)
class PretrainVisionConfig:
    """The encoder, its pairs of images and captions, and its training."""

    #: The folder of the run.
    output: str
    #: Whether a run that is already in the folder is replaced.
    overwrite: bool = False
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The fields of the config.json of any vision encoder of transformers.
    model: Fields = field(default_factory=dict)
    vision_features: VisionFeaturesConfig = field(default_factory=VisionFeaturesConfig)
    #: The side of images in pixels.
    image_size: int
    #: Captioned images: a folder, a file or shards; null: those of the synthetic benchmark. These scenes come in
    #: groups that differ in one thing each.
    pairs: str | None = None
    #: Groups of a batch.
    batch_size: int
    #: Pairs of a group of the synthetic benchmark.
    group_size: int
    #: The width of the text tower and of the embeddings that are compared.
    embed_dim: int
    #: Processes that make batches; 0: the training process makes them.
    num_workers: int
    #: Scenes of the synthetic benchmark that the probe is trained on; without pairs.
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


main = command("pretrain_vision", PretrainVisionConfig, "experiments.runs.run_vision_pretraining:run_job", sweeps=True)

if __name__ == "__main__":
    main()
