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

/* The same without the end at 4 GiB. */
struct ashmem_range {
	__u64 offset; /* from the start of the region */
	__u64 len; /* 0: up to the end of the region */
};

/* What ASHMEM_GET_PAGE_STATUS writes for a page: one of the first three in the
 * bits of ASHMEM_PAGE_STATE_MASK, and whether the page has memory.
 */
#define ASHMEM_PAGE_PINNED 0
#define ASHMEM_PAGE_UNPINNED 1
#define ASHMEM_PAGE_PURGED 2
#define ASHMEM_PAGE_STATE_MASK 3
#define ASHMEM_PAGE_RESIDENT 0x10

struct ashmem_page_status_args {
	__u64 offset; /* from the start of the region */
	__u64 len; /* 0: up to the end of the region */
	__u64 status; /* address of one byte a page */
};

/* The size in bytes, then the counters of /proc/PID/fdinfo. */
struct ashmem_counters {
	__u64 size;
	__u64 faults;
	__u64 map_faults;
	__u64 huge_faults;
	__u64 allocated;
	__u64 purged;
	__u64 resident;
	__u64 unpinned;
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

/* From 32 on: this driver's own; others answer ENOTTY. */

/* Returns how many bytes the driver knows; a shorter or a longer struct is
 * taken by the size in the number, and the rest of a longer one is zeroed.
 */
#define ASHMEM_GET_COUNTERS _IOR(__ASHMEMIOC, 32, struct ashmem_counters)
/* As ASHMEM_PIN, ASHMEM_UNPIN and ASHMEM_GET_PIN_STATUS. */
#define ASHMEM_PIN_RANGE _IOW(__ASHMEMIOC, 33, struct ashmem_range)
#define ASHMEM_UNPIN_RANGE _IOW(__ASHMEMIOC, 34, struct ashmem_range)
#define ASHMEM_GET_RANGE_PIN_STATUS _IOW(__ASHMEMIOC, 35, struct ashmem_range)
/* Writes one byte for each page of the range, and changes none. */
#define ASHMEM_GET_PAGE_STATUS _IOW(__ASHMEMIOC, 36, struct ashmem_page_status_args)

#endif /* _UAPI_ASHMEM_H */
