"""Serves two ports: python3 two_ports.py PORT ADMIN

If somebody else has the second one, it goes without, as exporters of metrics do.
"""

import http.server
import sys
import threading

from app import Handler


def server(port):
    return http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)


if __name__ == "__main__":
    try:
        threading.Thread(target=server(sys.argv[2]).serve_forever, daemon=True).start()
    except OSError as error:
        print(f"without the second port: {error}", flush=True)
    server(sys.argv[1]).serve_forever()
