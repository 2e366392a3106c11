"""The properties of every config of documents that build_data.py uses."""

from flamingo.data.builders import InterleavedConfig
from flamingo.synthetic import SyntheticDocumentsConfig

INTERLEAVED = InterleavedConfig(
    min_images=2, max_images=5, batch_size=3, similar_prob=0.5, num_crops=4, captions_per_image=2
)
SYNTHETIC = SyntheticDocumentsConfig(
    kind="synthetic_captions", min_images=2, max_images=5, batch_size=3, text_prefix_prob=0.5
)


def test_neighbour_documents_need_all_images_but_the_last():
    assert INTERLEAVED.num_neighbours == 4
    assert INTERLEAVED.of_size(3).num_neighbours == SYNTHETIC.num_neighbours == 0


def test_views_and_groups_are_those_of_the_keys():
    assert (INTERLEAVED.num_views, INTERLEAVED.group_size) == (4, 2)
    assert (SYNTHETIC.num_views, SYNTHETIC.group_size) == (1, 1)


def test_documents_of_one_size_have_nothing_else_that_is_drawn():
    assert INTERLEAVED.of_size(3) == InterleavedConfig(min_images=3, max_images=3, batch_size=3)
    assert SYNTHETIC.of_size(3) == SyntheticDocumentsConfig(
        kind="synthetic_captions", min_images=3, max_images=3, batch_size=3
    )
