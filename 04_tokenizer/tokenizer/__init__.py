"""Stage 4: text to ids and back."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from tokenizer.bpe_tokenizer import BPETokenizer as BPETokenizer
    from tokenizer.byte_tokenizer import ByteTokenizer as ByteTokenizer
    from tokenizer.character_tokenizer import CharacterTokenizer as CharacterTokenizer
    from tokenizer.interface import END_OF_TEXT as END_OF_TEXT, Tokenizer as Tokenizer, TokenizerError as TokenizerError
    from tokenizer.loading import load_tokenizer as load_tokenizer
    from tokenizer.tokenizer_trainer import train_bpe as train_bpe
    from tokenizer.wordpiece_tokenizer import WordPieceTokenizer as WordPieceTokenizer
    from tokenizer.wordpiece_trainer import train_wordpiece as train_wordpiece
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "bpe_tokenizer": ("BPETokenizer",),
            "byte_tokenizer": ("ByteTokenizer",),
            "character_tokenizer": ("CharacterTokenizer",),
            "interface": ("END_OF_TEXT", "Tokenizer", "TokenizerError"),
            "loading": ("load_tokenizer",),
            "tokenizer_trainer": ("train_bpe",),
            "wordpiece_tokenizer": ("WordPieceTokenizer",),
            "wordpiece_trainer": ("train_wordpiece",),
        },
    )
