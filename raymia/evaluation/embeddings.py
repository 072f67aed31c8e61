"""CLIP embeddings as the columns of a score table hold them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from raymia.evaluation.roc import Floats
from raymia.run.columns import EMBEDDING


def embeddings(table: pd.DataFrame, name: str = EMBEDDING) -> Floats | None:
    """(n, width) CLIP embeddings of a score table's n rows, by default of the images; none where some row has none."""
    if name not in table or table[name].isna().any():
        return None
    column = table[name]
    if isinstance(column.dtype, pd.ArrowDtype):  # as the ledger gives them: one block of numbers
        numbers = pa.chunked_array(pa.array(column)).combine_chunks().flatten()
        return np.asarray(numbers, np.float64).reshape(len(column), -1)
    return np.array(column.tolist(), dtype=float)
