from __future__ import annotations

import subprocess
import sys

import numpy as np

from raymia.scan.decoding import _binaries


def test_decoding_needs_neither_ray_nor_a_model_library() -> None:
    code = "import sys, raymia.scan.decoding; print(sorted({'ray', 'diffusers', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_of_any_shapes_stand_in_the_table_one_behind_the_other() -> None:
    one, two = np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.arange(2, dtype=np.float32)
    other = np.arange(6, 12, dtype=np.uint8).reshape(2, 1, 3)
    assert _binaries([None, [one, other], None, [two], []]).to_pylist() == [
        None,
        one.tobytes() + other.tobytes(),
        None,
        two.tobytes(),
        b"",
    ]
    assert _binaries([None]).to_pylist() == [None]
    # What runs backwards in memory is written as it reads.
    assert _binaries([[one[:, ::-1]]]).to_pylist() == [one[:, ::-1].tobytes()]
