"""A WSGI application: gunicorn wsgi:app"""

import json
import os


def app(environ, start_response):
    # The server has forked since this file was loaded: the process is looked up each time.
    slot = int(os.environ.get("NODE_APP_INSTANCE", "0"))
    body = json.dumps({"pid": os.getpid(), "slot": slot}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
