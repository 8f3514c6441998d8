"""The service that the referee watches; see `referee`. Ends on a signal only."""

import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[1])
connection.sendall(f"{os.environ['BTW_PACKAGE']} {os.environ['BTW_NODE']}\n".encode())
if connection.recv(16) != b"go\n":
    sys.exit("the referee has gone")
while True:
    signal.pause()
