"""The metrics are in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from mv_lightning.serving.monitoring import Monitoring


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Values by the name of the metric and the values of its labels."""
    values = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            values[(sample.name, *sample.labels.values())] = sample.value
    return values


def test_what_is_counted() -> None:
    monitoring = Monitoring('quoted "name"@0123')
    monitoring.watch_waiting(lambda: 5)
    monitoring.requests.labels("/v1/score", "200").inc()
    monitoring.batch_rows.observe(3)
    values = samples(monitoring.text())
    assert values["mv_verifier_info", 'quoted "name"@0123'] == 1
    assert values["mv_requests_total", "/v1/score", "200"] == 1
    assert values["mv_waiting_rows",] == 5
    assert values["mv_batch_rows_bucket", "2.0"] == 0
    assert values["mv_batch_rows_bucket", "4.0"] == values["mv_batch_rows_count",] == 1


def test_servers_count_apart() -> None:
    one, other = Monitoring("one@1"), Monitoring("other@1")
    one.rows.inc(2)
    assert samples(one.text())["mv_rows_total",] == 2
    assert samples(other.text())["mv_rows_total",] == 0
