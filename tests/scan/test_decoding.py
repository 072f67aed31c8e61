from __future__ import annotations

import subprocess
import sys


def test_decoding_processes_load_neither_torch_nor_ray() -> None:
    code = "import sys, raymia.scan.decoding; print(sorted({'torch', 'ray', 'diffusers', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
