"""A server that leaks LEAK bytes every 100 ms; with CHILD, a process that it starts does."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time

LEAK = int(os.environ.get("LEAK", "0"))


def leak():
    kept = []
    while LEAK > 0:
        kept.append(b"\1" * LEAK)
        time.sleep(0.1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self):
        slot = int(os.environ.get("NODE_APP_INSTANCE", "0"))
        body = json.dumps({"pid": os.getpid(), "slot": slot}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if "only-leak" in sys.argv:
        leak()
    elif "CHILD" in os.environ:
        child = subprocess.Popen([sys.executable, __file__, "only-leak"])
    else:
        threading.Thread(target=leak, daemon=True).start()
    server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    server.serve_forever()
