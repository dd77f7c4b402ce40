"""Vocabularies: SentencePiece trained here and taken from a file, and bytes."""

import io
from pathlib import Path

import pytest
import sentencepiece

from genret_jax.data.examples.shards import WordTable
from genret_jax.data.text.vocabulary import (
    UNKNOWN,
    ByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    from_model_file,
    train_sentencepiece,
)
from genret_jax.errors import InputError
from genret_jax.storage import read_json, write_json

TEXTS = [
    "The Python interpreter reads source code and compiles it to bytecode.",
    "A codec turns bytes into text; decoding errors raise UnicodeDecodeError.",
    "Sockets connect computers. getHostByName looks up the address of a computer.",
    "Über die Grenze: naïve café, 12 computers and 345 codecs.",
] * 5


@pytest.fixture(scope="module")
def trained() -> SentencePieceVocabulary:
    return train_sentencepiece(TEXTS, size=120, extra_ids=4)


def t5_model(texts: list[str], **options: object) -> bytes:
    """Train as T5's own model was: its special tokens, its normalisation."""
    model = io.BytesIO()
    defaults = {"vocab_size": 120, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, **(defaults | options)
    )
    return model.getvalue()


def test_special_tokens_are_those_of_t5(trained: SentencePieceVocabulary) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.model)
    assert [processor.pad_id(), processor.eos_id(), processor.unk_id(), processor.bos_id()] == [0, 1, 2, -1]
    assert trained.encode("ж")[-1] == 2
    assert trained.size == processor.get_piece_size() + 4


def test_training_is_deterministic_and_depends_on_the_texts(trained: SentencePieceVocabulary) -> None:
    assert train_sentencepiece(iter(TEXTS), size=120, extra_ids=4).fingerprint == trained.fingerprint
    assert train_sentencepiece(TEXTS[:3], size=120, extra_ids=4).fingerprint != trained.fingerprint
    assert train_sentencepiece(TEXTS, size=120, extra_ids=5).fingerprint != trained.fingerprint


def test_a_small_corpus_gives_fewer_pieces_than_asked_for() -> None:
    vocabulary = train_sentencepiece(["one two three"], size=8000)
    assert vocabulary.size < 60
    assert vocabulary.decode(vocabulary.encode("three two")) == "three two"


def test_training_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_sentencepiece(TEXTS, size=60)
    assert not list(tmp_path.iterdir())


def test_long_texts_are_not_skipped() -> None:
    # SentencePiece passes over lines longer than its limit without a word; "zebra" stands at the far end of one.
    vocabulary = train_sentencepiece(["word " * 30_000 + "zebra " * 500], size=60)
    assert len(vocabulary.encode("zebra")) == 1


def test_sizes_that_cannot_work_are_explained() -> None:
    with pytest.raises(InputError, match=r"no vocabulary of 5 pieces .*required_chars.*another size"):
        train_sentencepiece(TEXTS, size=5)
    with pytest.raises(InputError, match="no text to train a vocabulary on"):
        train_sentencepiece(["", "  ", "!?"])


def test_words_are_normalised_before_training(trained: SentencePieceVocabulary) -> None:
    assert trained.encode("getHostByName") == trained.encode("get host by name") == trained.encode("GET_host: by, name")
    assert trained.decode(trained.encode("The Computers!")) == "the computers"


def test_digits_and_letters_are_always_known() -> None:
    vocabulary = train_sentencepiece(["no digits here"], size=60)
    assert 2 not in vocabulary.encode("0123456789 quartz by fjord vex wimp glock")


def test_text_is_the_tokens_of_its_words(trained: SentencePieceVocabulary) -> None:
    text = "naïve codecs connect 12 unheard-of ComputerNetworks"
    by_word = [token for word in trained.words(text) for token in trained.segmentations(word, 1)[0]]
    assert trained.encode(text) == by_word
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.model)
    assert trained.encode(text) == processor.encode(" ".join(trained.words(text)))


def test_segmentations_are_distinct_ways_to_write_the_word_best_first(trained: SentencePieceVocabulary) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.model)
    found = trained.segmentations("computer", 8)
    assert 2 <= len(found) <= 8
    assert found[0] == processor.encode("computer")
    assert len({tuple(ids) for ids in found}) == len(found)
    assert {processor.decode(ids) for ids in found} == {"computer"}
    scores = [sum(processor.get_score(i) for i in ids) for ids in found]
    assert scores == sorted(scores, reverse=True)
    assert trained.segmentations("computer", 1) == found[:1]
    assert len(trained.segmentations("x" * 200, 8)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The Python interpreter reads source code.",
        "  leading,\ttabs\nand   runs of   spaces \u00a0 ",
        "ﬁne ½ Ⅷ full　width ＡＢＣ",
        "control\x0bcharacters\x1c and\x85next zero\u200bwidth",
        "a literal \u2581 space mark \u2581\u2581twice",
        "naïve café über computerscodecsbytes 🎉 日本語",
        "lone surrogate \ud800 here",
        "",
        "   ",
    ],
)
def test_without_normalisation_the_tokens_are_the_models_own(text: str) -> None:
    model = t5_model(TEXTS)
    vocabulary = SentencePieceVocabulary(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    expected = processor.encode(text.encode("utf-8", "replace").decode())
    assert vocabulary.encode(text) == expected
    assert [t for word in vocabulary.words(text) for t in vocabulary.segmentations(word, 1)[0]] == expected


def test_a_model_whose_pieces_cross_words_is_refused() -> None:
    cities = ["san francisco is far", "los angeles and san francisco", "new york is in new york state"]
    crossing = t5_model(cities * 50, split_by_whitespace=False, vocab_size=60)
    with pytest.raises(InputError, match=r"words depend on their neighbours \(piece .*normalization"):
        SentencePieceVocabulary(crossing)
    keeps_spaces = t5_model(TEXTS, remove_extra_whitespaces=False)
    with pytest.raises(InputError, match="words depend on their neighbours"):
        SentencePieceVocabulary(keeps_spaces)
    assert SentencePieceVocabulary(crossing, normalization="words").encode("San Francisco")


def test_a_model_with_other_special_tokens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llama.model"
    path.write_bytes(t5_model(TEXTS, pad_id=-1, eos_id=2, unk_id=0, bos_id=1))
    with pytest.raises(InputError, match=r"llama.model: special tokens .* expected T5's"):
        from_model_file(path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.model: cannot be read"):
        from_model_file(tmp_path / "missing.model")
    (tmp_path / "text.model").write_text("hello")
    with pytest.raises(InputError, match=r"text.model: not a SentencePiece model"):
        from_model_file(tmp_path / "text.model")


def test_a_model_without_alternatives_still_serves() -> None:
    vocabulary = SentencePieceVocabulary(t5_model(TEXTS, model_type="bpe"))
    assert vocabulary.segmentations("computer", 8) == [vocabulary.encode("computer")]


def test_sentinels_are_the_highest_tokens_downwards(trained: SentencePieceVocabulary) -> None:
    assert [trained.sentinel(i) for i in range(4)] == [trained.size - 1 - i for i in range(4)]
    tokens = [*trained.encode("codecs"), trained.sentinel(0), *trained.encode("bytes"), trained.sentinel(1), 1, 0]
    assert trained.decode(tokens) == "codecs <extra_id_0> bytes <extra_id_1>"
    with pytest.raises(InputError, match=r"sentinel 4 of .* 4; next"):
        trained.sentinel(4)


def test_bytes_are_those_of_byt5() -> None:
    vocabulary = ByteVocabulary(extra_ids=125)
    assert vocabulary.size == 384
    assert vocabulary.encode("Aé b\n") == [68, 198, 172, 35, 101, 13]
    assert vocabulary.decode([68, 198, 172, 35, 101, 13, 1, 0]) == "Aé b\n"
    assert vocabulary.words("Aé b\n") == ["Aé", " b", "\n"]


def test_bytes_of_normalised_words_have_a_space_before_each() -> None:
    vocabulary = ByteVocabulary(normalization="words")
    assert vocabulary.words("HTTPServer, b") == [" http", " server", " b"]
    assert vocabulary.decode(vocabulary.encode("HTTPServer, b")) == " http server b"


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_saved_and_loaded(kind: str, trained: SentencePieceVocabulary, tmp_path: Path) -> None:
    vocabulary: Vocabulary = trained if kind == "sentencepiece" else ByteVocabulary(normalization="words", extra_ids=7)
    vocabulary.save(tmp_path / "vocabulary")
    loaded = Vocabulary.load(tmp_path / "vocabulary")
    assert type(loaded) is type(vocabulary)
    assert (loaded.size, loaded.extra_ids, loaded.normalization) == (vocabulary.size, vocabulary.extra_ids, "words")
    assert loaded.encode("Some CamelCase") == vocabulary.encode("Some CamelCase")
    assert loaded.fingerprint == vocabulary.fingerprint
    with pytest.raises(InputError, match="already exists"):
        vocabulary.save(tmp_path / "vocabulary")


def test_a_changed_folder_is_noticed(trained: SentencePieceVocabulary, tmp_path: Path) -> None:
    trained.save(tmp_path / "vocabulary")
    (tmp_path / "vocabulary" / "sentencepiece.model").write_bytes(t5_model(TEXTS))
    with pytest.raises(InputError, match="not the one that was saved"):
        Vocabulary.load(tmp_path / "vocabulary")
    with pytest.raises(InputError, match=r"nowhere.*missing"):
        Vocabulary.load(tmp_path / "nowhere")


def test_wrong_options() -> None:
    with pytest.raises(InputError, match="normalization 'lower'"):
        ByteVocabulary(normalization="lower")
    with pytest.raises(InputError, match="extra_ids -1"):
        ByteVocabulary(extra_ids=-1)


JAPANESE = ["東京駅の地図", "京都の地図", "東京の駅"] * 20


def test_japanese_goes_to_tokens_and_back_as_bigrams(tmp_path):
    vocabulary = train_sentencepiece([*JAPANESE, "a map of Kyoto"], size=200)
    tokens = vocabulary.encode("東京の地図")
    assert vocabulary.decode(tokens) == "東京 京の の地 地図"
    assert vocabulary.encode(vocabulary.decode(tokens)) == tokens
    table = WordTable(vocabulary)
    table.numbers("東京の地図")
    assert table.words == ["東京", "京の", "の地", "地図"]
    assert UNKNOWN not in table.segmentations(8)["segment_tokens"]
    vocabulary.save(tmp_path / "saved")
    assert Vocabulary.load(tmp_path / "saved").encode("東京の地図") == tokens


def test_a_vocabulary_of_before_bigrams_treats_text_as_it_did(tmp_path):
    train_sentencepiece([*JAPANESE, "a map of Kyoto"], size=200).save(tmp_path / "saved")
    described = read_json(tmp_path / "saved" / "vocabulary.json")
    del described["bigrams"]
    write_json(tmp_path / "saved" / "vocabulary.json", described)
    old = Vocabulary.load(tmp_path / "saved")
    assert old.words("東京の地図 map") == ["東京の地図", "map"]
    old.save(tmp_path / "again")
    assert Vocabulary.load(tmp_path / "again").words("東京の地図 map") == ["東京の地図", "map"]


@pytest.mark.parametrize(
    ("text", "share"),
    [("a map of Kyoto", 0.0), ("地図", 1.0), ("map 地図の", 2 / 3), ("", 1.0), ("?!", 1.0), ("ผ", 1.0)],
)
def test_words_of_another_script_are_unknown(text, share):
    vocabulary = train_sentencepiece(["a map of Kyoto"] * 9, size=60)
    assert vocabulary.unknown_share(text) == pytest.approx(share)
    assert vocabulary.is_known(text) == (share < 1)
    assert ByteVocabulary(normalization="words").is_known(text) == (text not in ("", "?!"))


@pytest.mark.parametrize(
    ("described", "found"),
    [
        ([], "an array; expected a JSON object"),
        ({"kind": 3}, "'kind' is a number"),
        ({"kind": "bytes"}, "no field 'normalization'"),
        ({"kind": "../x", "normalization": "words", "extra_ids": 0, "fingerprint": ""}, "'../x'; expected one of"),
        ({"kind": "bytes", "normalization": "words", "extra_ids": True, "fingerprint": ""}, "'extra_ids' is a boolean"),
    ],
)
def test_a_description_of_another_shape_is_refused(described, found, tmp_path):
    write_json(tmp_path / "vocabulary.json", described)
    with pytest.raises(InputError, match=found):
        Vocabulary.load(tmp_path)
