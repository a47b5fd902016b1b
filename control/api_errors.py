"""Errors of the api: one form for all, `{"error": {"code", "message", "remedy"}}`, with the status that fits."""

from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from runtime.errors import AnswerIsNo, BarographError, InputError, MissingServiceError

NO_STORE: Final = {"Cache-Control": "no-store"}


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: short and stable, for programs.
        message, remedy: what is wrong and what to do about it, for people.
    """

    def __init__(self, status: int, code: str, message: str, remedy: str = "") -> None:
        self.status, self.code, self.message, self.remedy = status, code, message, remedy
        super().__init__(message)

    def response(self) -> JSONResponse:
        """The answer."""
        headers = dict(NO_STORE)
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="barograph"'
        if self.status == 429:
            headers["Retry-After"] = "10"
        body = {"error": {"code": self.code, "message": self.message, "remedy": self.remedy}}
        return JSONResponse(body, self.status, headers)


_STATUS: Final = (
    (InputError, 400, "bad_input"),
    (AnswerIsNo, 422, "ended"),
    (MissingServiceError, 503, "missing_service"),
)


def of(error: BarographError) -> ApiError:
    """The answer to an error of ours."""
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return ApiError(status, code, error.message, error.remedy)
    return ApiError(500, "failed", error.message, error.remedy)


def install(app: FastAPI) -> None:
    """Let an application answer in this form."""

    @app.exception_handler(ApiError)
    def _ours(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(BarographError)
    def _known(_: Request, error: BarographError) -> JSONResponse:
        return of(error).response()

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return ApiError(400, "bad_request", f"{place}: {first['msg'].lower()}", "see /v1/openapi.json").response()

    @app.exception_handler(HTTPException)
    def _plain(_: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return ApiError(404, "not_found", "there is nothing at this address", "see /v1/openapi.json").response()
        code = "wrong_method" if error.status_code == 405 else "bad_request"
        return ApiError(error.status_code, code, str(error.detail)).response()
