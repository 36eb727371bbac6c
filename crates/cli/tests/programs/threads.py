"""As app.py, a thread for each connection: python3 threads.py PORT"""

import http.server
import sys

from app import Handler

if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
