"""Ask a chat model questions with known answers, and compare it with looking up: exact match and ROUGE-L.

python 08_evaluation/answers.py --checkpoint checkpoints/small_chat
python 08_evaluation/answers.py --checkpoint checkpoints/smollm2 --few-shot 3
python 08_evaluation/answers.py --checkpoint checkpoints/mine --source mine.jsonl
"""

from evaluation.answers_command import main

if __name__ == "__main__":
    raise SystemExit(main())
