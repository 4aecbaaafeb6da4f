"""Calls at the wrappers' socket as nobody should: garbage, silence, and the words of a wrapper that hands
over a directory which is not its root. Says `called`, and stays until its input ends."""
import os
import socket
import struct
import sys


def call():
    caller = socket.socket(socket.AF_UNIX)
    caller.connect("/run/e2ek/run.sock")
    return caller


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


quiet = call()
for text in b"x" * 1000, os.urandom(1 << 20), b"\0" * 64, b"GET / HTTP/1.1\r\n\r\n":
    caller = call()
    try:
        caller.sendall(text)
        caller.recv(1)
    except OSError:
        pass
wrapper = call()
# Hello of protocol 1: no process, not started.
hello = bytes([0, 1, 0, 0])
frame = bytes([len(hello)]) + hello + struct.pack("<I", crc32c(hello))
socket.send_fds(wrapper, [frame], [os.open("/tmp", os.O_PATH)])
print("called", flush=True)
sys.stdin.read()
