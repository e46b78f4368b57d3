"""Train a language model from a configuration file.

    python 05_training/train.py --config configs/small_gpt.yaml
    python 05_training/train.py --config configs/small_gpt.yaml --optimizer.lr 1e-3 --output_dir checkpoints/low_lr
    python 05_training/train.py --config configs/small_gpt.yaml --data.corpus path/to/text_or_folder

Run the same command again after an interruption, and it continues where it stopped.
"""

from training.train_command import main

if __name__ == "__main__":
    raise SystemExit(main())
