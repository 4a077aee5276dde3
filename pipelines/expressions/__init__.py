"""SQL scalar expressions in DuckDB's dialect, typed against a schema and translated into Polars. Reference: docs/sql.md.

Every operand is cast to the type it is computed in, so the declared type is the type that comes out, and what cannot be
computed is refused before a row is read. What remains for the run are values: an overflow, a text that is no number.

    operator                       operands                       result
    + - *                          ints                           int64, computed in 128 bits: an overflow raises
                                   decimals, or decimal and int   decimal(38, larger scale; of * the sum of scales)
                                   float32 with float32           float32; any other mix with a float: float64
    /                              numbers                        float64; x / 0 is infinite or NaN
    // %                           ints                           int64, truncated; by zero: raises
    %                              decimals, or decimal and int   decimal(38, larger scale)
                                   numbers with a float           float64, sign of the dividend
    + -                            date and int                   date
                                   date or datetime, INTERVAL     datetime (a datetime keeps its unit and zone)
                                   datetime and duration          datetime
                                   duration and duration          duration
    -                              date and date                  int64 (days)
                                   datetime with date, datetime   duration
    ||                             a string and any scalar        string; null with null
    = <> < <= > >= IN BETWEEN      any two with a common type     boolean; NaN equals NaN and is above all numbers
    IS [NOT] DISTINCT FROM         likewise                       boolean, never null
    AND OR NOT                     boolean                        boolean
    [NOT] [I]LIKE                  string, pattern literal        boolean
    CASE COALESCE GREATEST ...     any with a common type         the common type
    CAST, ::, TRY_CAST             see `types.cast`               the type named; floats round half to even

The common type: of two different int types int64, of int and decimal decimal(38, scale), of float and another number
float64, of date and datetime datetime; of null and anything that. A string literal becomes the date, datetime or time
that it meets. Strings and numbers have none. Functions are in `functions.FUNCTIONS`. A literal is int64, float64 or string.
"""

from pipelines.expressions.bind import Expression, Frame, OnAggregate, OnWindow, parse, quote
from pipelines.expressions.operators import shift
from pipelines.expressions.types import Constant, ExpressionError, Typed, cast, unify

__all__ = [
    "Constant",
    "Expression",
    "ExpressionError",
    "Frame",
    "OnAggregate",
    "OnWindow",
    "Typed",
    "cast",
    "parse",
    "quote",
    "shift",
    "unify",
]
