"""Shapes of many aspects that models were trained on, by diffusers' own tables."""

from __future__ import annotations

import importlib

from raymia.data.shapes import Shapes

TABLES = {
    256: "pixart_alpha.pipeline_pixart_sigma",
    512: "pixart_alpha.pipeline_pixart_alpha",
    1024: "pixart_alpha.pipeline_pixart_alpha",
    2048: "pixart_alpha.pipeline_pixart_sigma",
    4096: "sana.pipeline_sana",
}
"""The pipeline that has the table of a resolution."""


def aspects(resolution_px: int) -> Shapes | None:
    """The shapes of a resolution's table, the square first; none where there is no table."""
    if resolution_px not in TABLES:
        return None
    module = importlib.import_module(f"diffusers.pipelines.{TABLES[resolution_px]}")
    table: dict[str, list[float]] = getattr(module, f"ASPECT_RATIO_{resolution_px}_BIN")
    sizes = [(int(height), int(width)) for height, width in table.values()]
    return Shapes(tuple(dict.fromkeys([(resolution_px, resolution_px), *sizes])))
