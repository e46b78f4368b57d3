"""Fit a scaling law to models that are trained here, in about ten minutes of two cores.

python 08_evaluation/scaling.py
"""

from evaluation.scaling_command import main

if __name__ == "__main__":
    raise SystemExit(main())
