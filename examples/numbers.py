from __future__ import annotations

from decimal import Decimal
from typing import Any


def factorial(n: int) -> dict[str, Any]:
    """n! as its decimal digits, which no integer type holds from 21! on, and how many they are.

    Written as one would at first: it holds Python's lock all the time (so does math.factorial, 30 times faster).
    """
    product = 1
    for factor in range(2, n + 1):
        product *= factor
    value = str(
        Decimal(product)
    )  # str(product) refuses more than 4300 digits, and takes a time that grows with their square
    return {"value": value, "digits": len(value)}


def square(n: int) -> int:
    return n * n


def power(n: int, exponent: int) -> int:
    return int(n**exponent)
