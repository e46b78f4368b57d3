"""Turn published weights into a checkpoint of this project, so that every command can use them.

python 06_finetuning/import_weights.py path/to/hugging_face_model --output checkpoints/llama
"""

from finetuning.import_weights_command import main

if __name__ == "__main__":
    raise SystemExit(main())
