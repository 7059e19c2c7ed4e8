/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The ABI of /dev/ashmem.
 *
 * This file is the one source of the numbers: C programs include it, and the
 * Rust code on both sides of the system call is generated from it.
 */
#ifndef _UAPI_ASHMEM_H
#define _UAPI_ASHMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#ifndef __KERNEL__
#include <stddef.h>
#endif

/* Bytes of a region's name, the terminating NUL included. */
#define ASHMEM_NAME_LEN 256

/* What ASHMEM_GET_NAME gives for a region that was never named. */
#define ASHMEM_NAME_DEF "dev/ashmem"

/* ASHMEM_PIN: no page of the range was purged since it was unpinned. */
#define ASHMEM_NOT_PURGED 0
/* ASHMEM_PIN: at least one page of the range was, and reads as zeros now. */
#define ASHMEM_WAS_PURGED 1

/* ASHMEM_GET_PIN_STATUS: at least one page of the range is unpinned. */
#define ASHMEM_IS_UNPINNED 0
/* ASHMEM_GET_PIN_STATUS: every page of the range is pinned. */
#define ASHMEM_IS_PINNED 1

/* A range of a region, in bytes; both must be multiples of the page size. */
struct ashmem_pin {
	__u32 offset; /* from the start of the region */
	__u32 len; /* 0: up to the end of the region */
};

#define __ASHMEMIOC 0x77

/* A C string of at most ASHMEM_NAME_LEN bytes; before the first mmap(2). */
#define ASHMEM_SET_NAME _IOW(__ASHMEMIOC, 1, char[ASHMEM_NAME_LEN])
/* Writes the name and its NUL, and no byte more. */
#define ASHMEM_GET_NAME _IOR(__ASHMEMIOC, 2, char[ASHMEM_NAME_LEN])
/* The size in bytes, by value; before the first mmap(2). */
#define ASHMEM_SET_SIZE _IOW(__ASHMEMIOC, 3, size_t)
/* Returns the size as it was set; an int, so it is cut at 2 GiB. */
#define ASHMEM_GET_SIZE _IO(__ASHMEMIOC, 4)
/* The PROT_* bits that mappings may have, by value; bits only go away. */
#define ASHMEM_SET_PROT_MASK _IOW(__ASHMEMIOC, 5, unsigned long)
/* Returns that mask. */
#define ASHMEM_GET_PROT_MASK _IO(__ASHMEMIOC, 6)
/* Makes a range safe from being purged; returns ASHMEM_{NOT,WAS}_PURGED. */
#define ASHMEM_PIN _IOW(__ASHMEMIOC, 7, struct ashmem_pin)
/* Lets the kernel take a range's memory back when memory is short. */
#define ASHMEM_UNPIN _IOW(__ASHMEMIOC, 8, struct ashmem_pin)
/* Takes a struct ashmem_pin *; returns ASHMEM_IS_{UNPINNED,PINNED}. */
#define ASHMEM_GET_PIN_STATUS _IO(__ASHMEMIOC, 9)
/* Purges every unpinned page of every region; returns how many they were. */
#define ASHMEM_PURGE_ALL_CACHES _IO(__ASHMEMIOC, 10)
/* Writes the inode number that /proc/PID/maps shows; after the first mmap(2). */
#define ASHMEM_GET_FILE_ID _IOR(__ASHMEMIOC, 11, unsigned long)

#endif /* _UAPI_ASHMEM_H */
