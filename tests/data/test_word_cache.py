import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from alpaca_jax.data import word_cache
from alpaca_jax.data.word_cache import WordCache, words_stand_apart


def model(*pieces):
    """As LLaMA's: byte pairs, bytes for what is missing, a text taken as it is."""
    description = ModelProto()
    description.trainer_spec.model_type = description.trainer_spec.BPE
    description.trainer_spec.byte_fallback = True
    description.normalizer_spec.remove_extra_whitespaces = False
    for piece in ("<unk>", "▁", "▁▁", "▁the", "a.", *pieces):
        description.pieces.add(piece=piece)
    return description


def test_llama_s_kind_of_model_is_taken():
    assert words_stand_apart(model())
    assert words_stand_apart(model("\n"))


@pytest.mark.parametrize("piece", ["a▁", "▁a▁b", ".\n", "\n\n"])
def test_pieces_across_words_are_left_alone(piece):
    assert not words_stand_apart(model(piece))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.trainer_spec, "model_type", m.trainer_spec.UNIGRAM),
        lambda m: setattr(m.trainer_spec, "byte_fallback", False),
        lambda m: setattr(m.trainer_spec, "treat_whitespace_as_suffix", True),
        lambda m: setattr(m.normalizer_spec, "escape_whitespaces", False),
        lambda m: setattr(m.normalizer_spec, "precompiled_charsmap", b"nfkc"),
        lambda m: setattr(m.normalizer_spec, "remove_extra_whitespaces", True),
    ],
)
def test_models_of_another_kind_are_left_alone(change):
    description = model()
    change(description)
    assert not words_stand_apart(description)


def codes(text):
    """Encodes by character, so that the ids of any words, end to end, must spell the text."""
    return [ord(character) for character in text]


@settings(deadline=None)
@given(st.text("ab ▁\n", max_size=30))
def test_the_words_are_the_whole_text(text):
    ids = WordCache(codes).encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == codes(text)


def test_a_word_is_encoded_once_and_a_full_memory_begins_anew(monkeypatch):
    monkeypatch.setattr(word_cache, "_MOST_WORDS", 3)
    encoded = []

    def encode(text):
        encoded.append(text)
        return codes(text)

    cache = WordCache(encode)
    for _ in range(3):
        assert cache.encode("a b c b").tolist() == codes("a b c b")
    assert encoded == ["a", " b", " c"]
    for text in (" d e f g", " g", " d " + "x" * 40):
        assert cache.encode(text).tolist() == codes(text)
    assert encoded[3:] == ["", " d", " e", " f", " g", " d", " " + "x" * 40]
