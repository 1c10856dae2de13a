"""A classifier over HTTP: `POST /predict` with the bytes of an image answers what `paco-hf predict --json` says of it.

Settings are variables of the environment: `MODEL`, a run folder or an ONNX file of `paco-hf export`; `MAX_BYTES` and
`MAX_PIXELS`, the largest upload and the largest image that is decoded.
"""

import io
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException as StarletteException

from paco_hf.inference.batches import ImageFiles
from paco_hf.inference.forward import fast_forward
from paco_hf.inference.load_model import load_for_inference
from paco_hf.inference.onnx_model import load_onnx
from paco_hf.inference.prediction import classify
from paco_hf.inference.unlabeled import UnlabeledImages
from paco_hf.utils.images import allow_image_pixels, open_image


def number(name: str, default: int) -> int:
    """A whole number of the environment."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or not int(value):
        sys.exit(f"{name} must be a whole number above 0, got {value!r}")
    return int(value)


MAX_BYTES, MAX_PIXELS = number("MAX_BYTES", 20_000_000), number("MAX_PIXELS", 50_000_000)
if "MODEL" not in os.environ:
    sys.exit("MODEL is not set: give a run folder, or an ONNX file of `paco-hf export`")


class Upload:
    """One encoded image, as a source of images."""

    def __init__(self, content: bytes, called: str) -> None:
        self.content, self.called = content, called

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        """What the image is called."""
        return self.called

    def open(self, index: int) -> Image.Image:
        """Decode it; `ValueError` where it cannot be decoded."""
        return open_image(io.BytesIO(self.content), self.called)

    def state(self) -> str:
        """Nothing changes with the image but what is in it."""
        return ""


class Service:
    """A model that is loaded, and classifies one image at a time."""

    def __init__(self, model: str) -> None:
        if model.endswith(".onnx"):
            loaded = load_onnx(model)
            self.forward, self.config, self.processor = loaded.forward(), loaded.config, loaded.processor
        else:
            classifier, self.processor = load_for_inference(model, batch_size=1, precision="fp32")
            self.forward, self.config = fast_forward(classifier), classifier.config
        self.lock = Lock()  # one image has all threads: two at a time would take as long, and more memory

    def predict(self, name: str, content: bytes, top: int) -> dict[str, Any]:
        """The classes of an encoded image, or the `error` that it cannot be decoded."""
        images = ImageFiles(UnlabeledImages([Upload(content, name)]), strict=False)
        with self.lock:
            (result,) = classify(self.forward, self.config, self.processor, images, top=top, batch_size=1)
        return result


try:
    SERVICE = Service(os.environ["MODEL"])
except (OSError, ValueError, ImportError) as error:
    sys.exit(f"MODEL {os.environ['MODEL']!r} cannot be served: {error}")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request: a server without one does not start."""
    allow_image_pixels(MAX_PIXELS)
    app.state.service = SERVICE
    yield


app = FastAPI(title="paco_hf classifier", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, Any]:
    """Answers once the model is loaded."""
    return {"status": "ok", "classes": app.state.service.config.num_labels}


@app.post("/predict")
async def predict(request: Request, name: str = "image", top: int = Query(5, ge=1)) -> JSONResponse:
    """Classify the image whose bytes are the body."""
    content = await body(request)
    result = await run_in_threadpool(app.state.service.predict, name, content, top)
    if "error" in result:
        raise HTTPException(415, result["error"].partition(": if you trust the file")[0])
    return JSONResponse(result)


async def body(request: Request) -> bytes:
    """The body of a request, refused as soon as it is too long."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"the body has more than {MAX_BYTES:,} bytes: send a smaller image")
    if not content:
        raise HTTPException(400, "the body is empty: send the bytes of an image")
    return bytes(content)


@app.exception_handler(StarletteException)
async def refused(request: Request, error: StarletteException) -> JSONResponse:
    """One line of JSON for whatever is refused."""
    return JSONResponse({"error": str(error.detail)}, error.status_code)


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """One line of JSON for a value that cannot be."""
    reasons = (f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"error": "; ".join(reasons)}, 422)


@app.exception_handler(Exception)
async def failed(request: Request, error: Exception) -> JSONResponse:
    """No traceback leaves the server: it is in its log."""
    return JSONResponse({"error": "the server failed: its log says why"}, 500)
