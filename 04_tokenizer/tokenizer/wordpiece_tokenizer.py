"""stub"""
from tokenizer.character_tokenizer import CharacterTokenizer as WordPieceTokenizer
