"""The bigram twice: counted in a second, and learned by gradient descent until it agrees.

python 01_neural_networks/train_bigram.py
python 01_neural_networks/train_bigram.py --corpus path/to/text --steps 500
"""

from neural_networks.train_bigram_command import main

if __name__ == "__main__":
    raise SystemExit(main())
