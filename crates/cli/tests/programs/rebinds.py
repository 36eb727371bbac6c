"""As threads.py, and binds two more ports again and again: python3 rebinds.py PORT SECOND THIRD

Each answer tells how often that was tried, and what went wrong last.
"""

import http.server
import json
import os
import socket
import sys
import threading

from app import Handler

TRIED = [0, 0]
WRONG = ["", ""]


def bind_for_ever(which, port):
    while True:
        with socket.socket() as own:
            try:
                own.bind(("127.0.0.1", port))
                own.listen()
            except OSError as error:
                WRONG[which] = str(error)
        TRIED[which] += 1


class Tells(Handler):
    def do_GET(self):
        slot = int(os.environ["NODE_APP_INSTANCE"])
        told = {"pid": os.getpid(), "slot": slot, "tried": TRIED, "wrong": WRONG}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Tells)
    for which, port in enumerate(sys.argv[2:]):
        threading.Thread(target=bind_for_ever, args=(which, int(port)), daemon=True).start()
    server.serve_forever()
