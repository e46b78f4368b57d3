"""Fine-tune a model: instruction tuning, preferences, rewards; all weights or LoRA.

python 06_finetuning/finetune.py --config configs/sft.yaml
python 06_finetuning/finetune.py --base path/to/hugging_face_model --data.source mine.jsonl --lora.rank 16
python 06_finetuning/finetune.py --help
"""

from finetuning.finetune_command import main

if __name__ == "__main__":
    raise SystemExit(main())
