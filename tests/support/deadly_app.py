"""The application with that parser, in the worker and in the process that parses for it."""

import sys

from tasks.celery_app import celery_app as app  # noqa: F401 - what Celery is told to run
from tasks.engine import parser_process
from tests.support import deadly_parser

parser_process._COMMAND = (sys.executable, "-m", deadly_parser.__name__)
