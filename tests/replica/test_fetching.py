from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from raymia.errors import ConfigError
from raymia.replica.fetching import fetch
from raymia.replica.folder import find_pipeline


def test_a_pipeline_at_a_url_is_fetched_once_for_a_machine_and_again_when_it_changes(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.put(str(tiny), "/models/tiny", recursive=True)
    memory.pipe_file("/models/tiny/unet/trap.bin", b"never fetched")
    fetched: list[str] = []
    get = memory.get_file

    def counted(_: Any, path: str, *rest: Any, **named: Any) -> None:
        fetched.append(path)
        get(path, *rest, **named)

    monkeypatch.setattr(type(memory), "get_file", counted)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(fetch, ["memory://models/tiny"] * 4))
    assert len(copies) == 1
    assert len(fetched) == len(set(fetched)) > 5
    assert not any(path.endswith(".bin") for path in fetched)
    found = find_pipeline("memory://models/tiny", with_weights=True)
    assert found.fingerprint() == find_pipeline(str(tiny), with_weights=True).fingerprint()
    memory.pipe_file("/models/tiny/model_index.json", memory.cat_file("/models/tiny/model_index.json") + b" ")
    assert fetch("memory://models/tiny") not in copies
    with pytest.raises(ConfigError, match="expected a folder in diffusers' layout"):
        fetch("memory://models/none")
