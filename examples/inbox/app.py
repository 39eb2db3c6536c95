"""An inbox on a page: folders, messages and attachments of one user, which changes as mail arrives.

    database.py   transactions, bound to the tenant
    mail.py       what is read and sent
    changes.py    how the page learns of changes

README.md says how it is started.
"""

import asyncio
import os
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from sqlalchemy.exc import DataError

import mail
from changes import Changes, stream
from database import rows, transaction

PASSWORD = os.environ["INBOX_PASSWORD"]
HERE = Path(__file__).parent
# The pages run their own script alone, and nobody else shows them in a frame.
_OF_PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A mail runs nothing and loads nothing. Its links open in a new window.
_SANDBOX = "sandbox allow-popups allow-popups-to-escape-sandbox"
_OF_MAIL = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; {_SANDBOX}"
_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}


def logged_in(given: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    """Let in whoever knows the password; the name does not matter."""
    if not secrets.compare_digest(given.password.encode(), PASSWORD.encode()):
        raise HTTPException(401, "The password is wrong", {"WWW-Authenticate": "Basic"})


def from_this_site(request: Request) -> None:
    """Refuse a form that another site sends in the user's name."""
    if urlsplit(request.headers.get("origin", "")).netloc != request.headers["host"]:
        raise HTTPException(403, "This form was not sent from this site")


@asynccontextmanager
async def listening(_app: FastAPI) -> AsyncIterator[None]:
    """Listen to PostgreSQL as long as the application runs."""
    listener = asyncio.create_task(changes.listen())
    yield
    listener.cancel()


changes = Changes()
app = FastAPI(lifespan=listening, openapi_url=None)
app.mount("/static", StaticFiles(directory=HERE / "static"))
templates = Jinja2Templates(HERE / "templates")
templates.env.filters["names"] = lambda people: ", ".join(one["name"] or one["address"] for one in people)
templates.env.filters["addresses"] = lambda people: ", ".join(one["address"] for one in people)
private = [Depends(logged_in)]


@app.exception_handler(DataError)
def refused(_request: Request, error: DataError) -> Response:
    """Say what PostgreSQL does not take, such as an argument of a task; the first line repeats no value."""
    return PlainTextResponse(str(error.orig).partition("\n")[0], 400, headers=_SAFE)


def page(request: Request, name: str, **values: object) -> HTMLResponse:
    """A page with the folders beside it."""
    headers = {**_SAFE, "Content-Security-Policy": _OF_PAGES}
    return templates.TemplateResponse(request, name, values, headers=headers)


@app.get("/", dependencies=private)
def show_first_folder(request: Request) -> Response:
    """The first folder; before the first sync there is none."""
    with transaction() as connection:
        [now] = rows(connection, "SELECT event_position_now() AS position")
        folders = mail.folders(connection)
    if folders:
        return RedirectResponse(f"/folders/{quote(folders[0]['id'], safe='')}")
    return page(request, "folder.html", folders=[], folder=None, messages=[], position=now["position"])


@app.get("/folders/{folder_id}", dependencies=private)
def show_folder(request: Request, folder_id: str) -> HTMLResponse:
    """The newest messages of a folder."""
    with transaction() as connection:
        # Before the rows are read: what changes from here on comes as events.
        [now] = rows(connection, "SELECT event_position_now() AS position")
        folders, messages = mail.folders(connection), mail.messages(connection, folder_id)
    folder = next((folder for folder in folders if folder["id"] == folder_id), None)
    if folder is None:
        raise HTTPException(404, "There is no such folder")
    return page(request, "folder.html", folders=folders, folder=folder, messages=messages, position=now["position"])


@app.get("/messages/{message_id}", dependencies=private)
def show_message(request: Request, message_id: str, answered: bool = False) -> HTMLResponse:
    """A message, with a form for an answer."""
    with transaction() as connection:
        [now] = rows(connection, "SELECT event_position_now() AS position")
        folders, message = mail.folders(connection), mail.message(connection, message_id)
    if message is None:
        raise HTTPException(404, "There is no such message")
    return page(
        request,
        "message.html",
        folders=folders,
        message=message,
        position=now["position"],
        answered=answered,
        sandbox=_SANDBOX.removeprefix("sandbox "),
        key=str(uuid.uuid4()),
    )


@app.get("/messages/{message_id}/html", dependencies=private)
def show_html(message_id: str) -> HTMLResponse:
    """The HTML of a message, for the frame on its page."""
    with transaction() as connection:
        html = mail.html_page(connection, message_id)
    if html is None:
        raise HTTPException(404, "There is no such message, or it has no HTML")
    return HTMLResponse(
        html, headers={**_SAFE, "Content-Security-Policy": _OF_MAIL, "Referrer-Policy": "no-referrer"}
    )


@app.get("/attachments/{attachment_id}", dependencies=private)
def download(attachment_id: str) -> Response:
    """An attachment, which no browser opens as a page of this site."""
    with transaction() as connection:
        attachment = mail.attachment(connection, attachment_id)
    if attachment is None:
        raise HTTPException(404, "There is no such attachment")
    filename = quote(attachment["filename"] or "attachment", safe="")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{filename}",
        "Content-Security-Policy": "sandbox",
    }
    return Response(bytes(attachment["content"]), headers=_SAFE | headers, media_type="application/octet-stream")


@app.post("/messages/{message_id}/answer", dependencies=[*private, Depends(from_this_site)])
def answer(
    message_id: str,
    to: Annotated[str, Form()],
    subject: Annotated[str, Form()],
    body: Annotated[str, Form()],
    key: Annotated[str, Form()],
) -> RedirectResponse:
    """Queue the answer, and show the message again."""
    with transaction() as connection:
        found = mail.answer(connection, message_id, to, subject, body, key)
    if not found:
        raise HTTPException(404, "There is no such message")
    return RedirectResponse(f"/messages/{quote(message_id, safe='')}?answered=true", 303)


@app.get("/events", dependencies=private)
def events(after: str, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
    """The events after a position; a browser whose connection broke says itself where it stands."""
    return StreamingResponse(stream(changes, last_event_id or after), media_type="text/event-stream", headers=_SAFE)
