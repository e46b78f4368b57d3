"""Make the bigram model twice: count it in a second, then learn it by gradient descent until the two agree.

python 01_neural_networks/train_bigram.py
python 01_neural_networks/train_bigram.py --corpus path/to/text --steps 500
"""

from neural_networks.train_bigram_command import main

if __name__ == "__main__":
    raise SystemExit(main())
