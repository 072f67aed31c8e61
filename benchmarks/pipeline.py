"""A scan's images/s over those of a bare loop, and from 1 to 2 to 4 replicas; see `raymia bench pipeline`.

python benchmarks/pipeline.py [--samples 192]
"""

from __future__ import annotations

import argparse

from raymia.bench.pipeline import PipelineBench, bench_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=192, help="for each replica")
    options = parser.parse_args()
    for found in bench_pipeline(samples=options.samples):
        show(found)
    for found in bench_pipeline((0.5,), (2, 4), options.samples):
        show(found)


def show(found: PipelineBench) -> None:
    print(
        f"{found.replicas} replicas, batch of {found.batch_s} s: bare loop {found.bare_images_s:.2f} images/s, scan "
        f"{found.scan_images_s:.2f}, ratio {found.ratio:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
