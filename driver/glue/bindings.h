/* SPDX-License-Identifier: GPL-2.0-only */
/* What bindgen reads; see Kbuild. */
#include "inline.h"
#include "../include/abi_numbers.h"

#include <linux/falloc.h>
#include <linux/huge_mm.h>
#include <linux/mman.h>
#include <linux/shrinker.h>

const unsigned int ASHMEM_SHRINKER_FLAGS = SHRINKER_MEMCG_AWARE | SHRINKER_NONSLAB;
const int ASHMEM_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const unsigned long ASHMEM_PROT_READ = PROT_READ;
const unsigned long ASHMEM_PROT_WRITE = PROT_WRITE;
const unsigned long ASHMEM_PROT_EXEC = PROT_EXEC;
const unsigned int ASHMEM_HUGE_ORDER = PMD_ORDER;
const bool ASHMEM_LARGE_FOLIOS = IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE);
const vm_flags_t ASHMEM_VM_RAND_READ = VM_RAND_READ;
const vm_flags_t ASHMEM_VM_MAYSHARE = VM_MAYSHARE;
const vm_flags_t ASHMEM_VM_SEQ_READ = VM_SEQ_READ;
