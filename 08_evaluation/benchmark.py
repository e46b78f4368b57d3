"""Ask a model the questions of a benchmark.

python 08_evaluation/benchmark.py --tasks docs_description docs_last_word
python 08_evaluation/benchmark.py --checkpoint checkpoints/small_gpt --tasks path/to/task.yaml --few-shot 3 --limit 100
python 08_evaluation/benchmark.py --tasks docs_description --against outputs/benchmark/other_model
"""

from evaluation.benchmark_command import main

if __name__ == "__main__":
    raise SystemExit(main())
