"""The table of a log: settings in order, values in the scorers' units, intervals of headline metrics."""

from flamingo.report.score_table import score_table
from flamingo.results import score_of
from tests.report import fake


def test_a_row_is_a_setting_with_the_mean_over_its_seeds():
    task = {"task": "flickr8k"}
    rows = [
        fake.score(**task, shots=8, metric="CIDEr", value=0.4661, ci95=(0.4324, 0.5026), control="blind"),
        fake.score(**task, shots=8, metric="CIDEr", value=0.4, ci95=(0.3, 0.5), seed=0),
        fake.score(**task, shots=8, metric="CIDEr", value=0.5, ci95=(0.4, 0.6), seed=1),
        fake.score(**task, shots=0, demonstrations=None, metric="CIDEr", value=0.25, ci95=(0.2, 0.3), decoding="beam3"),
        fake.score(**task, shots=8, metric="BLEU-4", value=0.19, ci95=(0.1, 0.2)),
        fake.score(task="other", metric="CIDEr"),
    ]
    table = score_table([score_of(row, "a row") for row in rows], "flickr8k")
    assert table.splitlines() == [
        "shots  demonstrations  control  decoding  CIDEr                   BLEU-4",
        "8      random          -        greedy    0.450 (0.350 to 0.550)  0.190",
        "0      none            -        beam3     0.250 (0.200 to 0.300)  -",
        "8      random          blind    greedy    0.466 (0.432 to 0.503)  -",
    ]


def test_a_template_of_its_own_stands_with_the_demonstrations():
    row = fake.score() | {"template": "A photo of {caption}"}
    [_, line] = score_table([score_of(row, "a row")], "synthetic_captions").splitlines()
    assert "random, A photo of {caption}" in line
