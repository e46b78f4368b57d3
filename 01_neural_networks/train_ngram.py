"""Count Kneser–Ney n-gram models of higher and higher order, to see how far counting goes.

python 01_neural_networks/train_ngram.py
python 01_neural_networks/train_ngram.py --corpus path/to/text --prompt "numpy."
"""

from neural_networks.train_ngram_command import main

if __name__ == "__main__":
    raise SystemExit(main())
