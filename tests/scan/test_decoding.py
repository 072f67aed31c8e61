from __future__ import annotations

import subprocess
import sys

import numpy as np

from raymia.scan.decoding import _binaries


def test_decoding_needs_neither_ray_nor_a_model_library() -> None:
    code = "import sys, raymia.scan.decoding; print(sorted({'ray', 'diffusers', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pixels_stand_in_the_table_as_they_were_decoded_and_are_not_copied() -> None:
    one, two = np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.arange(2, dtype=np.float32)
    alone = _binaries([one])
    assert alone.buffers()[2].address == one.ctypes.data
    assert _binaries([None, one, None, two]).to_pylist() == [None, one.tobytes(), None, two.tobytes()]
    assert _binaries([None]).to_pylist() == [None]
    assert _binaries([one[:0]]).to_pylist() == [b""]
