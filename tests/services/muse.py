"""A real server of images that nobody here wrote: museq's router over diffusers' pipelines, in a process of its own.

``python -m tests.services.muse FOLDER LOG [PORT]`` prints the port that it listens on, and writes a line to LOG when a request
comes and one when it is answered.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from muse.core.registry import ModalityRegistry
from muse.modalities.image_generation.routes import MODALITY, build_router
from muse.modalities.image_generation.runtimes.diffusers import DiffusersText2ImageModel

NAME = "testbed"


def application(folder: str, log: Path) -> FastAPI:
    registry = ModalityRegistry()
    model = DiffusersText2ImageModel(hf_repo=NAME, local_dir=folder, device="cpu", dtype="float32", model_id=NAME)
    for pipeline in (model._pipe,):
        pipeline.set_progress_bar_config(disable=True)
    registry.register(MODALITY, model, manifest={"model_id": NAME, "capabilities": {"supports_img2img": True}})
    app = FastAPI()
    app.include_router(build_router(registry))

    @app.middleware("http")
    async def written(request: Request, call_next: Any) -> Response:
        body = await request.body()
        entry = {"path": request.url.path, "body": hashlib.sha256(body).hexdigest(), "begun": time.time()}
        entry["authorization"] = request.headers.get("Authorization")
        with log.open("a") as file:
            file.write(json.dumps({**entry, "what": "begun"}) + "\n")
        answer: Response = await call_next(request)
        with log.open("a") as file:
            file.write(json.dumps({**entry, "what": "answered", "status": answer.status_code}) + "\n")
        return answer

    return app


def main() -> None:
    folder, log = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0))
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(application(folder, log), log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
