/* SPDX-License-Identifier: GPL-2.0-only */
/* What bindgen reads for the tests: the same as for the driver. */
#include "../driver/include/abi_numbers.h"
