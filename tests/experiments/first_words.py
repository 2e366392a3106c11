"""A task of images other than captioning: the first word of a caption. It uses the protocol alone."""

from dataclasses import dataclass

from flamingo.data.sources import read_split
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.tasks import TaskConfig
from flamingo.inference.retrieval import nearest


@dataclass(kw_only=True)
class FirstWordsConfig(TaskConfig):
    """Where the photographs of queries and support are."""

    kind: str = "first_words"
    query: str
    support: str


class FirstWords:
    """The first word of each photograph's first caption."""

    name = "first_words"
    max_new_tokens = 2
    text_only = False
    measures_copying = True
    corpus_metrics = ()
    language = "en"

    def __init__(self, query_records, support_records, skipped):
        self.query_records = query_records
        self.support_records = support_records
        self.skipped = skipped
        self.neighbours = None

    @classmethod
    def from_config(cls, config, open_images=True):
        query = read_split(config.query, open_images=open_images)
        support = read_split(config.support, open_images=open_images)
        return cls(query.records, support.records, {})

    def queries(self):
        return [_example(record) for record in self.query_records]

    def support(self, query):
        return [[_example(record) for record in self.support_records if record.id != query.id]]

    def score(self, query, prompt_examples, output):
        return {"exact_match": float(output in query.references)}

    def similar(self, query, number):
        position = [record.id for record in self.query_records].index(query.id)
        return [_example(self.support_records[neighbour]) for neighbour in self.neighbours[position][:number]]

    def fitting(self, processor, template, max_new_tokens):
        """All but the first photograph can be shown."""
        first, *others = self.support_records
        return FirstWords(self.query_records, others, {first.id: "it is the first"})

    def index(self, features, num_neighbours, training_records):
        queries = features.pooled([record.image for record in self.query_records])
        support = features.pooled([record.image for record in self.support_records])
        self.neighbours = nearest(queries, support, num_neighbours).tolist()
        return {"training": [{"query": "none", "image": str(len(training_records))}]}


def _example(record):
    return Example(record.id, record.image, (record.captions[0].split()[0],), "The first word:")
