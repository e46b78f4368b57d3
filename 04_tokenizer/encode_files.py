"""Encode text files into a file of ids, or into shards, on all cores.

python 04_tokenizer/encode_files.py --tokenizer workspace/tokenizers/my.json --input my_texts/ --output train.bin
"""

from tokenizer.encode_files_command import main

if __name__ == "__main__":
    raise SystemExit(main())
