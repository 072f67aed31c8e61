"""raymia from Python: the same scores as a scan, tables that evaluation and audit take, and the notebook that shows it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from PIL import Image

import raymia
from raymia.data.images import decode_image
from raymia.errors import ConfigError
from tests.conftest import good_members, image_bytes, tar_bytes
from tests.scan.test_pipeline import ATTACKS, make_job, scan

NOTEBOOK = Path(__file__).parents[1] / "docs" / "python.ipynb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven images with captions, as files and as a shard."""
    for name, content in good_members(11):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "m0.tar").write_bytes(tar_bytes(good_members(11)))
    (tmp_path / "n0.tar").write_bytes(tar_bytes(good_members(1, start=50)))
    return tmp_path


@pytest.mark.usefixtures("bare_loop")
def test_images_at_hand_get_the_scores_of_a_scan(folder: Path, tiny: Path) -> None:
    paths = sorted(folder.glob("*.jpg"))
    captions = [path.with_suffix(".txt").read_text() for path in paths]
    options = {"model": str(tiny), "attacks": ATTACKS, "resolution_px": 64, "dtype": "float32", "progress": False}
    table = raymia.score(paths, captions, batch_size=8, **options)
    _, scanned = scan(make_job(folder, tiny, "run"))
    scanned = scanned[scanned["split"] == "members"].set_index("key")
    ours = table.set_index("key")
    for name in ("loss", "loss.t=100", "pia", "random", "autoencoder"):
        assert np.abs(ours[name] - scanned[name]).max() < 1e-5 * scanned[name].std(), name
    for name in ("image_sha256", "caption", "width", "height", "jpeg_bytes", "entropy"):
        assert (ours[name] == scanned.loc[ours.index, name]).all(), name
    assert ours["reason"].isna().all()


def test_files_pictures_and_arrays_of_the_same_pixels_score_alike_under_the_same_key(folder: Path, tiny: Path) -> None:
    file = folder / "0003.jpg"
    picture = Image.open(file)
    kinds = [file, picture, np.asarray(picture)]
    options = {"model": str(tiny), "attacks": ["loss"], "resolution_px": 64, "progress": False}
    scores = [float(raymia.score([image], ["a"], keys=["k"], **options)["loss"].iloc[0]) for image in kinds]
    assert scores[0] == scores[1] == scores[2]
    assert raymia.score([file], **options)["key"].tolist() == ["0003"]


def test_an_image_that_cannot_be_read_keeps_its_row_with_a_reason(folder: Path, tiny: Path) -> None:
    (folder / "cut.jpg").write_bytes(image_bytes(1)[:400])
    images = [folder / "cut.jpg", folder / "0001.jpg", folder / "gone.jpg"]
    table = raymia.score(
        images, model=str(tiny), attacks=["loss"], resolution_px=64, member=[True, True, False], progress=False
    )
    assert table["reason"].fillna("").tolist() == ["corrupt_image", "", "unreadable_file"]
    assert table["loss"].notna().tolist() == [False, True, False]
    counts = raymia.evaluate(table).metrics.counts
    assert (counts.read, counts.scored, counts.by_reason) == (3, 1, {"corrupt_image": 1, "unreadable_file": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ["one"]}, "captions: 1 for 2 images"),
        ({"keys": ["a", "a"]}, "'a' stands for two images"),
        ({"attacks": ["los"]}, "did you mean `loss`"),
        ({"model": "./gone"}, "no such folder"),
        ({"resolution": 64}, "unknown key `replica.resolution`"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_argument(
    folder: Path, tiny: Path, changes: dict[str, object], message: str
) -> None:
    options: dict[str, object] = {"model": str(tiny), "attacks": ["loss"], "resolution_px": 64, "progress": False}
    with pytest.raises(ConfigError, match=message):
        raymia.score([folder / "0001.jpg", folder / "0002.jpg"], **{**options, **changes})  # type: ignore[arg-type]


def test_tables_are_audited_as_sets_and_refused_where_they_were_made_by_different_attacks() -> None:
    random = np.random.default_rng(0)

    def table(raised: float) -> pd.DataFrame:
        made = pd.DataFrame({"key": np.arange(80).astype(str), "caption": "a", "loss": random.normal(raised, 1, 80)})
        made.attrs["signals"] = [{"name": "loss", "attack": "loss", "access": "grey", "primary": True}]
        return made

    found = raymia.audit(table(1.5), table(0.0))
    assert found.test.p < 0.01
    assert "an indication that it was trained on" in found.statement
    with pytest.raises(ConfigError, match="differ in `signals`"):
        raymia.audit(table(1.5), table(0.0).rename(columns={"loss": "pia"}))


def test_an_open_picture_is_prepared_as_its_file_is() -> None:
    content = image_bytes(3, size=(90, 70))
    options = {"model": "testbed-tiny", "attacks": ["random"], "resolution_px": 32, "progress": False}
    array = decode_image(content, 32, 10**6).pixels
    assert len(raymia.score([array], **options)) == 1


def test_the_notebook_runs_from_top_to_bottom_and_finds_what_it_shows(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "save the notebook without its outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "an indication that it was trained on" in shown
