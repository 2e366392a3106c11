"""Configs of short runs of the commands, and the files of a run."""

import sys

import torch

from tests.helpers.configs import composed

_SMALL_DOCUMENTS = (
    "data.documents.captions.batch_size=2",
    "data.documents.captions.min_images=2",
    "data.documents.captions.max_images=3",
)
#: Overrides of a demo of a few steps.
SMALL_DEMO = ("experiment=demo", "debug=quick", *_SMALL_DOCUMENTS, "tracker=none", "training.validate_every=0")
#: Overrides of a demo of two steps.
TWO_STEPS = (
    *("experiment=demo", "debug=quick", "tracker=none", "training.steps=2", "optimizer.warmup_steps=1"),
    *("training.save_every=1", "training.sample_every=0", "training.validate_every=0"),
    *("data.documents.captions.batch_size=1", "data.documents.captions.min_images=2"),
    "data.documents.captions.max_images=2",
)
#: Overrides of an evaluation of one setting, which takes a second.
ONE_SETTING = ("task.num_queries=2", "shots=[0]", "text_only=false", "controls=[]")


def call_command(main, *arguments):
    """Calls the main function of a command on one thread with arguments, in a process of its own."""
    torch.set_num_threads(1)
    sys.argv = ["command", *arguments]
    main()


def photograph_overrides(shards, backbones, output):
    return (
        *(
            "tracker=none",
            "training.validate_every=0",
            f"data.root={shards}",
            f"output={output}",
            "model.connector.num_heads=2",
        ),
        *(f"model.vision={backbones / 'mobilenet_v2'}", f"model.language={backbones / 'gpt2'}"),
        "model.image_size=null",
    )


def photograph_training(shards, backbones, output, *overrides):
    return composed(
        "train",
        *("experiment=flickr8k", "debug=quick", *photograph_overrides(shards, backbones, output)),
        *("data.documents.pairs.batch_size=2", "data.documents.interleaved.batch_size=2"),
        *("data.documents.interleaved.min_images=3", "data.documents.interleaved.max_images=3"),
        "data.documents.interleaved.num_crops=2",
        "data.documents.pairs.captions_per_image=3",
        *overrides,
    )


def files_of(folder):
    """Returns the files of a run except logs, with their contents."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".log"}
