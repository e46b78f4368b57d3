"""Train a byte-level BPE tokenizer on text of any size.

python 04_tokenizer/train_tokenizer.py --input python_docs --vocab-size 8192
python 04_tokenizer/train_tokenizer.py --input my_texts/ --vocab-size 32768 --output my.json --huggingface my_hf/
"""

from tokenizer.train_tokenizer_command import main

if __name__ == "__main__":
    raise SystemExit(main())
