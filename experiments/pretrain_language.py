"""Pretrains a causal language model, and the tokenizer that it reads with, on text alone.

python -m experiments.pretrain_language                              the synthetic benchmark's language model
python -m experiments.pretrain_language text=captions texts=[captions.jsonl,'DIR/train-*.tar']

`texts` are files with a document a line (plain text, or JSON with a "text"), or with the captions of an image a
line (JSON with "captions" or a "caption"), or sources of captioned images as experiments.train takes them, without
their photographs. What is left out, and why, is in `skipped.json`.
`model` is any causal language model of transformers, described as its own config.json would be.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.configs import build, check, nested, plain
from experiments.loading import data_set
from experiments.schema import command
from flamingo.data.order import Shuffled
from flamingo.data.record import by_reason
from flamingo.data.texts import TextDocuments, TextItem, read_texts
from flamingo.data.tokenizer import train_tokenizer
from flamingo.model.architecture import check_architecture
from flamingo.report.model_card import KIND, CardTexts, save_backbone
from flamingo.synthetic.documents import SyntheticTexts
from flamingo.synthetic.language_scores import in_context_scores
from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.optim import OPTIMIZERS, OptimizerConfig
from flamingo.training.optim.schedule import check_warmup
from flamingo.training.step import Batch
from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError
from flamingo.utils.identity import digest_of
from flamingo.utils.io import write_text
from flamingo.utils.kinds import load_kind
from flamingo.utils.run_folder import Run, failure_recorded, run_folder

log = logging.getLogger(__name__)

#: The tokenizer is trained on the first so many texts; more change little, and take their time.
_TOKENIZER_TEXTS = 50_000
#: Texts that are encoded together.
_ENCODED_AT_ONCE = 4096


@dataclass
class PretrainLanguageConfig:
    """What the language model is, what it reads, and for how long."""

    output: str = MISSING
    overwrite: bool = False
    #: Fields of a transformers config; "model_type" says whose.
    model: dict[str, Any] = field(default_factory=dict)
    #: Null: documents of the synthetic benchmark, as many as `documents`.
    texts: list[str] | None = None
    documents: int | None = None
    #: How often texts are read; captions of an image come in another order, or among those of others, each time.
    rounds: int = 1
    #: Tokens of the tokenizer, byte-level BPE on the first 50,000 texts.
    vocabulary: int = MISSING
    #: Tokens that the model sees at once; documents are joined and cut into blocks of this length.
    block: int = MISSING
    batch: int = MISSING
    optimizer: Any = nested(OptimizerConfig)
    training: Any = nested(TrainingConfig)

    def __post_init__(self) -> None:
        if self.texts is None:
            whole("documents", self.documents, least=1)
            if self.rounds != 1:
                raise UserError(f"rounds is {self.rounds}, but documents of the synthetic benchmark are read once")
        elif not self.texts:
            raise UserError("texts names no file")
        whole("rounds", self.rounds, least=1)
        # A token for each byte, and the end of the text.
        whole("vocabulary", self.vocabulary, least=257)
        whole("block", self.block, least=2)
        whole("batch", self.batch, least=1)


ConfigStore.instance().store("pretrain_language_schema", PretrainLanguageConfig)


class Blocks(Sequence[np.ndarray]):
    """Tokens of all documents, one behind the other, in blocks of equal length; a document ends with ``end``."""

    def __init__(self, documents: Iterable[list[int]], end: int, block: int) -> None:
        self.tokens = np.fromiter(chain.from_iterable([*ids, end] for ids in documents), dtype=np.int32)
        self.block = block
        if len(self) == 0:
            raise UserError(f"{len(self.tokens)} tokens of text do not fill one block of {block}")

    def __len__(self) -> int:
        return len(self.tokens) // self.block

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} blocks, no block {index}")
        return self.tokens[index * self.block : (index + 1) * self.block]


def encoded(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """Yield the tokens of each text; a part of the texts is in memory at once."""
    remaining = iter(texts)
    while part := list(islice(remaining, _ENCODED_AT_ONCE)):
        yield from tokenizer(part, add_special_tokens=False)["input_ids"]


def collate(blocks: list[np.ndarray]) -> Batch:
    """Blocks of ``t`` tokens each -> ids and labels [b t]."""
    ids = torch.from_numpy(np.stack(blocks)).long()
    return Batch(
        {"input_ids": ids, "labels": ids}, [f"a block that begins with the tokens {row[:8]}" for row in ids.tolist()]
    )


def pretrain(config: dict[str, Any], output: Path) -> None:
    """Leaves the model and its tokenizer in ``output / "model"``, and what it scores in ``scores.json``."""
    with run_folder(output, config, KIND) as run, failure_recorded(run):
        check(PretrainLanguageConfig, config)
        check_warmup(load_kind(OPTIMIZERS, config["optimizer"], "optimizer"), config["training"]["steps"])
        fields = {"vocab_size": config["vocabulary"], "max_position_embeddings": config["block"], **config["model"]}
        check_architecture(AutoModelForCausalLM, fields)
        _pretrain(config, run)


def _pretrain(config: dict[str, Any], run: Run) -> None:
    output = run.output
    contents: dict[str, str] = {}
    skipped: dict[str, str] = {}
    if config["texts"] is None:
        synthetic = SyntheticTexts(config["training"]["seed"])
        numbers = tqdm(range(config["documents"]), desc="documents", unit="document")
        texts: list[str] | TextDocuments = [synthetic[number] for number in numbers]
    else:
        read: list[TextItem] = []
        for name in config["texts"]:
            found, left_out = read_texts(name)
            read += found
            skipped |= {f"{name}: {where}": reason for where, reason in left_out.items()}
        if skipped:
            log.warning("left out %d texts: %s", len(skipped), by_reason(skipped))
        contents["texts"] = digest_of(map(json.dumps, read))
        texts = TextDocuments(read, config["rounds"], config["training"]["seed"])
    run.begin(contents)
    if config["texts"] is not None:
        write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
    tokenizer = train_tokenizer(islice(texts, _TOKENIZER_TEXTS), config["vocabulary"], config["block"])
    blocks = Blocks(encoded(texts, tokenizer), tokenizer.eos_token_id, config["block"])
    log.info("%d documents, %d tokens of %d kinds", len(texts), len(blocks.tokens), len(tokenizer))
    training = build(TrainingConfig, config["training"], "training")
    torch.manual_seed(training.seed)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": config["block"], **special, **config["model"]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    log.info("%s, %.2f million parameters", type(model).__name__, model.num_parameters() / 1e6)
    data = data_set("text", Shuffled(blocks, training.seed), collate, batch_size=config["batch"], num_workers=0)
    optimizer = load_kind(OPTIMIZERS, config["optimizer"], "optimizer")
    train(model, [data], optimizer, training, output, on_save=run.keep)
    text_of = ", ".join(config["texts"]) if config["texts"] else "the synthetic benchmark"
    card = CardTexts(
        title=f"Language model, {type(model).__name__}, pretrained on text of {text_of}",
        command="pretrain_language",
        unit="token",
        scores="on told documents of held-out dialects and names",
    )
    scores = None if config["texts"] else in_context_scores(model, tokenizer)
    save_backbone(output, config, model, tokenizer, card, scores)


@command("pretrain_language")
def main(config: DictConfig) -> None:
    pretrain(plain(config), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
