"""Outputs and references -> scores."""

#: Corpus metrics by their names in configs and result files: "module:Class" of a
#: :class:`flamingo.evaluation.metrics.corpus.Metric`. A class may compute several.
METRICS = {
    "CIDEr": "flamingo.evaluation.metrics.captions:Cider",
    "BLEU-1": "flamingo.evaluation.metrics.captions:Bleu",
    "BLEU-2": "flamingo.evaluation.metrics.captions:Bleu",
    "BLEU-3": "flamingo.evaluation.metrics.captions:Bleu",
    "BLEU-4": "flamingo.evaluation.metrics.captions:Bleu",
    "ROUGE-L": "flamingo.evaluation.metrics.captions:Rouge",
    "METEOR": "flamingo.evaluation.metrics.meteor:Meteor",
    "SPICE": "flamingo.evaluation.metrics.captions:Spice",
}
