"""Train the neural language model of Bengio et al. (2003) in NumPy, on bytes.

python 01_neural_networks/train_mlp.py
python 01_neural_networks/train_mlp.py --optimizer sgd --lr 0.5
python 01_neural_networks/train_mlp.py --corpus path/to/text --hidden 256 --steps 5000
"""

from neural_networks.train_mlp_command import main

if __name__ == "__main__":
    raise SystemExit(main())
