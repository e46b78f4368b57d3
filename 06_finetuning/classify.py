"""The smallest fine-tuning: a head that tells which library a docstring documents.

python 06_finetuning/classify.py --base checkpoints/small_gpt
"""

from finetuning.classify_command import main

if __name__ == "__main__":
    raise SystemExit(main())
