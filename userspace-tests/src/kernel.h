/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests need of the kernel's ABI and neither libc nor nix has, for
 * bindgen, which evaluates neither _IOWR() nor casts.
 */
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <linux/kcov.h>
#include <linux/loop.h>
#include <linux/userfaultfd.h>

#define IOCTL(name) const unsigned int KERNEL_##name = name
#define NUMBER(name) const __u64 KERNEL_##name = name

IOCTL(KCOV_INIT_TRACE);
IOCTL(KCOV_ENABLE);
IOCTL(PAGEMAP_SCAN);
IOCTL(UFFDIO_API);
IOCTL(UFFDIO_REGISTER);
IOCTL(UFFDIO_WRITEPROTECT);

NUMBER(UFFD_API);
NUMBER(UFFDIO_REGISTER_MODE_MISSING);
NUMBER(UFFDIO_REGISTER_MODE_WP);
NUMBER(UFFDIO_REGISTER_MODE_MINOR);
NUMBER(UFFDIO_WRITEPROTECT_MODE_WP);
