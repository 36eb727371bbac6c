"""Answers each datagram with itself and who answered: python3 udp_echo.py PORT"""

import socket
import sys

from app import BODY

if __name__ == "__main__":
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", int(sys.argv[1])))
    while True:
        data, peer = server.recvfrom(2048)
        server.sendto(data + b" " + BODY.encode(), peer)
