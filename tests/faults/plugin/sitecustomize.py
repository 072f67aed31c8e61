"""Found by every Python process of the test cluster: brings the fragile attack and the flaky file system."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

HERE = Path(__file__).parent


class _WithFragileAttack:
    """Lets `raymia.attacks` find the attacks of this folder too."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "raymia.attacks":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(HERE / "attacks"))
        return spec


sys.meta_path.insert(0, _WithFragileAttack)

if "RAYMIA_TEST_STORAGE" in os.environ:
    import fsspec

    fsspec.register_implementation("flaky", "flaky_storage.FlakyStorage", clobber=True)
