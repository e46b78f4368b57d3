"""Draw what a trained model attends to: a picture, a page to explore, and text.

python 08_evaluation/visualize_attention.py --prompt "Return the number of items in the list."
python 08_evaluation/visualize_attention.py --checkpoint checkpoints/small_gpt --prompt "a b a b a" --text
"""

from evaluation.visualize_attention_command import main

if __name__ == "__main__":
    raise SystemExit(main())
