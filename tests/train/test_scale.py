"""The arithmetic of costs on a cluster, on plain numbers."""

import json

import pytest

from tlcli.train.scale import COPY_BYTES, Rates, Sizes, cost_at, most_workers

RATES = Rates(
    base_s=10,
    start_s=5,
    list_per_s=1000,
    decode_per_s=500,
    frozen_per_s=100,
    probe_per_s=2000,
    trained_flops_per_s=1e9,
    bytes_per_s=1e8,
)
SIZES = Sizes(file=2000, pixels=10_000, features=4000)


def test_the_cost_is_the_sum_of_its_stages() -> None:
    cost = cost_at(10_000, RATES, SIZES, trained_flops=6e10, devices=4)
    assert cost.seconds == {"base": 10, "list": 10, "decode": 25, "frozen": 105, "head": 5, "trained": 60}
    assert cost.total_s == 215
    assert cost.device_hours == pytest.approx(215 * 4 / 3600)
    assert cost.read_bytes == 10_000 * (2 * 2000 + 10_000 + 4000)
    assert cost.written_bytes == 10_000 * (10_000 + COPY_BYTES + 4000)
    document = json.loads(json.dumps(cost.to_json()))
    assert (document["images"], document["seconds"]["total"]) == (10_000, 215)


def test_a_slow_connection_bounds_a_pass() -> None:
    fast = Rates(**{**vars(RATES), "frozen_per_s": 1e6, "decode_per_s": 1e6})
    cost = cost_at(1_000_000, fast, SIZES, trained_flops=0, devices=1)
    assert cost.seconds["frozen"] == pytest.approx(5 + 1_000_000 * 14_000 / 1e8)
    assert cost.seconds["decode"] == pytest.approx(5 + 1_000_000 * (12_000 + COPY_BYTES) / 1e8)


def test_workers_beyond_the_connection_gain_nothing() -> None:
    workers = most_workers(3, RATES, SIZES)
    per_worker = RATES.frozen_per_s / 3
    assert workers * per_worker * 14_000 <= RATES.bytes_per_s < (workers + 1) * per_worker * 14_000
