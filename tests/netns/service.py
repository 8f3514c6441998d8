"""The service that the referee watches; see `referee`. Ends on a signal, or with the referee.

Importing `socket`, `signal` and `os` would take longer than all that btw does for a planned move, and be counted as it.
"""

import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from posix import environ

connection = socket(AF_UNIX, SOCK_STREAM)
connection.connect(sys.argv[1])
connection.sendall(environ[b"BTW_PACKAGE"] + b" " + environ[b"BTW_NODE"] + b"\n")
if connection.recv(16) != b"go\n":
    sys.exit("the referee has gone")
connection.recv(1)
