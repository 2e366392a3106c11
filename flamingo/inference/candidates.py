"""Candidates of a prompt -> their tokens: those of prompt and candidate together, after the prompt's."""

from collections.abc import Sequence
from dataclasses import replace

from flamingo.data.document import Document, Image, Part, Text
from flamingo.data.processor import END_OF_CHUNK_TOKEN, IMAGE_TOKEN, FlamingoProcessor
from flamingo.inference.candidate_trie import CandidateTrie, make_trie
from flamingo.utils.errors import UserError

#: The text that decides on the tokens of a prompt's candidates, and the candidates.
_Key = tuple[str, tuple[str, ...]]


class CandidateTries:
    """Makes the tries of prompts' candidates. Prompts with the same end and the same candidates share a trie."""

    def __init__(self, processor: FlamingoProcessor, end: bool) -> None:
        """Begins without tries.

        Args:
            processor: Tokenizes prompts and candidates.
            end: Whether the token that ends a chunk follows each candidate.
        """
        self._processor = processor
        self._end = [processor.end_of_chunk_token_id] if end else []
        self._tries: dict[_Key, CandidateTrie] = {}

    def of(self, prompt: Document, candidates: Sequence[str]) -> CandidateTrie:
        """Returns the trie of the candidates after this prompt.

        Raises:
            UserError: For a candidate without tokens, one with a special token or too many tokens, or one whose first
                token begins within the prompt.
        """
        tail = _tail(prompt)
        key = (_rendered(tail), tuple(candidates))
        if key not in self._tries:
            prompt_ids = self._ids(tail)
            tokens = [self._tokens(tail, prompt_ids, candidate) for candidate in candidates]
            self._tries[key] = make_trie(tokens)
        return self._tries[key]

    def _tokens(self, prompt: Document, prompt_ids: list[int], candidate: str) -> list[int]:
        parts = [*prompt.parts, Text(candidate)]
        continued = replace(prompt, parts=parts, id=f"{prompt.id} with candidate {candidate}")
        ids = self._ids(continued)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise UserError(
                f"the candidate {candidate!r} changes the last token of {prompt}: the tokenizer merges the end of the "
                "prompt with the beginning of the candidate"
            )
        tokens = ids[len(prompt_ids) :] + self._end
        if not tokens:
            raise UserError(f"the candidate {candidate!r} of {prompt} has no token")
        return tokens

    def _ids(self, prompt: Document) -> list[int]:
        return self._processor.encode(prompt, prompt=True, pixels=False).input_ids.tolist()


def _tail(prompt: Document) -> Document:
    """Returns the last image of the prompt with its text, or the whole prompt if it does not end with these.

    The marker of an image is a special token, at which tokenizers split a text. The tokens after it do not depend on
    the text before it.
    """
    last = prompt.chunks()[-1]
    if last.image is None:
        return prompt
    parts: list[Part] = [last.image, *last.texts]
    return Document(parts, id=prompt.id)


def _rendered(prompt: Document) -> str:
    """Returns a text that differs for prompts with different texts."""
    texts = []
    for part in prompt.parts:
        if isinstance(part, Text):
            texts.append(part.text)
        else:
            texts.append(IMAGE_TOKEN if isinstance(part, Image) else END_OF_CHUNK_TOKEN)
    return "".join(texts)
