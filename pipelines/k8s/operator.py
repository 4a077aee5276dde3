"""Loaded by the operator's pod beside dask-kubernetes' controller: how it waits."""

from __future__ import annotations

from typing import Any

import kopf


@kopf.on.startup()
def quick(settings: kopf.OperatorSettings, **_: Any) -> None:
    """A cluster that is deleted while its idle check is at work would be looked at again after a minute only."""
    settings.background.cancellation_polling = 1
