"""`benchmark.py` as a command: how fast a model serves, by the number of requests at once."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from groundwork.command_line import user_path
from groundwork.files import replacing, write_json
from groundwork.threads import add_threads
from groundwork.user_errors import report_user_errors
from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest
from optimization.memory_bandwidth import bytes_read_per_token, measure_read_bandwidth
from optimization.model_loading import load_for_inference
from optimization.settings import EngineSettings
from training.checkpoints.checkpoint import newest_run
from training.placement import choose_placement
from transformer.sampling import SamplingParameters


@dataclass(frozen=True)
class LoadResult:
    """What was measured with one number of requests at once.

    Args:
        concurrency: requests at once.
        tokens_per_second: new tokens of all requests together.
        first_token_ms: median time to a request's first token, with prompts that nobody has seen.
        slowest_first_token_ms: the largest.
        token_ms: median time between two tokens of a request.
        bandwidth_share: the weights' bytes read a second, with one pass a step, divided by the memory's bandwidth; the
            limit is 1.
    """

    concurrency: int
    tokens_per_second: float
    first_token_ms: float
    slowest_first_token_ms: float
    token_ms: float
    bandwidth_share: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description="Latency and throughput of a checkpoint, by the number of requests at once.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--concurrency", default="1,2,4,8,16", help="numbers of requests at once")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens that each request makes")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
    parser.add_argument("--output", type=user_path, help="name of the files to write, without .json and .png")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    levels = _parse_levels(options.concurrency)
    path = Path(options.checkpoint) if options.checkpoint else newest_run()
    placement = choose_placement(options.device, options.precision)
    loaded = load_for_inference(path, placement.device)
    settings = EngineSettings(max_running=max(levels), prefix_sharing=False)
    engine = Engine(loaded.model, loaded.tokenizer, placement, settings)
    if options.prompt_tokens < 1 or options.prompt_tokens + options.max_tokens > engine.context_length:
        raise ValueError(
            f"--prompt-tokens {options.prompt_tokens} and --max-tokens {options.max_tokens} must fit the context of "
            f"{engine.context_length} together"
        )
    bandwidth = measure_read_bandwidth(device=placement.device)
    read = bytes_read_per_token(loaded.model, placement.precision)
    measure(engine, 1, options.prompt_tokens, 4, read / bandwidth)  # the first pass of all is slow
    results = [measure(engine, level, options.prompt_tokens, options.max_tokens, read / bandwidth) for level in levels]
    console = Console()
    console.print(
        f"{path}, {placement.describe()}, {bandwidth / 1e9:.1f} GB/s of memory, {read / 2**20:.1f} MiB a pass"
    )
    console.print(_table(results))
    if options.output is not None:
        machine = {"placement": placement.describe(), "bandwidth": bandwidth, "bytes_per_pass": read}
        _write(options.output, {"machine": machine, "results": [asdict(result) for result in results]})
        plot_path = options.output.with_suffix(".png")
        plot(results, plot_path)
        console.print(f"Written to {options.output.with_suffix('.json')} and {plot_path}", highlight=False)
    return 0


def _parse_levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise ValueError(f"--concurrency must be numbers from 1, separated by commas, got {text!r}")
    return levels


def measure(
    engine: Engine, concurrency: int, prompt_tokens: int, max_tokens: int, seconds_per_pass: float
) -> LoadResult:
    """Submit several requests at once, and wait until all are done.

    Args:
        engine: must be idle.
        concurrency: how many requests.
        prompt_tokens: random ids in each prompt.
        max_tokens: ids that each request generates; none ends early.
        seconds_per_pass: the shortest time in which the weights can be read once.
    """
    prompts = torch.randint(engine.tokenizer.vocab_size, (concurrency, prompt_tokens)).tolist()
    parameters = SamplingParameters(max_tokens=max_tokens, temperature=0.0)
    steps = engine.stats().steps
    start = time.perf_counter()
    handles = [engine.submit(GenerationRequest(prompt, parameters, end_ids=())) for prompt in prompts]
    for handle in handles:
        for _ in handle:
            pass
    seconds = time.perf_counter() - start
    stats = [handle.stats for handle in handles]
    first = [1000 * one.first_token_seconds for one in stats]
    decoding = [one.total_seconds - one.first_token_seconds for one in stats]
    return LoadResult(
        concurrency=concurrency,
        tokens_per_second=concurrency * max_tokens / seconds,
        first_token_ms=statistics.median(first),
        slowest_first_token_ms=max(first),
        token_ms=1000 * statistics.median(decoding) / max(1, max_tokens - 1),
        bandwidth_share=(engine.stats().steps - steps) * seconds_per_pass / seconds,
    )


def _table(results: list[LoadResult]) -> Table:
    table = Table("at once", "tokens/s", "first token", "slowest", "between tokens", "of the bandwidth")
    for r in results:
        table.add_row(
            str(r.concurrency),
            f"{r.tokens_per_second:.1f}",
            f"{r.first_token_ms:.1f} ms",
            f"{r.slowest_first_token_ms:.1f} ms",
            f"{r.token_ms:.2f} ms",
            f"{r.bandwidth_share:.0%}",
        )
    return table


def plot(results: list[LoadResult], path: Path) -> None:
    """Draw how much latency more throughput costs.

    Args:
        results: ordered by concurrency, smallest first.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([r.tokens_per_second for r in results], [r.token_ms for r in results], marker="o")
    for r in results:
        axes.annotate(f"{r.concurrency}", (r.tokens_per_second, r.token_ms), xytext=(6, -4), textcoords="offset points")
    axes.set_xlabel("tokens a second, all requests together")
    axes.set_ylabel("ms between two tokens of a request")
    axes.set_title("Latency and throughput, by requests at once")
    axes.set_xlim(0, 1.1 * max(r.tokens_per_second for r in results))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _write(output: Path, content: dict[str, object]) -> None:
    write_json(output.with_suffix(".json"), content)
