"""As threads.py, and says when it is told to end: python3 hears.py PORT"""

import http.server
import os
import signal
import sys

from app import Handler


def told(*_):
    print(f"worker {os.getpid()} hears SIGTERM", flush=True)
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, told)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
