"""The API of web UIs: what is sent, that as many steps are made as are asked for, and that nothing else is taken for it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image
from torch import Tensor

from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.scan.service import ask_first
from raymia.services import calls
from raymia.services.a1111 import A1111, to_ask_k_diffusion
from raymia.services.hosted import Asker, pixels_of
from raymia.services.protocol import Queries, ServiceError, ServiceStoppedError, Surroundings
from raymia.services.strength import NEAR
from tests.skips import VARIABLE

KEY = "someone:planted secret/+="
RECORDED = Path(__file__).parent / "recorded"
PIPELINE = Path(__file__).parents[2] / "raymia" / "testbed" / "assets" / "pipeline"
XINFERENCE = os.environ.get("RAYMIA_XINFERENCE")
"""Python that has xinference."""

Answer = tuple[int, bytes]
"""Status and content."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        status, content = self.server.answer(self.path, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers as it is told, and keeps what it was asked: path, headers and body."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(answer: Callable[[str, dict[str, Any]], Answer]) -> Iterator[Server]:
    with Server(answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)


def picture(body: dict[str, Any]) -> str:
    text = json.dumps([body["prompt"], body["seed"], body.get("init_images")])
    numbers = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
    file = io.BytesIO()
    Image.fromarray(numbers.integers(0, 256, (body["height"], body["width"], 3), dtype=np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def web_ui(**other: Any) -> Callable[[str, dict[str, Any]], Answer]:
    """AUTOMATIC1111's web UI as `modules/processing.py` has it in `Processed.js`; `other` is what it does of its own."""

    def answer(path: str, body: dict[str, Any]) -> Answer:
        info = {
            "prompt": body["prompt"],
            "seed": body["seed"],
            "all_seeds": [body["seed"]],
            "subseed": 1,
            "width": body["width"],
            "height": body["height"],
            "sampler_name": body["sampler_name"],
            "cfg_scale": body.get("cfg_scale", 7.0),
            "steps": body.get("steps", 50),
            "batch_size": 1,
            "sd_model_name": "v1-5",
            "sd_model_hash": "6ce0161689",
            "sd_vae_name": None,
            "denoising_strength": body.get("denoising_strength"),
            "extra_generation_params": {"Schedule type": body["scheduler"]},
            "version": "v1.10.1",
        }
        said = {"images": [picture(body)], "parameters": {**body, "init_images": None}, "info": json.dumps({**info, **other})}
        return 200, json.dumps(said).encode()

    return answer


def service(url: str, **options: Any) -> A1111:
    return A1111.model_validate({"service": "a1111", "url": url, "resolution_px": 64, "attempts": 2, **options})


def opened(server: Server, run: Path | None = None, **options: Any) -> Asker:
    asker = service(server.url, **options).open(None, Surroundings(None if run is None else str(run)))
    assert isinstance(asker, Asker)
    return asker


def example() -> Tensor:
    waves = torch.linspace(0.0, 12.0, 64).sin()
    return (waves[:, None] * waves[None, :])[None].repeat(3, 1, 1) * torch.tensor([0.9, 0.6, 0.3])[:, None, None]


def of_text(prompt: str = "a blue house", seed: int = 2**40 + 2**31 + 5) -> Queries:
    return Queries(["k"], 0, [prompt], [seed], 64, 64, 10, 7.5)


def of_image(steps: int | None = 10, strength: float = 0.3) -> Queries:
    return Queries(["k"], 0, ["a blue house"], [7], 64, 64, steps, 1.0, example()[None], strength)


def test_an_image_from_text_is_asked_for_with_all_that_it_depends_on_and_nothing_that_changes_it() -> None:
    with serving(web_ui()) as server:
        asker = opened(server)
        found = asker.answer(of_text())
        ((path, headers, body),) = server.asked
    assert path == "/sdapi/v1/txt2img"
    assert "Authorization" not in headers
    assert body == {
        "prompt": "a blue house",
        "negative_prompt": "",
        "seed": 2**31 + 5,
        "subseed_strength": 0.0,
        "width": 64,
        "height": 64,
        "steps": 10,
        "cfg_scale": 7.5,
        "sampler_name": "Euler",
        "scheduler": "Uniform",
        "batch_size": 1,
        "n_iter": 1,
        "override_settings": {"img2img_fix_steps": False, "img2img_color_correction": False},
        "override_settings_restore_afterwards": True,
        "restore_faces": False,
        "tiling": False,
        "send_images": True,
        "save_images": False,
        "enable_hr": False,
    }
    assert np.array_equal(pixels_of(found[0]), pixels_in(picture(body)))


def test_an_image_from_an_image_is_sent_as_it_is_with_the_numbers_that_make_the_steps() -> None:
    with serving(web_ui()) as server:
        asker = opened(server, sampler="DPM++ 2M")
        asker.answer(of_image())
        ((path, _, body),) = server.asked
    assert path == "/sdapi/v1/img2img"
    assert (body["steps"], body["cfg_scale"], body["resize_mode"], body["sampler_name"]) == (31, 1.0, 0, "DPM++ 2M")
    assert 9 / 31 < body["denoising_strength"] < 10 / 31
    sent = pixels_in(body["init_images"][0])
    assert np.array_equal(sent, pixels_of(example()))


def web_ui_visits(steps: int, strength: float) -> list[float]:
    """Timesteps of image-to-image: `setup_img2img_steps`, `DiscreteSchedule.get_sigmas` and `sample_img2img` of the web UI."""
    t_enc = int(min(strength, 0.999) * steps)
    timesteps = np.linspace(999.0, 0.0, steps)
    return [float(t) for t in timesteps[steps - t_enc - 1 :]]


@pytest.mark.parametrize("t", [20, 50, 100, 200, 300, 400, 700, 900, 1000])
@pytest.mark.parametrize("steps", [2, 3, 5, 10, 25])
def test_a_web_ui_makes_as_many_steps_from_the_level(steps: int, t: int) -> None:
    try:
        asked = to_ask_k_diffusion(steps, t / 1000)
    except ConfigError:
        firsts = [999 * (steps - 1) / (number - 1) for number in range(steps, 1001)]
        assert min(abs(first - t) for first in firsts) > NEAR * t, "no number of steps begins near enough"
        return
    visited = web_ui_visits(asked.steps, asked.strength)
    assert (len(visited), round(visited[0])) == (steps, asked.first)
    assert visited[0] == pytest.approx(t, rel=NEAR)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("t", [50, 100, 200, 300, 400, 700, 900])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_xinference_makes_as_many_steps_from_the_level(steps: int, t: int) -> None:
    subject = service("http://127.0.0.1", dialect="xinference", model="m")
    (query,) = of_image(steps, t / 1000)
    try:
        noise = subject._noise(query)
    except ConfigError:
        firsts = [round(1000 * steps / number) - 1 for number in range(steps + 1, 1001)]
        assert min(abs(first - t) for first in firsts) > NEAR * t, "no number of steps begins near enough"
        return
    number = int(np.ceil(noise["steps"] / noise["denoising_strength"]))
    pipeline = StableDiffusionImg2ImgPipeline.__new__(StableDiffusionImg2ImgPipeline)
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing", steps_offset=1)
    scheduler.set_timesteps(number)
    object.__setattr__(pipeline, "scheduler", scheduler)
    timesteps, made = pipeline.get_timesteps(number, noise["denoising_strength"], "cpu")
    assert made == len(timesteps) == steps
    assert float(timesteps[0]) == pytest.approx(t, rel=NEAR)


def test_levels_that_no_number_of_steps_begins_at_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"timestep 300 in 1 steps: .* no nearer than timestep 0; ask for more steps"):
        service("http://127.0.0.1").check(list(of_image(1)))
    with pytest.raises(ConfigError, match="steps: null"):
        service("http://127.0.0.1").check(list(of_image(None)))
    service("http://127.0.0.1").check([*of_text(), *of_image()])


def test_a_key_is_sent_as_user_and_password_and_stands_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_UI_KEY", KEY)
    with serving(web_ui()) as server:
        asker = opened(server, tmp_path, key_env="WEB_UI_KEY")
        asker.answer(of_text())
        ((path, headers, body),) = server.asked
        assert headers["Authorization"] == f"Basic {base64.b64encode(KEY.encode()).decode()}"
        assert KEY not in path + json.dumps(body)
        server.answer = lambda path, body: (401, json.dumps({"detail": f"Incorrect username or password: {KEY}"}).encode())
        with pytest.raises(ServiceStoppedError, match="the key is not accepted") as stopped:
            asker.answer(of_text(seed=3))
        server.answer = lambda path, body: (500, json.dumps({"errors": base64.b64encode(KEY.encode()).decode()}).encode())
        with pytest.raises(ServiceError, match="500") as failed:
            opened(server, tmp_path, key_env="WEB_UI_KEY").answer(of_text(seed=4))
        kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        written = service(server.url, key_env="WEB_UI_KEY").model_dump_json() + str(stopped.value) + str(failed.value)
    for form in (KEY, base64.b64encode(KEY.encode()).decode(), "planted secret"):
        assert form not in written
        assert form.encode() not in kept


def test_which_checkpoint_made_an_image_is_kept_with_it(tmp_path: Path) -> None:
    with serving(web_ui()) as server:
        asker = opened(server, tmp_path, model="sd/v1-5.safetensors [6ce0161689]")
        asker.answer(of_text())
        ((_, _, body),) = server.asked
        assert body["override_settings"]["sd_model_checkpoint"] == "sd/v1-5.safetensors [6ce0161689]"
        (record,) = (tmp_path / "answers" / "asked").rglob("*.json")
        headers = json.loads(record.read_text())["headers"]
    assert (headers["sd_model_name"], headers["sd_model_hash"], headers["version"]) == ("v1-5", "6ce0161689", "v1.10.1")


@pytest.mark.parametrize("model", ["v1-5", "v1-5.safetensors", "6ce0161689", "folder\\v1-5.ckpt [6ce0161689]"])
def test_a_checkpoint_may_be_named_as_the_web_ui_names_it(model: str) -> None:
    with serving(web_ui()) as server:
        asker = opened(server, model=model)
        asker.answer(of_text())


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"seed": 8}, "seed 8"),
        ({"seed": None}, "of which seed is not said"),
        ({"steps": 40}, "steps 40, asked for 31"),
        ({"cfg_scale": 7.0}, "cfg_scale 7.0"),
        ({"denoising_strength": 0.75}, "denoising_strength 0.75"),
        ({"sampler_name": "Euler a"}, "Euler a, asked for Euler"),
        ({"extra_generation_params": {"Schedule type": "Karras"}}, "Karras, asked for Uniform"),
        ({"extra_generation_params": {"Noise multiplier": 0.5}}, "by its settings: Noise multiplier 0.5"),
        ({"sd_model_name": "dreams", "sd_model_hash": "0123456789"}, r"by checkpoint dreams \[0123456789\], asked for v1-5"),
    ],
)
def test_an_image_that_was_made_in_another_way_is_no_image_and_is_not_kept(
    tmp_path: Path, other: dict[str, Any], why: str
) -> None:
    with serving(web_ui(**other)) as server:
        asker = opened(server, tmp_path, model="v1-5")
        with pytest.raises(ServiceError, match=f"service_failed: the image was not made as it was asked for: .*{why}"):
            asker.answer(of_image())
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def weighed(text: str) -> list[tuple[str, bool]]:
    """Words and whether they are weighed, as far as brackets say so: `parse_prompt_attention` of the web UI in short."""
    depth, found = 0, []
    for part in re.findall(r"\\.|[^\\]", text):
        if part in "([":
            depth += 1
        elif part in ")]":
            depth -= 1
        else:
            found.append((part[-1], depth != 0))
    return found


def test_brackets_of_a_caption_are_words_and_orders_in_it_are_refused_without_asking() -> None:
    caption = r"a (very [old:1.2]) house \ barn: red"
    with serving(web_ui()) as server:
        asker = opened(server)
        asker.answer(of_text(caption))
        assert weighed(server.asked[0][2]["prompt"]) == [(letter, False) for letter in caption]
        for order in ("a cat AND a dog", "a cat BREAK a dog", "a <lora:cat:1> sat", "chapter: 12"):
            with pytest.raises(ServiceError, match="prompt_changed: not asked"):
                asker.answer(of_text(order))
        asker.answer(of_text("sand and breakfast, 12 < 13: noon"))
        assert len(server.asked) == 2
        server.answer = web_ui(prompt="a cat")
        with pytest.raises(ServiceError, match="prompt_changed: made under another prompt: a cat"):
            asker.answer(of_text("a cat # and a dog"))


def test_a_sampler_that_the_server_does_not_have_ends_the_scan_in_one_line() -> None:
    said = {"error": "HTTPException", "detail": "Sampler not found", "body": "", "errors": ""}
    with (
        serving(lambda path, body: (404, json.dumps(said).encode())) as server,
        pytest.raises(ServiceStoppedError, match=r"status 404: Sampler not found.*correct `replica`"),
    ):
        opened(server).answer(of_text())


def test_stable_diffusion_cpp_is_asked_by_its_own_names_and_says_them_in_another_way() -> None:
    own = {"sampler_name": "dpm++2m", "extra_generation_params": {"Schedule type": "discrete"}, "sd_model_hash": None}
    named = {"sd_model_name": "v1-5.gguf", "denoising_strength": 0.30645161867141724}
    with serving(web_ui(**own, **named)) as server:
        asker = opened(server, dialect="sdcpp", sampler="DPM++ 2M", model="v1-5")
        asker.answer(of_image())
        ((_, _, body),) = server.asked
    assert (body["scheduler"], body["override_settings"]) == ("discrete", {"sd_model_checkpoint": "v1-5"})


def test_what_does_not_go_together_is_refused_when_the_job_is_read() -> None:
    with pytest.raises(ValueError, match="model: xinference serves several"):
        service("http://127.0.0.1", dialect="xinference")
    with pytest.raises(ValueError, match="resolution_px: expected a multiple of 8"):
        service("http://127.0.0.1", resolution_px=100)


def job(run: Path, url: str, attacks: dict[str, Any]) -> Job:
    replica = {"service": "a1111", "url": url, "resolution_px": 64}
    content = {"manifest": "m.yaml", "replica": replica, "attacks": attacks, "clip": "testbed", "run": str(run)}
    return parse_job(content, "job.yaml")


def test_a_scan_asks_its_first_questions_and_learns_that_answers_repeat(tmp_path: Path) -> None:
    with serving(web_ui()) as server:
        scan = job(tmp_path, server.url, {"generation": {}, "pokemon": {"metrics": ["ssim"]}})
        subject = scan.hosted
        assert isinstance(subject, A1111)
        record = ask_first(scan, subject, None)
        asked = [(path.rpartition("/")[2], body["steps"]) for path, _, body in server.asked]
    assert sorted(asked) == [("img2img", 23), ("img2img", 31), ("img2img", 46), ("txt2img", 30), ("txt2img", 30)]
    assert record.repeats is True
    assert scan.attacks["pokemon"].asks() <= subject.offers()


def test_a_scan_whose_settings_the_server_does_not_keep_ends_before_it_begins(tmp_path: Path) -> None:
    with serving(web_ui(extra_generation_params={"Extra noise": 0.1})) as server:
        scan = job(tmp_path, server.url, {"generation": {}})
        assert isinstance(scan.hosted, A1111)
        with pytest.raises(ConfigError, match=r"does not answer a first question .*Extra noise 0.1; set them back"):
            ask_first(scan, scan.hosted, None)


def pixels_in(sent: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sent))))


def without_images(body: dict[str, Any]) -> dict[str, Any]:
    """A request with the digests of the pixels that are sent in the place of their files."""
    sent = body.get("init_images")
    return (
        body
        if sent is None
        else {**body, "init_images": [hashlib.sha256(pixels_in(one).tobytes()).hexdigest() for one in sent]}
    )


TRIED = {
    "xinference_txt2img": Queries(["k"], 0, ["a red (circle)"], [2**32 - 2], 64, 64, 4, 3.0),
    "xinference_img2img": Queries(["k"], 0, ["a red circle"], [7], 64, 64, 4, 1.0, example()[None], 0.3),
}
"""Questions that xinference 4.1.0 was asked of the test bed, by the file that holds what was sent and answered."""


@pytest.mark.parametrize("name", TRIED)
def test_what_xinference_was_asked_is_what_is_sent_and_what_it_answered_is_what_is_read(name: str) -> None:
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    answer = (recorded["status"], json.dumps(recorded["answer"]).encode())
    with serving(lambda path, body: answer) as server:
        asker = opened(server, dialect="xinference", model="testbed")
        found = asker.answer(TRIED[name])
        ((path, _, body),) = server.asked
    assert (path, without_images(body)) == (recorded["path"], recorded["body"])
    assert np.array_equal(pixels_of(found[0]), pixels_in(recorded["answer"]["images"][0]))


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_what_xinference_made_is_what_diffusers_makes_in_as_many_steps_from_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads((RECORDED / "xinference_img2img.json").read_text())
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(PIPELINE, safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    queries = TRIED["xinference_img2img"]
    (seed,) = queries.seeds

    def noised(image: Tensor, timestep: Tensor, *_: object) -> Tensor:
        """As its `prepare_latents_with_noise`: the autoencoder's noise and the image's are draws of one seed each."""
        latents = pipeline.vae.encode(image).latent_dist.sample(torch.Generator().manual_seed(seed))
        noise = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))[None]
        found: Tensor = pipeline.scheduler.add_noise(latents * pipeline.vae.config.scaling_factor, noise, timestep)
        return found

    visited: list[float] = []

    def visit(_: object, step: int, timestep: Tensor, changed: dict[str, Any]) -> dict[str, Any]:
        visited.append(float(timestep))
        return changed

    monkeypatch.setattr(pipeline, "prepare_latents", noised)
    strength = recorded["body"]["denoising_strength"]
    number = int(np.ceil(recorded["body"]["steps"] / strength))
    made = pipeline(
        queries.prompts[0],
        image=Image.fromarray(pixels_of(example())),
        strength=strength,
        num_inference_steps=number,
        guidance_scale=1.0,
        output_type="pil",
        callback_on_step_end=visit,
    ).images[0]
    assert len(visited) == queries.steps
    assert visited[0] == pytest.approx(1000 * (queries.strength or 0.0), rel=NEAR)
    difference = np.asarray(made).astype(int) - pixels_in(recorded["answer"]["images"][0]).astype(int)
    assert np.abs(difference).mean() < 1.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def said(port: int, path: str, body: dict[str, Any] | None = None) -> Answer:
    method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
    with closing(HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def xinference(python: str, home: Path) -> Iterator[int]:
    """The port of xinference in a process of its own, with the test bed's pipeline."""
    port = free_port()
    # Users and virtual environments of its own are left out; it removes the folder of its cache, and does not make it again.
    settings = {"XINFERENCE_HOME": str(home), "XINFERENCE_AUTH_ADVANCED": "0", "XINFERENCE_ENABLE_VIRTUAL_ENV": "0"}
    start = "from xinference.deploy.cmdline import local; local()"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [python, "-c", start, "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(120):
            try:
                said(port, "/v1/models")
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()[-2000:]
                time.sleep(1.0)
        (home / "cache" / "v2").mkdir(parents=True, exist_ok=True)
        spec = {
            "version": 2,
            "model_name": "testbed",
            "model_id": "testbed",
            "model_revision": None,
            "model_hub": "huggingface",
            "model_family": "stable_diffusion",
            "model_base": "SD 1.5",
            "model_uri": str(PIPELINE),
            "model_ability": ["text2image", "image2image"],
            "controlnet": [],
            "default_model_config": {"torch_dtype": "float32"},
            "default_generate_config": {},
        }
        said(port, "/v1/model_registrations/image", {"model": json.dumps(spec), "persist": False})
        said(port, "/v1/models", {"model_uid": "testbed", "model_name": "testbed", "model_type": "image"})
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


# What is recorded stands in for the server where nothing may be skipped.
if XINFERENCE or os.environ.get(VARIABLE) != "1":

    @pytest.mark.skipif(not XINFERENCE, reason="RAYMIA_XINFERENCE names no Python that has xinference; its records are tried")
    def test_xinference_itself_answers_as_it_is_recorded_to(tmp_path: Path) -> None:
        """Records that are not there are written."""
        with xinference(str(XINFERENCE), tmp_path) as port:
            for name, queries in TRIED.items():
                seen: list[Answer] = []

                def pass_on(path: str, body: dict[str, Any], seen: list[Answer] = seen) -> Answer:
                    seen.append(said(port, path, body))
                    return seen[-1]

                with serving(pass_on) as server:
                    asker = opened(server, dialect="xinference", model="testbed")
                    found = asker.answer(queries)
                    ((path, _, body),) = server.asked
                ((status, content),) = seen
                answer = json.loads(content)
                answer["parameters"].pop("init_images", None)
                file = RECORDED / f"{name}.json"
                if not file.exists():
                    entry = {"path": path, "body": without_images(body), "status": status, "answer": answer}
                    file.write_text(json.dumps(entry, indent=1) + "\n")
                recorded = json.loads(file.read_text())
                assert without_images(body) == recorded["body"]
                for what in ("seed", "prompt", "width", "height"):
                    assert answer["info"][what] == recorded["answer"]["info"][what]
                image = pixels_in(recorded["answer"]["images"][0]).astype(int)
                assert np.abs(pixels_of(found[0]).astype(int) - image).mean() < 2.0
            # diffusers' own bar says how many steps it has made.
            assert "4/4" in (tmp_path / "log").read_text()
