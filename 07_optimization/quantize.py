"""Write a quantized copy of a checkpoint, and say what it costs in quality.

python 07_optimization/quantize.py --checkpoint checkpoints/small_gpt --method int8
python 07_optimization/quantize.py --method gptq --text my_text.txt --output checkpoints/small_gpt_4bit
"""

from optimization.quantize_command import main

if __name__ == "__main__":
    raise SystemExit(main())
