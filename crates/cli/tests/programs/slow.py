"""As app.py, one request at a time; /block takes SECONDS: python3 slow.py PORT SECONDS"""

import os
import sys
import time

from app import Handler, Server


class Slow(Handler):
    def do_GET(self):
        if self.path == "/block":
            print(f"busy: {os.getpid()}", flush=True)
            time.sleep(float(sys.argv[2]))
        super().do_GET()


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Slow).serve_forever()
