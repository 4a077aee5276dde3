"""Functions on tables, for `python` steps."""

import polars as pl


def returns(prices: pl.DataFrame) -> pl.DataFrame:
    """One stock's prices with Close as its daily return; NULL on the first day."""
    return prices.sort("Date").with_columns(Close=pl.col("Close").pct_change())
