"""Pretrains a causal language model and its tokenizer on text.

python -m experiments.pretrain_language                              the synthetic benchmark's language model
python -m experiments.pretrain_language text=captions texts=[captions.jsonl,'DIR/train-*.tar']

`texts` names files with a document in each line (plain text, or JSON with a "text"), files with the captions of an
image in each line (JSON with "captions" or a "caption"), and sources of captioned images, as in experiments.train.
Their images are not read. `skipped.json` lists texts that are left out, with reasons. `model` has
the fields of the config.json of any causal language model of transformers.
"""

from dataclasses import dataclass, field

from experiments.cli.command import command
from flamingo.model import Fields
from flamingo.training import TrainingConfig
from flamingo.training.optim import OptimizerConfig, check_warmup
from flamingo.utils.checks import whole
from flamingo.utils.device_names import check_device
from flamingo.utils.errors import UserError


@dataclass(kw_only=True)
class PretrainLanguageConfig:
    """The language model, its texts, and its training."""

    #: The folder of the run.
    output: str
    #: Whether a run that is already in the folder is replaced.
    overwrite: bool = False
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The fields of the config.json of any causal language model of transformers.
    model: Fields = field(default_factory=dict)
    #: Files of texts or captions; null: documents of the synthetic benchmark.
    texts: list[str] | None = None
    #: Documents of the synthetic benchmark to train on.
    documents: int | None = None
    #: How often the texts are read. Captions of an image are in other documents each time.
    epochs: int = 1
    #: Tokens of the tokenizer, byte-level BPE on the first 50,000 texts.
    vocab_size: int
    #: Tokens of a row of a batch. Documents are concatenated and cut into rows of this length.
    seq_len: int
    #: Rows of a batch.
    batch_size: int
    #: Documents of the synthetic benchmark that the model is scored on; without texts.
    scored_documents: int
    #: Set by the group optimizer.
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        check_device("device", self.device)
        if self.texts is None:
            whole("documents", self.documents, least=1)
            if self.epochs != 1:
                raise UserError(f"epochs is {self.epochs}, but documents of the synthetic benchmark are read once")
        elif not self.texts:
            raise UserError("texts names no file")
        whole("epochs", self.epochs, least=1)
        # A token for each byte, and the end of the text.
        whole("vocab_size", self.vocab_size, least=257)
        whole("seq_len", self.seq_len, least=2)
        whole("batch_size", self.batch_size, least=1)
        whole("scored_documents", self.scored_documents, least=1)
        check_warmup(self.optimizer, self.training.steps)


main = command(
    "pretrain_language", PretrainLanguageConfig, "experiments.runs.run_language_pretraining:run_job", sweeps=True
)

if __name__ == "__main__":
    main()
