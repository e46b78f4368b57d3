"""Latency and throughput of a checkpoint under growing load: table, plot, JSON.

python 07_optimization/benchmark.py --checkpoint checkpoints/small_gpt
python 07_optimization/benchmark.py --concurrency 1,2,4,8,16 --precision bfloat16 --output results/load
"""

from optimization.benchmark_command import main

if __name__ == "__main__":
    raise SystemExit(main())
