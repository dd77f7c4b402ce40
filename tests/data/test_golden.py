"""Fingerprints of text in scripts with spaces, as earlier versions computed them.

A run folder is gone on with only if its corpus, vocabulary and examples have the fingerprints that it was made with.
"""

from support.small_interactions import small_shop
from support.tiny_store import tiny_corpus, tiny_store

from genret_jax.data.text.vocabulary import ByteVocabulary, train_sentencepiece
from genret_jax.data.vectors import count_words
from genret_jax.storage import fingerprint

MIXED = "Énorme Straße: naïve HTTPServer's bind_port, 한국어 문장 हिन्दी भाषा Ελλάδα русский"


def test_corpora_vocabularies_and_stores_are_those_of_earlier_versions(tmp_path):
    corpus, shop = tiny_corpus(), small_shop()
    texts = [*map(corpus.document_text, range(len(corpus))), *shop.items.texts, MIXED]
    pieces = train_sentencepiece(texts, size=300, extra_ids=20)
    vocabularies = {"letters": None, "pieces": pieces, "bytes": ByteVocabulary(normalization="words", extra_ids=20)}
    found = {
        name: tiny_store(tmp_path / name, vocabulary=vocabulary).fingerprint
        for name, vocabulary in vocabularies.items()
    }
    counts = count_words(texts)
    found["words"] = fingerprint(counts.data, counts.indices, counts.indptr)
    found |= {"corpus": corpus.fingerprint, "shop": shop.fingerprint, "vocabulary": pieces.fingerprint}
    assert found == {
        "letters": "c3946de3a2e412fd",
        "pieces": "32a727e3bc587076",
        "bytes": "332ca920897838a5",
        "words": "79cf1da386589e3f",
        "corpus": "6b33ac71e374da34",
        "shop": "67593100bc7cb566",
        "vocabulary": "9bc47597a7552726",
    }
