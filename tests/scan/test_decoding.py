from __future__ import annotations

import subprocess
import sys


def test_decoding_needs_neither_ray_nor_a_model_library() -> None:
    code = "import sys, raymia.scan.decoding; print(sorted({'ray', 'diffusers', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
