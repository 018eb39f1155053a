"""An item that crashes, hangs or wants all memory costs itself alone, and results keep an order."""

import os
import time

import numpy as np

from data_builder.parallel import worker
from data_builder.parallel.processes import InOrder, Lost, as_completed


def square_or_fail(item):
    """Squares its item; dies at 3, hangs at 4."""
    if item == 3:
        os._exit(7)
    if item == 4:
        time.sleep(1000)
    return item * item


def seconds(item):
    return 1.0 if item == 4 else 30.0


def test_an_item_that_kills_or_hangs_its_worker_costs_only_itself():
    results = dict(as_completed(range(8), square_or_fail, 2, seconds))
    assert {item for item in results if isinstance(results[item], Lost)} == {3, 4}
    assert (results[3].cause, results[4].cause) == ("crashed", "hung")
    assert all(results[item] == item * item for item in (0, 1, 2, 5, 6, 7))


def test_results_come_in_the_order_of_the_items_past_a_crash():
    results = InOrder(range(6, -1, -2), square_or_fail, 2, seconds)
    pairs = list(results)
    results.close()
    assert [item for item, _ in pairs] == [6, 4, 2, 0]
    assert [result for item, result in pairs if item != 4] == [36, 4, 0]
    assert isinstance(pairs[1][1], Lost)


def allocate(item):
    """Takes more memory than an item may, where its item is 1."""
    try:
        np.empty(worker.MEMORY // 6 if item else 9)
    except MemoryError:
        return "MemoryError"
    return "allocated"


def test_an_item_that_wants_all_memory_does_not_get_it():
    expected = {0: "allocated", 1: "MemoryError"}
    assert dict(as_completed([0, 1], allocate, 1, lambda _: 60.0)) == expected
