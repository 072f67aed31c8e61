"""Images a second of a service, by how many calls are under way at a time.

    python benchmarks/services.py [--seconds 0.5] [--muse URL]

In front of a server of this process that takes a given time for every image, whatever else it is asked meanwhile, as a hosted
service does; and, where one is given, of museq over the test bed, which computes one image after the other (`docs/services.md`
says how it is started). Each number of calls asks for other images, so that none comes from what is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from raymia.services.openai import OpenAI
from raymia.services.protocol import Queries, Surroundings
from tests.services.faulty import serving

CALLS = (1, 2, 4, 8, 16)
IMAGES = 48


def rate(url: str, in_flight: int, first_seed: int) -> float:
    """Images a second."""
    options = {"url": url, "key_env": None, "extensions": "muse", "resolution_px": 64, "in_flight": in_flight}
    box = OpenAI.model_validate({"service": "openai", **options}).open(None, Surroundings())
    keys = [f"k{number}" for number in range(IMAGES)]
    seeds = range(first_seed, first_seed + IMAGES)
    queries = Queries(keys, 0, [f"a picture of {key}" for key in keys], seeds, 64, 64, 10, 7.5)
    start = time.perf_counter()
    box.answer(queries)
    return IMAGES / (time.perf_counter() - start)


def show(what: str, url: str) -> None:
    """A row of rates, and of their ratios to that of one call after the other."""
    rates = [rate(url, calls, 1000 * calls) for calls in CALLS]
    print(what)
    for calls, images_s in zip(CALLS, rates, strict=True):
        print(f"  {calls:>3} at a time: {images_s:7.2f} images/s, {images_s / rates[0]:6.2f} times one after the other")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="that the server of this process takes for an image")
    parser.add_argument("--muse", help="address of a museq, such as http://127.0.0.1:8123/v1")
    options = parser.parse_args()
    with serving(seconds=options.seconds) as server:
        show(f"a server that takes {options.seconds:g} s for each image", server.url)
    if options.muse:
        show("museq over the test bed, which computes one image after the other", options.muse)


if __name__ == "__main__":
    main()
