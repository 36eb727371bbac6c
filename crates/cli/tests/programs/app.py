"""A plain HTTP server, one request at a time: python3 app.py PORT"""

import http.server
import json
import os
import sys

BODY = json.dumps({"pid": os.getpid(), "slot": int(os.environ.get("NODE_APP_INSTANCE", "0"))})


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One idle connection must not keep the only thread for ever.
    timeout = 5

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY.encode())

    def log_message(self, *_):
        pass


class Server(http.server.HTTPServer):
    # Nothing but accept(2), which is to block: an empty queue must not raise.
    def serve_forever(self, poll_interval=None):
        while True:
            request, client = self.get_request()
            try:
                self.process_request(request, client)
            except OSError:
                self.shutdown_request(request)


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
