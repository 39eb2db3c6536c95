"""The application on a host whose name server can be taken away: no name resolves while RESOLVER_DOWN is a file.

Names that end in `.mail.test` are those of this machine. A name server of the system would need root to be replaced.
"""

import os
import socket
from pathlib import Path
from typing import Any

from tasks.celery_app import create_celery_app

app = create_celery_app()
_look_up = socket.getaddrinfo


def _resolve(host: Any, *args: Any, **options: Any) -> Any:
    if not str(host).endswith(".mail.test"):
        return _look_up(host, *args, **options)
    if Path(os.environ["RESOLVER_DOWN"]).exists():
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _look_up("127.0.0.1", *args, **options)


socket.getaddrinfo = _resolve
