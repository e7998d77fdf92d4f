"""Words of a prompt as tokens of ComfyUI's text models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..semantics import Words
from .hashing import hashed

_Chunk = Sequence[Sequence[Any]]  # of a token, its weight, and what else ComfyUI says of it


def encoded(clip: Any, prompt: str, words: str) -> tuple[Any, Words]:
    """A prompt's conditioning, and words of it; see `words_of`."""
    found = words_of(clip, prompt, words)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return conditioning, replace(found, encoded=_hash_of(conditioning))


def stand_in(words: Words, conditioning: Any) -> bool:
    """Whether words, if there are any, are of the prompt that a conditioning was encoded from."""
    return not words.tokens or words.encoded == _hash_of(conditioning)


def _hash_of(conditioning: Any) -> str:
    return hashed([text for text, _ in conditioning])


def words_of(clip: Any, prompt: str, words: str) -> Words:
    """Find words in a prompt, as ComfyUI's tokenizer lays it out.

    Args:
        clip: a CLIP.
        prompt: as it is encoded, weights such as ``(cat:1.2)`` included.
        words: one or several, separated by commas; each may be of several words itself. Empty is the whole frame.

    Returns:
        The places of all tokens of each word where it first stands.

    Raises:
        ValueError: a word is not in the prompt, the prompt is longer than one chunk of tokens, or the text model is
            not a CLIP.
    """
    wanted = tuple(word.strip() for word in words.split(",") if word.strip())
    if not wanted:
        return Words(prompt)
    tokens = [_token(entry) for entry in _only_chunk(clip, prompt)]
    places: list[int] = []
    for word in wanted:
        found = _first(tokens, _spelt(clip, word))
        if not found:
            raise ValueError(f"the word {word!r} is not in the prompt {prompt!r}: choose a word that stands there")
        places.extend(place for place in found if place not in places)
    return Words(prompt, wanted, tuple(places))


def _only_chunk(clip: Any, prompt: str) -> _Chunk:
    chunks = _chunks(clip, prompt)
    if len(chunks) > 1:
        count = sum(len(_inside(clip, chunk)) for chunk in chunks)
        raise ValueError(
            f"the prompt has {count} tokens, and words are found among the {len(chunks[0]) - 2} of one chunk: shorten "
            f"it, or leave the words empty"
        )
    return chunks[0]


def _chunks(clip: Any, text: str) -> Sequence[_Chunk]:
    """Of CLIP-L, or of what CLIP there is: all lay a text out alike."""
    tokens = clip.tokenize(text)
    chunks = tokens.get("l", tokens.get("g"))
    if chunks is None:
        raise ValueError(
            f"this text model ({', '.join(map(str, tokens))}) is not a CLIP: words are found in prompts of Stable "
            f"Diffusion 1.5 and XL"
        )
    return chunks


def _inside(clip: Any, chunk: _Chunk) -> list[Any]:
    """The tokens of a chunk without those that begin, end and fill it."""
    start, *filling = [_token(entry) for entry in _chunks(clip, "")[0]]
    return [token for token in map(_token, chunk) if token not in {start, *filling}]


def _spelt(clip: Any, word: str) -> list[Any]:
    return _inside(clip, _chunks(clip, word)[0])


def _token(entry: Sequence[Any]) -> Any:
    """The number of a token; of an embedding, which is a tensor, something that equals no other."""
    return entry[0] if isinstance(entry[0], int) else object()


def _first(tokens: Sequence[Any], spelt: Sequence[Any]) -> list[int]:
    """Where a sequence of tokens first stands among others; empty if nowhere."""
    length = len(spelt)
    starts = (start for start in range(len(tokens) - length + 1) if list(tokens[start : start + length]) == spelt)
    start = next(starts, None) if length else None
    return [] if start is None else list(range(start, start + length))
