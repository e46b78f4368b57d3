"""How well compressors and counting models do on a corpus: the figures that a neural network has to beat.

python 01_neural_networks/baselines.py
python 01_neural_networks/baselines.py --corpus path/to/text_or_folder
"""

from neural_networks.baselines_command import main

if __name__ == "__main__":
    raise SystemExit(main())
