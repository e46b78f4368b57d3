"""Write one self-contained HTML page on a model: figures, losses, failures, samples, embeddings, attention.

python 08_evaluation/report.py
python 08_evaluation/report.py --checkpoint checkpoints/small_gpt --documents 500 --samples 20
"""

from evaluation.report_command import main

if __name__ == "__main__":
    raise SystemExit(main())
