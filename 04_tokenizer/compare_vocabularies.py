"""What a larger vocabulary gains: bytes per token by vocabulary size, as a table and a plot.

python 04_tokenizer/compare_vocabularies.py --input python_docs
"""

from tokenizer.compare_vocabularies_command import main

if __name__ == "__main__":
    raise SystemExit(main())
