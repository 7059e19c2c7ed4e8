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

/*
 * From here on, what Android's driver does not have: it answers ENOTTY.
 */

/* As struct ashmem_pin, for regions of any size. */
struct ashmem_range {
	__u64 offset; /* from the start of the region */
	__u64 len; /* 0: up to the end of the region */
};

/* The size in bytes, events since the region was made, and pages now. */
struct ashmem_counters {
	__u64 size;
	__u64 faults; /* runs of the fault handler */
	__u64 map_faults; /* calls of map_pages that resolved a fault */
	__u64 huge_faults; /* runs of it that mapped a huge page */
	__u64 allocated; /* pages allocated */
	__u64 purged; /* pages whose memory was freed while unpinned */
	__u64 resident; /* pages that have memory now */
	__u64 unpinned; /* pages that are not pinned now */
};

/* ASHMEM_GET_PAGE_STATUS: which pages, and where to write of them. */
struct ashmem_page_status {
	__u64 offset; /* as in struct ashmem_range */
	__u64 len;
	__u64 status; /* address of one byte for each page */
};

/* In each of these bytes: one of the first three, and maybe the last. */
#define ASHMEM_PAGE_PINNED 0x00
#define ASHMEM_PAGE_UNPINNED 0x01
#define ASHMEM_PAGE_PURGED 0x02 /* since it was unpinned */
#define ASHMEM_PAGE_STATE_MASK 0x03
#define ASHMEM_PAGE_RESIDENT 0x10 /* it has memory */

/*
 * Writes the counters; returns how many bytes of them the driver has. The
 * structure may grow at its end: the size in the number says how many bytes are
 * written, a multiple of 8; those that the driver does not have are zeros.
 */
#define ASHMEM_GET_COUNTERS _IOR(__ASHMEMIOC, 32, struct ashmem_counters)
/* As ASHMEM_PIN, ASHMEM_UNPIN and ASHMEM_GET_PIN_STATUS. */
#define ASHMEM_PIN_RANGE _IOW(__ASHMEMIOC, 33, struct ashmem_range)
#define ASHMEM_UNPIN_RANGE _IOW(__ASHMEMIOC, 34, struct ashmem_range)
#define ASHMEM_GET_RANGE_PIN_STATUS _IOW(__ASHMEMIOC, 35, struct ashmem_range)
/* Writes ASHMEM_PAGE_* for each page of a range, and changes nothing. */
#define ASHMEM_GET_PAGE_STATUS _IOW(__ASHMEMIOC, 36, struct ashmem_page_status)

#endif /* _UAPI_ASHMEM_H */
