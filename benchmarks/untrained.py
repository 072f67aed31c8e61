"""What signals find in models that never learned: the test bed's images before models drawn at random.

    python benchmarks/untrained.py [--seeds 20] [--samples 1024] [--out untrained.csv]

Each seed draws a UNet and a text encoder, and others as the reference that scores are calibrated by; the autoencoder is kept.
The test bed's own text encoder was trained on the members' captions: in front of a random UNet it gives them away. Of every
score, raw, calibrated, adjusted or combined, the mean, the spread and the ends of its AUC over the seeds are printed, with
the share of seeds outside the 95 % floor.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from sklearn.metrics import roc_auc_score
from transformers import CLIPTextConfig, CLIPTextModel

import raymia
from raymia.bench.attacks import equal_samples
from raymia.evaluation.fitted import fit_scores
from raymia.evaluation.intervals import chance_spread
from raymia.evaluation.labelled import LabelledSamples
from raymia.run.columns import SIGNALS
from raymia.run.record import SignalRecord
from raymia.testbed import PIPELINE
from raymia.testbed.architecture import RESOLUTION_PX

BATCH = 64
FLOOR = 1.96
"""Spreads on either side of .5 between which 95 % of AUCs of no meaning lie."""
# Every attack that has new signals, as cheap as shows them all: under the null a draw more changes nothing.
ATTACKS = {
    "loss": {"timesteps": [100, 400], "draws": 1},
    "pia": {},
    "sima": {},
    "secmi": {"timesteps": [20, 50], "timestep": 50},
    "clid": {"timesteps": [200, 400], "draws": 1, "words": []},
    "memorisation": {"draws": 1},
    "rediffuse": {"variations": 1},
    "gradient_masking": {"timesteps": [100, 400]},
    "autoencoder": {},
}


def untrained(folder: Path, seed: int) -> Path:
    """The test bed's pipeline with a UNet and a text encoder drawn at random."""
    shutil.copytree(PIPELINE, folder)
    torch.manual_seed(seed)
    UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(PIPELINE / "unet")).save_pretrained(folder / "unet")
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(PIPELINE / "text_encoder"))
    text.save_pretrained(folder / "text_encoder")
    return folder


def unpacked(samples: int, folder: Path) -> tuple[list[Path], list[str], list[bool]]:
    """Image files named by key, captions and labels of as many members as non-members of the test bed."""
    chosen, member = equal_samples(samples)
    files = [folder / f"{sample.key}.jpg" for sample in chosen]
    for file, sample in zip(files, chosen, strict=True):
        file.write_bytes(sample.image or b"")
    return files, [sample.caption for sample in chosen], member.tolist()


def aucs(seed: int, samples: int, folder: Path) -> dict[str, float]:
    """AUC of every score of one untrained model."""
    images, captions, member = unpacked(samples, folder)
    models = [untrained(folder / f"{seed}-{which}", 2 * seed + which) for which in (0, 1)]
    table = raymia.score(
        images,
        captions,
        model=str(models[0]),
        attacks=ATTACKS,
        member=member,
        seed=seed,
        batch_size=BATCH,
        reference={"model": str(models[1])},
        progress=False,
        resolution_px=RESOLUTION_PX,
        dtype="float32",
    )
    signals = [SignalRecord.model_validate(signal) for signal in table.attrs[SIGNALS]]
    labelled = LabelledSamples.of_table(table, signals, seed)
    fitted = fit_scores(labelled)
    columns = {**labelled.columns, **fitted.columns}
    return {name: float(roc_auc_score(labelled.member, column)) for name, column in columns.items()}


def summary(found: pd.DataFrame, spread: float) -> pd.DataFrame:
    """A row per signal."""
    outside = ((found - 0.5).abs() > FLOOR * spread).mean()
    parts = {"mean": found.mean(), "sd": found.std(ddof=1), "lowest": found.min(), "highest": found.max(), "outside": outside}
    return pd.DataFrame(parts).round(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--out", type=Path, help="CSV of the AUCs, a row per seed; seeds that stand in it are not drawn again")
    asked = parser.parse_args()
    done = pd.read_csv(asked.out, index_col=0) if asked.out and asked.out.exists() else pd.DataFrame()
    for seed in range(len(done), asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            done = pd.concat([done, pd.DataFrame([aucs(seed, asked.samples, Path(folder))], index=[seed])])
        if asked.out:
            done.to_csv(asked.out)
        print(f"{len(done)} of {asked.seeds}", flush=True)
    spread = chance_spread(asked.samples // 2, asked.samples // 2)
    print(summary(done, spread).to_string())
    print(f"by chance: sd {spread:.4f}, floor {0.5 - FLOOR * spread:.3f} to {0.5 + FLOOR * spread:.3f}, 0.05 outside")


if __name__ == "__main__":
    main()
