"""Measure a checkpoint on a text of your own.

python 08_evaluation/evaluate.py --text README.md
python 08_evaluation/evaluate.py --checkpoint checkpoints/small_gpt --text README.md --stride 16
"""

from evaluation.evaluate_command import main

if __name__ == "__main__":
    raise SystemExit(main())
