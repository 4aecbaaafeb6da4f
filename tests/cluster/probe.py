"""Tries all that one process may do to another of its pod, from the app's container.

For each process of ours, and for a child of its own as the control: what was tried, and how that went
(`done`, or the name of the error). Prints JSON: {"CMDLINE": {"what": "how"}, "control": ...}.
"""
import ctypes
import errno
import json
import os
import signal

libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 16, 17, 0x4206, 0x4207
PROCESS_VM_READV, PROCESS_VM_WRITEV, PIDFD_GETFD = 310, 311, 438
CLONE_NEWNS = 0x20000


def call(function, *words):
    if function(*words) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def syscall(*words):
    call(libc.syscall, *(ctypes.c_long(word) for word in words))


def trace(request, pid):
    call(libc.ptrace, ctypes.c_long(request), pid, None, None)
    if request == PTRACE_SEIZE:
        call(libc.ptrace, ctypes.c_long(PTRACE_INTERRUPT), pid, None, None)
    os.waitpid(pid, 0)
    call(libc.ptrace, ctypes.c_long(PTRACE_DETACH), pid, None, None)


def memory(number, pid):
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    # An address of ours, which a child of ours has as well.
    here = ctypes.create_string_buffer(8)
    part = Part(ctypes.addressof(here), 8)
    at = ctypes.addressof(part)
    syscall(number, pid, at, 1, at, 1, 0)


def tries(pid):
    at = f"/proc/{pid}/"
    pidfd = os.pidfd_open(pid)
    yield "root", lambda: os.listdir(at + "root/")
    yield "cwd", lambda: os.listdir(at + "cwd/")
    yield "exe", lambda: os.readlink(at + "exe")
    yield "program", lambda: os.close(os.open(at + "exe", os.O_RDONLY))
    yield "fd", lambda: os.readlink(at + "fd/0")
    yield "fdinfo", lambda: open(at + "fdinfo/0").read()
    yield "ns", lambda: os.readlink(at + "ns/mnt")
    yield "environ", lambda: open(at + "environ", "rb").read()
    yield "maps", lambda: open(at + "maps", "rb").read(1)
    yield "auxv", lambda: open(at + "auxv", "rb").read()
    yield "mem", lambda: os.close(os.open(at + "mem", os.O_RDONLY))
    yield "mem to write", lambda: os.close(os.open(at + "mem", os.O_WRONLY))
    yield "task", lambda: os.listdir(f"{at}task/{pid}/root/")
    yield "attach", lambda: trace(PTRACE_ATTACH, pid)
    yield "seize", lambda: trace(PTRACE_SEIZE, pid)
    yield "process_vm_readv", lambda: memory(PROCESS_VM_READV, pid)
    yield "process_vm_writev", lambda: memory(PROCESS_VM_WRITEV, pid)
    yield "pidfd_getfd", lambda: syscall(PIDFD_GETFD, pidfd, 0, 0)
    yield "setns", lambda: call(libc.setns, pidfd, CLONE_NEWNS)
    # Last, and by a signal that does nothing.
    yield "kill", lambda: os.kill(pid, 0)


def probe(pid):
    found = {}
    for what, attempt in tries(pid):
        try:
            attempt()
            found[what] = "done"
        except OSError as error:
            found[what] = errno.errorcode[error.errno]
    return found


def ours():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            continue
        if words[0].endswith("/e2ek-sidecar"):
            yield int(pid), words[1]


def main():
    found = {command: probe(pid) for pid, command in ours()}
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    found["control"] = probe(child)
    os.kill(child, signal.SIGKILL)
    print(json.dumps(found))


main()
