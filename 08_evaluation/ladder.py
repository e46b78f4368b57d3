"""Train or load everything from byte counts to the best recipe on one text, and draw the table.

python 08_evaluation/ladder.py --quick
python 08_evaluation/ladder.py
python 08_evaluation/ladder.py --also "after SFT=checkpoints/sft"
"""

from evaluation.ladder_command import main

if __name__ == "__main__":
    raise SystemExit(main())
