/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions for what the kernel has as macros and inline functions only, so
 * that Rust can call it. Each is its namesake, but for a few without one, which
 * look at what Rust cannot see: what they do is said in inline.c.
 */
#ifndef ASHMEM_INLINE_H
#define ASHMEM_INLINE_H

#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/fs_context.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

int ashmem_init_pseudo(struct fs_context *fc, unsigned long magic,
		       const struct super_operations *ops);
void ashmem_mapping_init(struct address_space *mapping,
			 const struct address_space_operations *a_ops);
unsigned long ashmem_mapping_size(struct address_space *mapping);
struct folio *ashmem_filemap_alloc_folio(struct address_space *mapping,
					 unsigned int order);
int ashmem_filemap_add_folio(struct address_space *mapping, struct folio *folio,
			     pgoff_t index);
struct folio *ashmem_filemap_get_folio(struct address_space *mapping,
				       pgoff_t index, bool lock, bool nowait);
unsigned int ashmem_mapping_sound_order(struct address_space *mapping,
					pgoff_t index);
bool ashmem_vmf_ptes_none(struct vm_fault *vmf, unsigned long before,
			  unsigned long nr);
void ashmem_folio_put(struct folio *folio);
void ashmem_folio_fill(struct folio *folio);
unsigned long ashmem_folio_nr_pages(struct folio *folio);
struct address_space *ashmem_folio_mapping(struct folio *folio);
pgoff_t ashmem_folio_index(struct folio *folio);
bool ashmem_folio_mapped(struct folio *folio);
void ashmem_folio_zero_page(struct folio *folio, pgoff_t index);
bool ashmem_folio_maybe_dma_pinned(struct folio *folio);
bool ashmem_folio_contain_hwpoisoned_page(struct folio *folio);
struct page *ashmem_folio_file_page(struct folio *folio, pgoff_t index);
struct page *ashmem_get_zero_page(void);
bool ashmem_vma_thp_disabled(struct vm_area_struct *vma, bool forced_collapse);
bool ashmem_thp_vma_suitable(struct vm_area_struct *vma, unsigned long addr);
bool ashmem_userfaultfd_armed(struct vm_area_struct *vma);
bool ashmem_vmf_pmd_none(struct vm_fault *vmf);
struct file *ashmem_shmem_file_setup(loff_t size, bool noreserve);
void ashmem_mm_account_reclaimed_pages(unsigned long pages);
void ashmem_seq_escape(struct seq_file *m, const char *s, const char *esc);
struct mem_cgroup *ashmem_get_current_mem_cgroup(void);
struct mem_cgroup *ashmem_mem_cgroup_from_current(void);
u64 ashmem_mem_cgroup_serial(struct mem_cgroup *memcg);
struct mem_cgroup *ashmem_set_active_memcg(struct mem_cgroup *memcg);
void ashmem_mem_cgroup_put(struct mem_cgroup *memcg);
struct mem_cgroup *ashmem_parent_mem_cgroup(struct mem_cgroup *memcg);
unsigned long ashmem_mem_cgroup_room(struct mem_cgroup *memcg);
bool ashmem_current_is_kswapd(void);
bool ashmem_zones_have_high_wmark(void);
unsigned long ashmem_reclaim_state_reclaimed(void);
int ashmem_list_lru_init_memcg(struct list_lru *lru, struct shrinker *shrinker);
struct kmem_cache *ashmem_kmem_cache_create(const char *name, unsigned int size,
					    unsigned int align);
void *ashmem_kmem_cache_alloc_lru(struct kmem_cache *cache,
				  struct list_lru *lru);
void ashmem_xa_init_account(struct xarray *xa);
int ashmem_xa_insert(struct xarray *xa, unsigned long index, void *entry);
void *ashmem_xa_find_present(struct xarray *xa, unsigned long *index,
			     unsigned long max);
void ashmem_init_list_head(struct list_head *list);
int ashmem_next_possible_node(int node);
bool ashmem_path_exists(const char *path);
unsigned long ashmem_totalram_pages(void);
bool ashmem_fatal_signal_pending(void);
bool ashmem_read_implies_exec(void);
unsigned int ashmem_memalloc_noreclaim_save(void);
void ashmem_memalloc_noreclaim_restore(unsigned int flags);
struct workqueue_struct *ashmem_alloc_workqueue(const char *name);
void ashmem_init_work(struct work_struct *work, work_func_t func);
bool ashmem_queue_work(struct workqueue_struct *queue, struct work_struct *work);
void ashmem_init_waitqueue_head(struct wait_queue_head *queue);
void ashmem_wake_up_all(struct wait_queue_head *queue);
void ashmem_wait_until(struct wait_queue_head *queue, const unsigned long *now,
		       unsigned long then, long ticks);
extern unsigned long ashmem_max_pages;
extern unsigned int ashmem_max_order;
extern bool ashmem_strict_unpin;
extern char ashmem_huge[16];

#if IS_BUILTIN(CONFIG_KUNIT)
void ashmem_folio_get(struct folio *folio);
int ashmem_folio_ref_count(struct folio *folio);
void *ashmem_folio_page_address(struct folio *folio, pgoff_t index);
void ashmem_folio_ref_add(struct folio *folio, int nr);
void ashmem_folio_ref_sub(struct folio *folio, int nr);
bool ashmem_folio_test_locked(struct folio *folio);
bool ashmem_folio_test_uptodate(struct folio *folio);
bool ashmem_folio_test_dirty(struct folio *folio);
int ashmem_icount_read_once(struct inode *inode);
void ashmem_lru_add_drain(void);
void ashmem_migrate_disable(void);
void ashmem_migrate_enable(void);
#endif

#endif
