"""A WordPiece vocabulary trained on texts, the same in every process that trains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(texts: Callable[[], Iterable[str]], size: int) -> list[str]:
    """Return a lower-case WordPiece vocabulary, the id of a token being its place.

    Args:
        texts: called twice, each time for all texts.
        size: tokens wanted; there are fewer where the texts have no more, and more where `size`
            does not even hold the letters.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    letters: Counter[str] = Counter()
    for text in texts():
        letters.update(normalizer.normalize_str(text))
    ranked = sorted(letters, key=lambda letter: (-letters[letter], letter))
    # Rare letters would crowd the words out of a small vocabulary.
    limit = max(26, min(1000, size // 8))
    alphabet = [letter for letter in ranked if not letter.isspace()][:limit]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        # The trainer numbers continuing letters in the order of a randomised hash map, and breaks
        # ties between merges by those numbers: named here, they are numbered here.
        special_tokens=[*SPECIAL, *sorted(f"##{letter}" for letter in alphabet)],
    )
    tokenizer.train_from_iterator(texts(), trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda token: ids[token])
