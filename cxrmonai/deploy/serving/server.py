"""MONAI Label's server with faults of a request told as such: `--uvicorn_app cxrmonai.deploy.serving.server:app`.

The original answers 500 to whatever its handlers raise, a text file sent as an image included, stands still while a
network runs, and lets every page that a browser shows read its images; here only pages of this machine may.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

from cxrmonai.deploy.serving import environment

environment.prepare()

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, HTTPException, Request, UploadFile  # noqa: E402
from fastapi.concurrency import run_in_threadpool  # noqa: E402
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.middleware.cors import CORSMiddleware  # noqa: E402
from fastapi.responses import JSONResponse, Response  # noqa: E402
from monailabel.app import app  # noqa: E402
from monailabel.config import settings  # noqa: E402
from monailabel.endpoints.batch_infer import run as run_batch  # noqa: E402
from monailabel.endpoints.infer import ResultType, run_inference  # noqa: E402
from monailabel.endpoints.train import run_model  # noqa: E402
from monailabel.endpoints.user.auth import RBAC, User  # noqa: E402
from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelException  # noqa: E402
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType  # noqa: E402
from monailabel.interfaces.utils.app import app_instance  # noqa: E402

from cxrmonai.errors import CxrError, user_error  # noqa: E402

BAD_REQUEST, NOT_FOUND, UNPROCESSABLE = 400, 404, 422
OWN_PAGES = r"https?://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?"
NOT_IN_PARAMS = ("image", "model", "session")

router = APIRouter()
_one_at_a_time = threading.Lock()  # hooks of attribution methods and the cache of an archive bear no second thread


@router.post("/infer/{model}", tags=["Infer"], summary="Run Inference for supported model")
async def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: UploadFile = File(None),  # noqa: B008 - as FastAPI wants it
    label: UploadFile = File(None),  # noqa: B008
    output: ResultType | None = None,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> Any:
    """As MONAI Label's own, which does the work once the request is known to make sense.

    Raises:
        HTTPException: 400 or 404, it makes none.
    """
    need_known(model, app_instance()._infers, "model")
    options = parsed(params)
    taken = [key for key in NOT_IN_PARAMS if key in options]
    if taken:
        raise HTTPException(BAD_REQUEST, f"params may not name '{taken[0]}'; it belongs into the address")
    if file is None and not image and not session_id:
        raise HTTPException(BAD_REQUEST, "no image: send a file, or name an image of the datastore or a session")
    if session_id and app_instance().sessions().get_session(session_id) is None:
        raise HTTPException(NOT_FOUND, f"no session '{session_id}', or it has expired")
    if output == ResultType.dicom_seg:
        raise HTTPException(BAD_REQUEST, "output=dicom_seg is not made here; python -m cxrmonai dicom-out makes it")

    def answer() -> Any:
        with _one_at_a_time:
            if file is None and not session_id:
                need_image(image)
            try:
                return run_inference(background_tasks, model, image, session_id, params, file, label, output)
            except Exception as error:
                cause = user_error(error)
                if cause is None:
                    raise
                name = file.filename if file is not None else image
                raise CxrError(without_path(str(cause), name or "the image")) from None

    return await run_in_threadpool(answer)


@router.post("/train/{model}", tags=["Train"], summary="Run Training Task for specific model")
async def train(
    model: str,
    params: dict | None = None,
    run_sync: bool = False,
    enqueue: bool = False,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)),  # noqa: B008
) -> Any:
    """As MONAI Label's own; `run_sync` waits for the end.

    Raises:
        HTTPException: 404, there is no such model, or it cannot be trained here.
    """
    need_known(model, app_instance()._trainers, "model that can be trained")
    return await run_in_threadpool(run_model, model, params, run_sync, enqueue)


@router.post("/batch/infer/{model}", tags=["Infer"], summary="Run Batch Inference for supported model")
async def batch_infer(
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: dict | None = None,
    run_sync: bool = False,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> Any:
    """As MONAI Label's own.

    Raises:
        HTTPException: 404, there is no such model.
    """
    need_known(model, app_instance()._infers, "model")
    return await run_in_threadpool(run_batch, model, images, params, run_sync)


def need_known(name: str, known: dict[str, Any], what: str) -> None:
    """Raises HTTPException 404 where there is no such name."""
    if name not in known:
        raise HTTPException(NOT_FOUND, f"no {what} '{name}'; there are {', '.join(known) or 'none'}")


def need_image(image: str) -> None:
    """Raises HTTPException 404 where the datastore has no such image: a path on the server's disk is none."""
    store = app_instance().datastore()
    if os.sep in image or os.path.exists(image) or not store.get_image_uri(image):
        raise HTTPException(NOT_FOUND, f"no image '{image}' in the datastore")


def parsed(params: str) -> dict[str, Any]:
    """The object that a request's params are; raises HTTPException 400 where they are none."""
    try:
        content = json.loads(params or "{}")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise HTTPException(BAD_REQUEST, "params must be a JSON object")
    return content


def without_path(sentence: str, name: str) -> str:
    """A sentence that begins with a path on the server's disk, with the sender's own name of the image instead."""
    path, colon, rest = sentence.partition(": ")
    return f"{name}: {rest}" if colon and os.sep in path else sentence


def invalid(request: Request, error: RequestValidationError) -> Response:
    """Answers 422 and one line where a part of the address or the form is of the wrong type."""
    first = error.errors()[0]
    return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, UNPROCESSABLE)


def told(status: int) -> Callable[[Request, Exception], Response]:
    """A handler that answers with a status and one line."""

    def handle(request: Request, error: Exception) -> Response:
        line = error.msg if isinstance(error, MONAILabelException) else str(error)
        return JSONResponse({"detail": " ".join(str(line).split())}, status)

    return handle


own = len(app.router.routes)
app.include_router(router)
app.router.routes[:] = app.router.routes[own:] + app.router.routes[:own]  # the first that fits answers
app.add_exception_handler(RequestValidationError, invalid)
app.add_exception_handler(CxrError, told(UNPROCESSABLE))
app.add_exception_handler(ImageNotFoundException, told(NOT_FOUND))
app.add_exception_handler(MONAILabelException, told(BAD_REQUEST))
app.user_middleware[:] = [middleware for middleware in app.user_middleware if middleware.cls is not CORSMiddleware]
app.add_middleware(CORSMiddleware, allow_origin_regex=OWN_PAGES, allow_methods=["*"], allow_headers=["*"])
