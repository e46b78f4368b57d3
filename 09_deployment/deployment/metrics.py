"""The metrics for Prometheus. They have vLLM's names, so that dashboards made for vLLM work here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployment.served_model import ServedModel
from optimization.engine.events import GenerationStats

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class EngineCollector(Collector):
    """Reads the engines when Prometheus asks. So nothing has to be kept up to date between two requests."""

    def __init__(self, models: Mapping[str, ServedModel]):
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        gauges = {
            "vllm:num_requests_running": "Requests being computed",
            "vllm:num_requests_waiting": "Requests in the queue",
            "vllm:kv_cache_usage_perc": "Share of the cache's blocks in use, 0 to 1",
        }
        counters = {
            "vllm:prompt_tokens": "Tokens of prompts taken in",
            "vllm:generation_tokens": "Tokens generated",
            "vllm:num_preemptions": "How often a request lost its blocks to another",
            "vllm:prefix_cache_queries": "Prompt tokens looked up among the shared prefixes",
            "vllm:prefix_cache_hits": "Prompt tokens found there",
        }
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        families |= {name: GaugeMetricFamily(name, text, labels=["model_name"]) for name, text in gauges.items()}
        families |= {name: CounterMetricFamily(name, text, labels=["model_name"]) for name, text in counters.items()}
        for name, model in self._models.items():
            stats = model.engine.stats()
            values = (
                stats.running,
                stats.waiting,
                stats.used_blocks / stats.total_blocks,
                stats.prompt_tokens,
                stats.generated_tokens,
                stats.preemptions,
                stats.prompt_tokens,
                stats.cached_tokens,
            )
            for family, value in zip(families.values(), values, strict=True):
                family.add_metric([name], value)
        return families.values()

    def describe(self) -> Iterator[Metric]:
        """No metrics: only `collect` reads the engines."""
        return iter(())


class Metrics:
    """Histograms and counters of finished work.

    Args:
        models: the models by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]):
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(models))

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"vllm:{name}_seconds", text, ["model_name"], buckets=SECONDS, registry=self.registry)

        first_token = seconds("time_to_first_token", "From arrival to the first token")
        inter_token = seconds("inter_token_latency", "From one token to the next")
        end_to_end = seconds("e2e_request_latency", "From arrival to the last token")
        queue = seconds("request_queue_time", "From arrival to the first computation")
        # Looked up once, because finding a labelled child by name costs more than an observation.
        self.first_token = {name: first_token.labels(name) for name in models}
        self.inter_token = {name: inter_token.labels(name) for name in models}
        self._end_to_end = {name: end_to_end.labels(name) for name in models}
        self._queue = {name: queue.labels(name) for name in models}
        self._success = Counter(
            "vllm:request_success", "Finished requests", ["model_name", "finished_reason"], registry=self.registry
        )
        self._http = Counter(
            "nullm_http_requests", "Answers by route and status", ["route", "status"], registry=self.registry
        )

    def finished(self, model_name: str, stats: GenerationStats) -> None:
        """Count a request of the engine that has ended."""
        reason = {"cancelled": "abort"}.get(stats.finish_reason or "", stats.finish_reason or "error")
        self._success.labels(model_name, reason).inc()
        self._end_to_end[model_name].observe(stats.total_seconds)
        if stats.generated_tokens:
            self._queue[model_name].observe(stats.queue_seconds)

    def answered(self, route: str, status: int) -> None:
        """Count an HTTP answer."""
        self._http.labels(route, status).inc()
