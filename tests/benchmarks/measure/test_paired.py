from benchmarks.measure.paired import Ratio


def test_a_ratio_lies_between_order_statistics() -> None:
    few = Ratio.of([1.0, 4.0, 3.0], [1.0, 2.0, 1.0])
    assert (few.median, few.interval) == (2.0, [1.0, 3.0])
    # Of 8 tosses fewer than 2 heads: 9 in 256, twice that is 7%; fewer than 3 are too likely.
    eight = Ratio.of([float(i) for i in range(1, 9)], [1.0] * 8)
    assert (eight.median, eight.interval) == (4.5, [2.0, 7.0])
