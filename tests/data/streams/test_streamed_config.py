"""Configs of streamed documents are checked before a shard is opened."""

import pytest

from flamingo.data.streams.streamed_config import StreamedConfig, StreamedSourceConfig
from flamingo.utils.errors import UserError


def config(max_tokens, max_images):
    documents = {"kind": "web_document", "max_tokens": max_tokens, "max_images": max_images}
    source = {"root": "pages", "format": "obelics", "documents": documents}
    return StreamedConfig(batch_size=1, group_size=4, rows=2, pack_to=64, max_images=3, sources={"web": source})


@pytest.mark.parametrize(("max_tokens", "max_images", "key"), [(65, 3, "max_tokens"), (64, 4, "max_images")])
def test_a_row_has_room_for_every_window(max_tokens, max_images, key):
    with pytest.raises(UserError, match=f"sources.web.documents.{key}="):
        config(max_tokens, max_images)
    assert config(64, 3).sources["web"].documents.max_tokens == 64


@pytest.mark.parametrize(
    ("format", "right", "wrong"), [("tar", "pairs", "web_document"), ("html", "web_document", "pairs")]
)
def test_documents_are_made_of_the_samples_of_the_format(format, right, wrong):
    def made(kind):
        documents = {"kind": kind} if kind == "pairs" else {"kind": kind, "max_tokens": 64, "max_images": 3}
        return StreamedSourceConfig(root="shards", format=format, documents=documents).documents

    assert made(right).kind == right
    with pytest.raises(UserError, match=f"format={format} .*documents.kind must be {right}"):
        made(wrong)
