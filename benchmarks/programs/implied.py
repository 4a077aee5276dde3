"""A function as users have them: NumPy, a second or two for a partition."""

import numpy as np
import numpy.typing as npt
import polars as pl


def volatility(prices: pl.DataFrame) -> pl.DataFrame:
    """Of each row the volatility at which an option for a month, struck at the low, is worth a twentieth of the close: by
    bisection in Black's formula (1976), the normal distribution by Bowling's logistic approximation (2009)."""
    close, strike = prices["Close"].to_numpy(), np.maximum(prices["Low"].to_numpy(), 0.01)
    low, high = np.full(len(close), 1e-4), np.full(len(close), 8.0)
    moneyness = np.log(np.maximum(close, 0.01) / strike)
    for _ in range(120):
        middle = (low + high) / 2
        deviation = middle * np.sqrt(1 / 12)
        above = moneyness / deviation + deviation / 2
        value = close * _normal(above) - strike * _normal(above - deviation)
        dear = value > np.maximum(close - strike, 0) + close / 20
        low, high = np.where(dear, low, middle), np.where(dear, middle, high)
    return prices.select("Date", volatility=pl.Series((low + high) / 2))


def _normal(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip((0.07056 * x * x + 1.5976) * x, -700, 700)))
