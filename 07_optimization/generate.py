"""Generate text from a checkpoint, streamed to the terminal.

python 07_optimization/generate.py --checkpoint checkpoints/small_gpt --prompt "Return the"
python 07_optimization/generate.py --checkpoint checkpoints/small_gpt          # interactive
"""

from optimization.generate_command import main

if __name__ == "__main__":
    raise SystemExit(main())
