"""BPE over plain text (`tokenizer.ggml.model` gemma4): spaces become ▁, characters are merged by rank across the whole
text, and a character outside the vocabulary becomes its UTF-8 bytes, `<0xE2>`."""

from tokenizers import Tokenizer as Engine
from tokenizers import models, normalizers

from motley.errors import FormatError
from motley.formats.bytelevel import ranked_merges
from motley.formats.pretokenizers import PreTokenizer
from motley.formats.vocabulary import PREFIX, Vocabulary

SPACE = "▁"


class PlainBpe:
    def __init__(self, vocabulary: Vocabulary, pre: PreTokenizer) -> None:
        byte_texts = [f"<0x{byte:02X}>" for byte in range(256)]
        bytes_there = {text: vocabulary.ids[text] for text in byte_texts if text in vocabulary.ids}
        unknown = None if vocabulary.unknown is None else vocabulary.tokens[vocabulary.unknown]
        if unknown is None and len(bytes_there) < 256:
            raise FormatError(f"{PREFIX}tokens needs an unknown token or all of <0x00> to <0xFF>, and has neither")
        words = vocabulary.merge_vocabulary | bytes_there
        if unknown is not None and vocabulary.unknown is not None:
            words[unknown] = vocabulary.unknown
        merges = ranked_merges(vocabulary)
        self._engine = Engine(
            models.BPE(vocab=words, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        )
        self._engine.normalizer = normalizers.Replace(" ", SPACE)
        self._engine.pre_tokenizer = pre.build()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        return ids

    @staticmethod
    def bytes_of(text: str) -> bytes:
        return text.replace(SPACE, " ").encode()
