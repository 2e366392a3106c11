"""Searches captions by images and images by captions: recall at 1, 5 and 10 in both directions.

python -m experiments.retrieve pairs=DIR split=test encoder=ENCODER output=outputs/retrieval           a dual encoder
python -m experiments.retrieve pairs=DIR split=dev checkpoint=outputs/demo methods=[captions,likelihood,reranked] ...
python -m experiments.retrieve encoder=outputs/pretrain_vision/dual_encoder output=...       synthetic scenes

Leaves retrieval.json. Generated captions (captions.jsonl) and log-likelihoods (likelihoods.npy) are kept: the same
command resumes a retrieval that was stopped, and other methods reuse them.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.cli.command import command
from experiments.setup.run_checkpoint import check_checkpoint, check_run
from flamingo.data.caption_template import CaptionTemplate
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.device_names import DTYPES, check_device
from flamingo.utils.errors import UserError
from flamingo.utils.problems import Problems

#: The ways to compare images and captions.
DUAL_ENCODER, CAPTIONS, LIKELIHOOD, RERANKED = "dual_encoder", "captions", "likelihood", "reranked"
METHODS = (DUAL_ENCODER, CAPTIONS, LIKELIHOOD, RERANKED)
#: The largest rank that recall is measured at.
_LAST_RANK = 10


@dataclass(kw_only=True)
class RetrieveConfig:
    """The images and captions, and how they are compared."""

    #: Captioned images: a folder, a file or shards; null: held-out synthetic scenes.
    pairs: str | None = None
    #: The split of the pairs; null: all of them.
    split: str | None = None
    #: The number of images, the first ones; null: all, or 1,000 synthetic scenes.
    limit: int | None = None
    #: The number of captions of each image, the first ones; null: all.
    captions_per_image: int | None = None
    #: Captioned images for document frequencies and demonstrations; null: those of pairs.
    training: str | None = None
    #: The split of the training images; null: all of them.
    training_split: str | None = "train"
    #: The language of the captions, which decides on the tokens.
    language: str = "en"
    #: How images and captions are compared: dual_encoder, captions, likelihood, reranked. The method captions
    #: compares generated captions, and reranked takes the best of these by likelihood.
    methods: list[str] = field(default_factory=lambda: [DUAL_ENCODER])
    #: The dual encoder: a folder or a name on the hub.
    encoder: str | None = None
    #: The model of the other methods: the folder of a run or of a checkpoint.
    checkpoint: str | None = None
    #: The text after each image, which ends with {caption}; null: the checkpoint's.
    template: str | None = None
    #: The number of training images with captions that the model sees before each image.
    shots: int = 0
    #: The seed that draws them.
    seed: int = 0
    #: Beams of generated captions.
    num_beams: int = 3
    #: The most tokens of a generated caption.
    max_new_tokens: int = 30
    #: The number of entries that reranked ranks again for each query.
    rerank: int = 50
    #: The number of images in a batch.
    batch_size: int = 16
    #: The folder of the results.
    output: str
    #: Whether results in the folder are removed first.
    overwrite: bool = False
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The dtype of the frozen backbones; auto: as the model was trained.
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError(f"methods is empty: choose some of {', '.join(METHODS)}")
        for method in self.methods:
            one_of("methods", method, METHODS)
        for key in ("limit", "captions_per_image"):
            if getattr(self, key) is not None:
                whole(key, getattr(self, key), least=1)
        for key in ("num_beams", "max_new_tokens", "batch_size"):
            whole(key, getattr(self, key), least=1)
        whole("shots", self.shots, least=0)
        whole("rerank", self.rerank, least=_LAST_RANK)
        seed("seed", self.seed)
        if self.template is not None:
            CaptionTemplate(self.template)
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)


def check_config(config: RetrieveConfig) -> None:
    """Checks that each method has its model, and that the checkpoint exists.

    Raises:
        UserError: With all keys that are missing, have no effect or name nothing.
    """
    problems = Problems()
    needs_model = config.methods != [DUAL_ENCODER]
    for key, is_needed in (("encoder", DUAL_ENCODER in config.methods), ("checkpoint", needs_model)):
        with problems.collected():
            if is_needed and getattr(config, key) is None:
                raise UserError(f"methods={config.methods} needs {key}=FOLDER")
            if not is_needed and getattr(config, key) is not None:
                raise UserError(f"{key} has no effect: no method of {config.methods} uses it")
    if config.pairs is None:
        with problems.collected():
            if config.split is not None or config.training is not None:
                raise UserError("split and training have no effect without pairs: synthetic scenes have their own")
    if config.checkpoint is not None:
        with problems.collected():
            if (Path(config.checkpoint) / "checkpoint").is_dir():
                check_run(config.checkpoint, "checkpoint")
            else:
                check_checkpoint(Path(config.checkpoint))
    problems.report()


main = command("retrieve", RetrieveConfig, "experiments.runs.run_retrieval:run_job", check_config)

if __name__ == "__main__":
    main()
