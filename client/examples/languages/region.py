# SPDX-License-Identifier: GPL-2.0-only
"""The Python side of the example `languages`: region.py REGION SOCKET, two inherited descriptors.

A region is used by the modules of Python alone: what is not mmap is an ioctl.
"""

import fcntl
import mmap
import os
import socket
import struct
import sys


# As in <asm-generic/ioctl.h>, for ashmem's letter.
def _IO(nr): return 0x77 << 8 | nr
def _IOW(nr, size): return 1 << 30 | size << 16 | _IO(nr)
def _IOR(nr, size): return 2 << 30 | size << 16 | _IO(nr)


# As in driver/include/ashmem.h, <ashmem.h> for C.
NAME_LEN = 256
SET_NAME = _IOW(1, NAME_LEN)
GET_NAME = _IOR(2, NAME_LEN)
SET_SIZE = _IOW(3, struct.calcsize("N"))
GET_SIZE = _IO(4)
SET_PROT_MASK = _IOW(5, struct.calcsize("L"))
PIN = _IOW(7, struct.calcsize("II"))
UNPIN = _IOW(8, struct.calcsize("II"))
PURGE_ALL_CACHES = _IO(10)

PAGE = mmap.PAGESIZE
# The first page has lines of this length, filled up with NULs.
LINE = 64


def name_of(fd):
    name = bytearray(NAME_LEN)
    fcntl.ioctl(fd, GET_NAME, name)
    return name.split(b"\0")[0].decode()


def pin(fd, call, offset, length):
    # Of a bytearray the result is the number that the kernel gives, of bytes it would be a copy.
    return fcntl.ioctl(fd, call, bytearray(struct.pack("II", offset, length)))


def use(fd):
    size = fcntl.ioctl(fd, GET_SIZE)
    print(f'is given "{name_of(fd)}", {size} bytes')
    with mmap.mmap(fd, size) as memory:
        start = 0
        while memory[start]:
            line = memory[start:start + LINE].rstrip(b"\0")
            print(f'reads "{line.decode()}"')
            start += LINE
        line = b"a line written in Python"
        memory[start:start + len(line)] = line

        # The second page is one that could be made anew.
        memory[PAGE:2 * PAGE] = b"P" * PAGE
        pin(fd, UNPIN, PAGE, PAGE)
        result = pin(fd, PIN, PAGE, PAGE)
        print(f"pins what was unpinned: {result}, '{memory[PAGE]:c}' is there")
        pin(fd, UNPIN, PAGE, PAGE)
        fcntl.ioctl(fd, PURGE_ALL_CACHES)
        result = pin(fd, PIN, PAGE, PAGE)
        print(f"pins what was purged: {result}, {memory[PAGE]} is there")


def make(to):
    size = 5000
    fd = os.open("/dev/ashmem", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, SET_NAME, b"made in Python\0")
    fcntl.ioctl(fd, SET_SIZE, size)
    with mmap.mmap(fd, size) as memory:
        line = b"what Python has to say"
        memory[:len(line)] = line
        # From here on nobody maps it to be written.
        fcntl.ioctl(fd, SET_PROT_MASK, mmap.PROT_READ)
        socket.send_fds(to, [b"+"], [fd])
    os.close(fd)


use(int(sys.argv[1]))
make(socket.socket(fileno=int(sys.argv[2])))
