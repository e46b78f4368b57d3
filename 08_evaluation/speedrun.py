"""From nothing to a chat model in one command.

python 08_evaluation/speedrun.py --config configs/speedrun/full.yaml     # about 40 minutes on 2 CPU cores
python 08_evaluation/speedrun.py --config configs/speedrun/smoke.yaml    # the same chain in about a minute
"""

from evaluation.speedrun_command import main

if __name__ == "__main__":
    raise SystemExit(main())
