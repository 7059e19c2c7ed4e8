/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared memory of /dev/ashmem, as Android's programs call it. Link with
 * -lashmem.
 *
 * Where a function fails it returns -1 and sets errno. Beside what is listed
 * with each: EBADF, no descriptor; ENOTTY, a descriptor of something else.
 */
#ifndef _CUTILS_ASHMEM_H
#define _CUTILS_ASHMEM_H

#include <stddef.h>

/* Bytes of a region's name, the terminating NUL included. */
#define ASHMEM_NAME_LEN 256

/* ashmem_pin_region(): nothing of the range was taken. */
#define ASHMEM_NOT_PURGED 0
/* ashmem_pin_region(): some of the range was taken, and reads as zeros. */
#define ASHMEM_WAS_PURGED 1

#ifdef __cplusplus
extern "C" {
#endif

/**
 * ashmem_valid() - Whether a descriptor is a region's.
 *
 * Return: 1 or 0; never -1.
 */
int ashmem_valid(int fd);

/**
 * ashmem_create_region() - Make a region.
 * @name: for /proc/PID/maps; the first 255 bytes are kept; NULL for none
 * @size: bytes; mapped are whole pages
 *
 * Return: a descriptor that exec closes, for mmap(2) and close(2). -1: ENOENT,
 * there is no node, most likely because the module is not loaded; EACCES or
 * EPERM, this process may not use it; and others of open(2).
 */
int ashmem_create_region(const char *name, size_t size);

/**
 * ashmem_set_prot_region() - Say what later mappings may be allowed.
 * @prot: PROT_READ, PROT_WRITE, PROT_EXEC, or'ed
 *
 * In every process, and for good. Mappings that are there keep what they have.
 *
 * Return: 0. -1: EINVAL, it would give what was taken away before.
 */
int ashmem_set_prot_region(int fd, int prot);

/**
 * ashmem_pin_region() - Have the kernel leave a range alone.
 * @offset: bytes from the start of the region, a multiple of the page size
 * @len: bytes, a multiple of the page size; 0: up to the end of the region
 *
 * Return: ASHMEM_NOT_PURGED or ASHMEM_WAS_PURGED. -1: EINVAL, it is not page
 * aligned, ends beyond the region, or the region was never mapped; EOVERFLOW,
 * it passes 4 GiB and the driver is one that ends there.
 */
int ashmem_pin_region(int fd, size_t offset, size_t len);

/**
 * ashmem_unpin_region() - Let the kernel take a range when memory is short.
 * @offset: as for ashmem_pin_region()
 * @len: as for ashmem_pin_region()
 *
 * Return: 0. -1: as ashmem_pin_region(); EPERM, the module was loaded with
 * strict_unpin=1, and the region may not be written.
 */
int ashmem_unpin_region(int fd, size_t offset, size_t len);

/**
 * ashmem_get_size_region() - The size in bytes, as it was given.
 *
 * Return: the size. -1: EOVERFLOW, it is no int: 2 GiB or more.
 */
int ashmem_get_size_region(int fd);

#ifdef __cplusplus
}
#endif

#endif /* _CUTILS_ASHMEM_H */
