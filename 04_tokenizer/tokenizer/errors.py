"""The one error of this stage."""


class TokenizerError(ValueError):
    """A text, id or file that a tokenizer cannot take, said in one line."""
