"""See how a text is cut into tokens, in colour.

python 04_tokenizer/tokenize_text.py                                   # interactive
python 04_tokenizer/tokenize_text.py --text "Return the index." --ids
python 04_tokenizer/tokenize_text.py --file README.md --html tokens.html
python 04_tokenizer/tokenize_text.py --file README.md --statistics
"""

from tokenizer.tokenize_text_command import main

if __name__ == "__main__":
    raise SystemExit(main())
