"""Query and demonstrations -> the prompt, as a document and as text."""

from collections.abc import Sequence

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document, EndOfChunk, Part, Text, in_one_chunk
from flamingo.data.processor import END_OF_CHUNK_TOKEN, IMAGE_TOKEN
from flamingo.evaluation.protocol import Example


def build_prompt(
    query: Example, demonstrations: Sequence[Example], images: bool = True, template: CaptionTemplate | None = None
) -> Document:
    """Returns the document that the model continues.

    Args:
        query: The query, which keeps its image.
        demonstrations: The demonstrations. Each shows the first of its references. One with a description is a line of
            text, as in :func:`flamingo.synthetic.documents.show`.
        images: Whether the demonstrations without a description have their images.
        template: The template of captions; None: the default template.
    """
    template = template or CaptionTemplate()
    parts: list[Part] = []
    for example in demonstrations:
        answered = example.answered(template)
        if example.description is not None:
            parts.append(Text(f"{example.description} {answered}\n"))
            continue
        parts += in_one_chunk(example.images) if images else [EndOfChunk()]
        parts.append(Text(answered))
    parts += in_one_chunk(query.images)
    parts.append(Text(query.question(template)))
    return Document(parts, query.id, template.affixes)


def render_prompt(prompt: Document) -> str:
    """Returns the prompt as text, with the special tokens that the processor inserts."""
    affixes = prompt.affixes
    chunks = []
    markers = affixes.before_image
    for chunk in prompt.chunks():
        text = "".join(part.text for part in chunk.texts)
        if chunk.joined:
            markers += IMAGE_TOKEN
            continue
        chunks.append(markers + IMAGE_TOKEN + text if chunk.image else text)
        markers = affixes.before_image
    end_of_chunk = END_OF_CHUNK_TOKEN if affixes.end_of_chunk is None else affixes.end_of_chunk
    return affixes.prefix + (end_of_chunk + affixes.separator).join(chunks)
