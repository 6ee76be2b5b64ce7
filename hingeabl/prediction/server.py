"""A page and an API that answer texts and files of documents with the predictions of a run.

One thread has the model (see jobs.py). A request takes one of a few slots before its body is read, so that memory holds
no more bodies than there are slots; if none is free, the request is refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hingeabl.data.checksums import SAMPLE
from hingeabl.errors import UserError
from hingeabl.files import read_json
from hingeabl.prediction.answers import SERVED, Answer, Limits, answer
from hingeabl.prediction.guard import ErrorResponse, Guard, RequestRefused, file_of_form, read_body
from hingeabl.prediction.jobs import JobThread
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.mentions import MODEL
from hingeabl.reporting.page import block, fill_template
from hingeabl.writers.by_extension import FORMS

WEB = Path(__file__).parent / "web"
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript"}
OFFERED_EXTENSIONS = [ending for ending in FORMS if not ending.endswith(".gz")]
PARAMETERS = ("form", "format")
POLL_SECONDS = 0.25  # between two checks whether a waiting client is still connected
SHUTDOWN_SECONDS = 5.0  # for a job that has begun when the server ends
MAX_WARNINGS = 8  # in the header of a file


class Service:
    """The requests of one server: the slots that they take, and the thread that answers them."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits = predictor, limits
        self.worker = JobThread()
        self.taken = 0  # slots, of max_waiting + 1

    async def respond(self, request: Request) -> Response:
        """The response to a POST: an answer, or an error."""
        if self.taken > self.limits.max_waiting:
            message = f"busy: {self.limits.max_waiting:,} other requests are waiting; try again in a few seconds"
            return ErrorResponse(RequestRefused(503, message, {"Retry-After": "5"}))
        self.taken += 1
        try:
            return await asyncio.wait_for(self._respond(request), self.limits.timeout)
        except asyncio.TimeoutError:
            seconds = f"{self.limits.timeout:g} seconds"
            return ErrorResponse(
                RequestRefused(504, f"no answer within {seconds}, so it is given up; send less, or try again")
            )
        except RequestRefused as refused:
            return ErrorResponse(refused)
        except UserError as error:
            return ErrorResponse(RequestRefused(400, " ".join(str(error).split())))
        except ClientDisconnect:
            return Response(status_code=499)  # which nobody reads
        except asyncio.CancelledError:  # by uvicorn, which does not wait for ever
            return JSONResponse({"error": "the server has been ended"}, 503)
        except Exception:
            traceback.print_exc(file=sys.__stderr__)
            return ErrorResponse(
                RequestRefused(500, "an error in the program, which the server has printed; please report it")
            )
        finally:
            self.taken -= 1

    async def _respond(self, request: Request) -> Response:
        extension, file_format = requested_extension(request), request.query_params.get("format")
        body = await file_of_form(request, await read_body(request, self.limits.max_bytes))
        answered = await self.done(request, partial(answer, self.predictor, body, file_format, extension, self.limits))
        if not extension:
            return Response(answered.content, media_type="application/json")
        headers = {
            "Content-Disposition": f'attachment; filename="predictions{extension}"',
            "X-Warnings": json.dumps([warning[:500] for warning in answered.warnings[:MAX_WARNINGS]]),
        }
        return Response(answered.content, headers=headers, media_type="application/octet-stream")

    async def done(self, request: Request, work: partial[Answer]) -> Answer:
        """The thread's result for a job, which is dropped if the client disconnects."""
        future = self.worker.submit(work)
        waited = asyncio.wrap_future(future)
        try:
            while not waited.done():
                await asyncio.wait([waited], timeout=POLL_SECONDS)
                if not waited.done() and await request.is_disconnected():
                    raise ClientDisconnect
            return waited.result()
        finally:
            waited.cancel()
            self.worker.drop(future)


def requested_extension(request: Request) -> str | None:
    """The extension of the file that a request asks for, None for JSON with the documents. Raises RequestRefused for an
    unknown form, and for parameters that are unknown or repeated, UserError if a package for that form is missing."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in PARAMETERS or names.count(name) > 1:
            problem = "is there twice" if name in PARAMETERS else f"is none of {', '.join(PARAMETERS)}"
            raise RequestRefused(400, f"parameter {name[:40]}: {problem}; correct the address")
    form = request.query_params.get("form")
    if form is None:
        return None
    ending = f".{form.lower()}"
    if ending not in OFFERED_EXTENSIONS:
        forms = ", ".join(extension.removeprefix(".") for extension in OFFERED_EXTENSIONS)
        raise RequestRefused(400, f"form={form[:40]}: is none of {forms}")
    FORMS[ending].need()
    return ending


def offered_forms() -> list[str]:
    """The forms whose packages are installed, without the dot."""
    offered = []
    for form in OFFERED_EXTENSIONS:
        with contextlib.suppress(UserError):
            FORMS[form].need()
            offered.append(form.removeprefix("."))
    return offered


def about_model(folder: Path) -> str:
    """A sentence on the model of a run's folder: its training file and its scores; and a second one if it was trained
    on the sample corpus."""
    config = read_json(folder / "config.json")
    scores = read_json(folder / "scores.json") if (folder / "scores.json").exists() else {}
    data, settings = config.get("data", {}), config["settings"]
    names = {split: Path(settings[f"{split}_file"]).name for split in ("train", "dev", "test")}
    f1 = [f"{split} F1 {100 * scores[split]['f1']:.2f} ({names[split]})" for split in names if scores.get(split)]
    encoder = Path(settings["model_name_or_path"]).name
    text = f"{config['loss']['name']} on {encoder}, trained on {names['train']}; {', '.join(f1) or 'no scores'}."
    if data.get("train") == SAMPLE["train"]:
        text += " A toy: it knows a generated sample of invented stories alone, and errs on any other text."
    return text


def about_reader(text_model: str | None) -> str:
    """A sentence on what finds the entities of a plain text, and how well."""
    if text_model is not None:
        return f"spaCy's pipeline {text_model} finds the entities of a plain text."
    scores = read_json(MODEL / "training.json")["scores"]["test"]
    score_text = f"F1 of mentions on Re-DocRED's test: {scores['span_f1']:.1f}, with type {scores['typed_f1']:.1f}"
    return f"{MODEL.name} finds the entities of a plain text ({score_text})."


def page_of(predictor: Predictor, limits: Limits) -> str:
    """The page, with the data that it shows: the run, the limits, the forms."""
    run = "/".join(predictor.run.folder.resolve().parts[-2:])
    if predictor.run.unfinished:
        run = f"{run} is not finished ({predictor.run.unfinished})"
    about = {
        "run": run,
        "model": f"{about_model(predictor.run.folder)} {about_reader(predictor.choices.text_model)}",
        "maxBytes": limits.max_bytes,
        "forms": offered_forms(),
        "formats": SERVED,
    }
    return fill_template((WEB / "serve.html").read_text(encoding="utf-8"), {"about": block("data-about", about)})


def fixed_endpoint(response: Response) -> Callable[[], Awaitable[Response]]:
    """An endpoint that returns this response each time."""

    async def endpoint() -> Response:
        return response

    return endpoint


def make_app(predictor: Predictor, limits: Limits, host: str = "127.0.0.1") -> FastAPI:
    """The application: GET / is the page, POST /api/predict answers a text or a file.

    `?form=` asks for a file of one of FORMS, `?format=` gives the input's format, which is otherwise recognised. `host`
    is the name or address that it is served under, besides this machine's own. Files and addresses that a request names
    are never opened. Its thread ends with the application's lifespan.
    """
    service = Service(predictor, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.worker.close(SHUTDOWN_SECONDS)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, host=host)
    app.state.service = service
    app.add_api_route("/api/predict", service.respond, methods=["POST"], response_model=None)
    contents = {"/": (page_of(predictor, limits), "text/html")}
    for extension, media_type in MEDIA_TYPES.items():
        contents[f"/serve.{extension}"] = ((WEB / f"serve.{extension}").read_text(encoding="utf-8"), media_type)
    for path, (content, media_type) in contents.items():
        app.add_api_route(path, fixed_endpoint(Response(content, media_type=media_type)), response_model=None)

    @app.exception_handler(HTTPException)
    async def as_error(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    return app
