"""Words in prompts, with a tokenizer that spells as CLIP's does: pieces of words, chunks, weights in brackets."""

from __future__ import annotations

import re

import pytest

from motionclone_core.hosts.comfy_words import words_of

START, END, LENGTH = 1, 2, 12


class Clip:
    """Lays texts out as ComfyUI does: chunks of 12 tokens; words of over 5 letters in two pieces."""

    def __init__(self, name="l"):
        self.name, self.vocabulary = name, {}

    def number(self, piece):
        return self.vocabulary.setdefault(piece, len(self.vocabulary) + 10)

    def pieces(self, text):
        for word in re.findall(r"[a-z]+|[^a-z\s()\d:.]", text.lower()):
            yield from ((word[:5], word[5:] + "/") if len(word) > 5 else (word + "/",))

    def tokenize(self, text):
        tokens = []
        for part, weight in re.findall(r"([^()]+?)(?::([\d.]+))?(?=[()]|$)", text):
            tokens += [(self.number(piece), float(weight or 1)) for piece in self.pieces(part)]
        room = LENGTH - 2
        chunks = [tokens[start : start + room] for start in range(0, max(len(tokens), 1), room)]
        end = (END, 1.0)
        return {self.name: [[(START, 1.0), *chunk, end, *[end] * (room - len(chunk))] for chunk in chunks]}


@pytest.mark.parametrize(
    ("prompt", "words", "tokens"),
    [
        ("a cat, on the sea", "cat", (2,)),
        ("A Cat, on the sea", "cat, sea", (2, 6)),
        ("a sports car", "sports car", (2, 3, 4)),  # "sport", "s/", "car/"
        ("a (cat:1.2) and a cat", "cat", (2,)),
        ("a cat", "a, cat, a cat", (1, 2)),
        ("a cat", " , ", ()),
        ("a cat", "", ()),
    ],
)
def test_words_are_found_where_they_first_stand(prompt, words, tokens):
    assert words_of(Clip(), prompt, words).tokens == tokens


@pytest.mark.parametrize("word", ["horse", "ca", "cats", "the cat"])
def test_a_word_that_is_not_there_is_named_with_the_prompt(word):
    with pytest.raises(ValueError, match=f"'{word}' is not in the prompt 'a cat'"):
        words_of(Clip(), "a cat", word)


def test_an_embedding_is_no_word():
    class WithEmbedding(Clip):
        def tokenize(self, text):
            chunks = super().tokenize(text)["l"]
            return {"l": [[(object(), 1.0) if token == self.number("cat/") else (token, w) for token, w in chunks[0]]]}

    with pytest.raises(ValueError, match="not in the prompt"):
        words_of(WithEmbedding(), "a cat", "cat")


def test_a_prompt_of_two_chunks_is_named_with_both_numbers():
    with pytest.raises(ValueError, match="13 tokens, and words are found among the 10 of one chunk"):
        words_of(Clip(), "a " * 12 + "cat", "cat")
    assert words_of(Clip(), "a " * 12 + "cat", "").tokens == ()


def test_a_text_model_that_is_no_clip_is_named():
    with pytest.raises(ValueError, match=r"t5xxl.*is not a CLIP"):
        words_of(Clip("t5xxl"), "a cat", "cat")
