"""Counts of what is left out add up."""

from flamingo.data.document import Document, Text
from flamingo.data.drops import Dropped, Drops


def test_counts_of_pages_and_workers_add_up():
    page = Dropped("page with a single image", Drops({"image too small": 2}))
    document = Document([Text("a")], drops=Drops({"image too small": 1, "image missing": 3}))
    worker = sum((sample.drops for sample in (page, document)), Drops())
    assert worker == {"page with a single image": 1, "image too small": 3, "image missing": 3}
    assert (worker + page.drops)["image too small"] == 5
