/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The ioctl numbers of ashmem.h as constants, for bindgen, which does not
 * evaluate _IOW(). Read by the driver and by the tests.
 */
#include "ashmem.h"

#define ABI_NUMBER(name) const unsigned int ABI_##name = ASHMEM_##name

ABI_NUMBER(SET_NAME);
ABI_NUMBER(GET_NAME);
ABI_NUMBER(SET_SIZE);
ABI_NUMBER(GET_SIZE);
ABI_NUMBER(SET_PROT_MASK);
ABI_NUMBER(GET_PROT_MASK);
ABI_NUMBER(PIN);
ABI_NUMBER(UNPIN);
ABI_NUMBER(GET_PIN_STATUS);
ABI_NUMBER(PURGE_ALL_CACHES);
ABI_NUMBER(GET_FILE_ID);
ABI_NUMBER(GET_COUNTERS);
ABI_NUMBER(PIN_RANGE);
ABI_NUMBER(UNPIN_RANGE);
ABI_NUMBER(GET_RANGE_PIN_STATUS);
ABI_NUMBER(GET_PAGE_STATUS);

/* What 32-bit programs pass on a 64-bit kernel. */
const unsigned int ABI_SET_SIZE_32 = _IOW(__ASHMEMIOC, 3, __u32);
const unsigned int ABI_SET_PROT_MASK_32 = _IOW(__ASHMEMIOC, 5, __u32);
const unsigned int ABI_GET_FILE_ID_32 = _IOR(__ASHMEMIOC, 11, __u32);
