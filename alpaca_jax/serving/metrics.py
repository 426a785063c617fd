"""What the server counts, in Prometheus' form."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The counters of one server; no label holds a text of a request."""

    def __init__(self) -> None:
        """All at zero."""
        registry = self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self.requests = Counter("alpaca_jax_requests", "Requests answered.", ["endpoint", "status"], registry=registry)
        self.tokens = Counter("alpaca_jax_tokens", "Tokens read and made.", ["model", "kind"], registry=registry)
        self.blocked = Counter(
            "alpaca_jax_blocked", "Texts that the content filter stopped.", ["stage", "reason"], registry=registry
        )
        self.cancelled = Counter("alpaca_jax_cancelled", "Answers nobody waited for any more.", registry=registry)
        self.first_token = Histogram(
            "alpaca_jax_first_token_seconds", "From request to first token.", buckets=_SECONDS, registry=registry
        )
        self.duration = Histogram(
            "alpaca_jax_answer_seconds", "From request to last token.", buckets=_SECONDS, registry=registry
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float], **labels: str) -> None:
        """Shows a value as it is whenever the metrics are read."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, meaning, [*labels], registry=self._registry)
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set_function(value)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
