"""Plots of metrics, as SVG by Matplotlib."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

_LONGEST = 32
_BLUE, _GREY, _RED = "#0969da", "#818b98", "#cf222e"


def drawn(name: str, data: Any) -> bytes:
    """The plot of that name, as the bytes of an SVG file: the same for the same data."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "svg.hashsalt": name,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.parse_math": False,  # labels are the data's: a $ in one is a $
        }
    ):
        from matplotlib.figure import Figure

        tall = 4.2 if name != "importance" else max(2.2, 0.28 * min(len(data), 25) + 1)
        figure = Figure(figsize=(5.2, tall), layout="constrained")
        axes = figure.add_subplot()
        _PLOTS[name](axes, data)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()


def _label(text: str) -> str:
    """In one line that leaves room for the plot, without characters that an SVG file cannot have."""
    text = "".join(each if each.isprintable() else " " for each in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 11]}…{text[-10:]}"


def _confusion(axes: Any, data: Any) -> None:
    counts, names = data[0], [_label(each) for each in data[1]]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(names)):
        for j in range(len(names)):
            if len(names) <= 12:
                text = f"{counts[i, j]:,}\n{share[i, j]:.0%}"
                axes.text(j, i, text, ha="center", va="center", color="white" if share[i, j] > 0.5 else "black")
    axes.set(
        xticks=range(len(names)),
        yticks=range(len(names)),
        xticklabels=names,
        yticklabels=names,
        xlabel="predicted",
        ylabel="true",
        title="Confusion matrix, shares of each true class",
    )
    axes.spines[:].set_visible(False)


def _roc(axes: Any, data: Any) -> None:
    false, true, area = data
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="chance")
    axes.plot(false, true, color=_BLUE, label=f"model, area {area:.4f}")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        title="ROC",
        xlim=(0, 1),
        ylim=(0, 1.01),
        aspect="equal",
    )
    axes.legend(loc="lower right", frameon=False)


def _precision_recall(axes: Any, data: Any) -> None:
    recall, precision, base, area = data
    axes.axhline(base, color=_GREY, linestyle="--", linewidth=1, label=f"chance, {base:.3f}")
    axes.plot(recall, precision, color=_BLUE, label=f"model, average {area:.4f}")
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="best", frameon=False)


def _residuals(axes: Any, data: Any) -> None:
    predicted, residual = data
    axes.axhline(0, color=_RED, linewidth=1)
    axes.scatter(predicted, residual, s=8, alpha=0.4, color=_BLUE, linewidths=0)
    axes.set(xlabel="predicted", ylabel="true less predicted", title=f"Residuals of {len(predicted):,} rows")


def _importance(axes: Any, data: Any) -> None:
    found = sorted(data.items(), key=lambda pair: pair[1])[-25:]
    axes.barh(range(len(found)), [value for _, value in found], color=_BLUE)
    axes.set(
        yticks=range(len(found)),
        yticklabels=[_label(name) for name, _ in found],
        xlabel="size of the coefficient, or importance",
        title="Features" + (f": the first 25 of {len(data)}" if len(data) > 25 else ""),
    )


_PLOTS = {
    "confusion": _confusion,
    "roc": _roc,
    "precision_recall": _precision_recall,
    "residuals": _residuals,
    "importance": _importance,
}
