// SPDX-License-Identifier: GPL-2.0-only

#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/moduleparam.h>
#include <linux/namei.h>
#include <linux/nodemask.h>
#include <linux/personality.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>

#include "inline.h"

int ashmem_init_pseudo(struct fs_context *fc, unsigned long magic,
		       const struct super_operations *ops)
{
	struct pseudo_fs_context *ctx = init_pseudo(fc, magic);

	if (!ctx)
		return -ENOMEM;
	ctx->ops = ops;
	return 0;
}

void ashmem_mapping_init(struct address_space *mapping,
			 const struct address_space_operations *a_ops)
{
	mapping->a_ops = a_ops;
	mapping_set_gfp_mask(mapping, GFP_HIGHUSER_MOVABLE);
	mapping_set_large_folios(mapping);
	mapping_set_unevictable(mapping);
}

unsigned long ashmem_mapping_size(struct address_space *mapping)
{
	return DIV_ROUND_UP(i_size_read(mapping->host), PAGE_SIZE);
}

/*
 * Who wants many pages at once can do with one: that is tried once, and no task
 * is killed for it.
 */
static gfp_t gfp(struct address_space *mapping, unsigned int order)
{
	gfp_t gfp = mapping_gfp_mask(mapping);

	return order ? gfp | __GFP_NORETRY | __GFP_NOWARN : gfp;
}

struct folio *ashmem_filemap_alloc_folio(struct address_space *mapping,
					 unsigned int order)
{
	return filemap_alloc_folio(gfp(mapping, order) | __GFP_ZERO, order,
				   NULL);
}

int ashmem_filemap_add_folio(struct address_space *mapping, struct folio *folio,
			     pgoff_t index)
{
	return filemap_add_folio(mapping, folio, index,
				 gfp(mapping, folio_order(folio)));
}

struct folio *ashmem_filemap_get_folio(struct address_space *mapping,
				       pgoff_t index, bool lock, bool nowait)
{
	fgf_t flags = (lock ? FGP_LOCK : 0) | (nowait ? FGP_NOWAIT : 0);
	struct folio *folio = __filemap_get_folio(mapping, index, flags, 0);

	return IS_ERR(folio) ? NULL : folio;
}

/*
 * Order of the folio that holds the page; 0 if there is none, or if memory of
 * it has failed. Under RCU and without a reference: by now the folio may be
 * something else, so that no function may look at it that checks what it is,
 * and the order may be one that no folio has here.
 */
unsigned int ashmem_mapping_sound_order(struct address_space *mapping,
					pgoff_t index)
{
	XA_STATE(xas, &mapping->i_pages, index);
	struct folio *folio = xas_load(&xas);

	if (!folio || xas_retry(&xas, folio) || xa_is_value(folio))
		return 0;
	/* Only the head of a large folio has a second page for sure. */
	if (!test_bit(PG_head, &folio->flags.f) ||
	    test_bit(PG_has_hwpoisoned, &folio->_flags_1))
		return 0;
	return READ_ONCE(folio->_flags_1) & 0xff;
}

/*
 * Whether none of so many pages, a multiple of four, is in the page table,
 * which would hold them all: from the one that is so many pages before the
 * address. Under RCU, which keeps the table; it may change at once.
 */
bool ashmem_vmf_ptes_none(struct vm_fault *vmf, unsigned long before,
			  unsigned long nr)
{
	pmd_t pmd = pmdp_get_lockless(vmf->pmd);
	pteval_t any = 0;
	pte_t *pte;

	if (pmd_none(pmd))
		return true;
	if (!pmd_present(pmd) || pmd_leaf(pmd) || pmd_bad(pmd))
		return false;
	pte = pte_offset_kernel(&pmd, vmf->address) - before;
	for (pte_t *end = pte + nr; pte != end; pte += 4)
		any |= pte_val(ptep_get_lockless(&pte[0])) |
		       pte_val(ptep_get_lockless(&pte[1])) |
		       pte_val(ptep_get_lockless(&pte[2])) |
		       pte_val(ptep_get_lockless(&pte[3]));
	/* The bits that do not count are the same in each; mostly there is none. */
	return !any || pte_none(__pte(any));
}

void ashmem_folio_put(struct folio *folio)
{
	folio_put(folio);
}

void ashmem_folio_fill(struct folio *folio)
{
	__folio_mark_uptodate(folio);
	/*
	 * Before it is inserted, and without accounting: it is never written
	 * back. A clean folio is dropped whole where truncation of a part of
	 * it cannot split it, and by drop_caches.
	 */
	folio_set_dirty(folio);
}

unsigned long ashmem_folio_nr_pages(struct folio *folio)
{
	return folio_nr_pages(folio);
}

struct address_space *ashmem_folio_mapping(struct folio *folio)
{
	return folio->mapping;
}

pgoff_t ashmem_folio_index(struct folio *folio)
{
	return folio->index;
}

bool ashmem_folio_mapped(struct folio *folio)
{
	return folio_mapped(folio);
}

void ashmem_folio_zero_page(struct folio *folio, pgoff_t index)
{
	struct page *page = folio_file_page(folio, index);

	if (!PageHWPoison(page))
		clear_highpage(page);
}

bool ashmem_folio_maybe_dma_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

bool ashmem_folio_contain_hwpoisoned_page(struct folio *folio)
{
	return folio_contain_hwpoisoned_page(folio);
}

struct page *ashmem_folio_file_page(struct folio *folio, pgoff_t index)
{
	return folio_file_page(folio, index);
}

struct page *ashmem_get_zero_page(void)
{
	struct page *page = ZERO_PAGE(0);

	get_page(page);
	return page;
}

bool ashmem_vma_thp_disabled(struct vm_area_struct *vma, bool forced_collapse)
{
	return vma_thp_disabled(vma, vma->vm_flags, forced_collapse);
}

bool ashmem_thp_vma_suitable(struct vm_area_struct *vma, unsigned long addr)
{
	return thp_vma_suitable_order(vma, addr & HPAGE_PMD_MASK, PMD_ORDER);
}

bool ashmem_userfaultfd_armed(struct vm_area_struct *vma)
{
	return userfaultfd_armed(vma);
}

bool ashmem_vmf_pmd_none(struct vm_fault *vmf)
{
	return pmd_none(pmdp_get_lockless(vmf->pmd));
}

struct file *ashmem_shmem_file_setup(loff_t size, bool noreserve)
{
	return shmem_file_setup("dev/ashmem", size,
				noreserve ? mk_vma_flags(VMA_NORESERVE_BIT) :
					    EMPTY_VMA_FLAGS);
}

void ashmem_mm_account_reclaimed_pages(unsigned long pages)
{
	mm_account_reclaimed_pages(pages);
}

void ashmem_seq_escape(struct seq_file *m, const char *s, const char *esc)
{
	seq_escape(m, s, esc);
}

struct mem_cgroup *ashmem_get_current_mem_cgroup(void)
{
	return get_mem_cgroup_from_mm(NULL);
}

struct mem_cgroup *ashmem_mem_cgroup_from_current(void)
{
	return mem_cgroup_disabled() ? NULL : mem_cgroup_from_task(current);
}

u64 ashmem_mem_cgroup_serial(struct mem_cgroup *memcg)
{
#ifdef CONFIG_MEMCG
	if (memcg)
		return memcg->css.serial_nr;
#endif
	return 0;
}

struct mem_cgroup *ashmem_set_active_memcg(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

void ashmem_mem_cgroup_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

struct mem_cgroup *ashmem_parent_mem_cgroup(struct mem_cgroup *memcg)
{
	return parent_mem_cgroup(memcg);
}

/* mem_cgroup_margin(), which is not exported, for both limits. */
unsigned long ashmem_mem_cgroup_room(struct mem_cgroup *memcg)
{
#ifdef CONFIG_MEMCG
	unsigned long pages = page_counter_read(&memcg->memory);
	unsigned long limit = min(READ_ONCE(memcg->memory.max),
				  READ_ONCE(memcg->memory.high));

	return limit > pages ? limit - pages : 0;
#else
	return ULONG_MAX;
#endif
}

bool ashmem_current_is_kswapd(void)
{
	return current_is_kswapd();
}

/* What of a zone's free pages anybody may have: see __zone_watermark_ok(). */
static long free_pages_for_all(struct zone *zone)
{
	long free = zone_page_state(zone, NR_FREE_PAGES) -
		    READ_ONCE(zone->nr_free_highatomic);

#ifdef CONFIG_CMA
	free -= zone_page_state(zone, NR_FREE_CMA_PAGES);
#endif
	return free;
}

/*
 * Whether kswapd, which wants this, may sleep: see pgdat_balanced(). What it
 * wants beyond, for a while, so that memory does not get into small pieces
 * (watermark_boost), is no reason to take what somebody may need.
 */
bool ashmem_zones_have_high_wmark(void)
{
	int nid;

	for_each_online_node(nid) {
		struct zone *zones = NODE_DATA(nid)->node_zones;

		for (int i = 0; i < MAX_NR_ZONES; i++) {
			long high = zones[i]._watermark[WMARK_HIGH];

			if (managed_zone(&zones[i]) &&
			    free_pages_for_all(&zones[i]) < high)
				return false;
		}
	}
	return true;
}

unsigned long ashmem_reclaim_state_reclaimed(void)
{
	return current->reclaim_state ? current->reclaim_state->reclaimed : 0;
}

int ashmem_list_lru_init_memcg(struct list_lru *lru, struct shrinker *shrinker)
{
	static struct lock_class_key key;

	return list_lru_init_memcg_key(lru, shrinker, &key);
}

struct kmem_cache *ashmem_kmem_cache_create(const char *name, unsigned int size,
					    unsigned int align)
{
	return kmem_cache_create(name, size, align, SLAB_ACCOUNT, NULL);
}

void *ashmem_kmem_cache_alloc_lru(struct kmem_cache *cache,
				  struct list_lru *lru)
{
	return kmem_cache_alloc_lru(cache, lru, GFP_KERNEL_ACCOUNT);
}

void ashmem_xa_init_account(struct xarray *xa)
{
	xa_init_flags(xa, XA_FLAGS_ACCOUNT);
}

int ashmem_xa_insert(struct xarray *xa, unsigned long index, void *entry)
{
	return xa_insert(xa, index, entry, GFP_KERNEL_ACCOUNT);
}

void *ashmem_xa_find_present(struct xarray *xa, unsigned long *index,
			     unsigned long max)
{
	return xa_find(xa, index, max, XA_PRESENT);
}

void ashmem_init_list_head(struct list_head *list)
{
	INIT_LIST_HEAD(list);
}

int ashmem_next_possible_node(int node)
{
	node = next_node(node, node_possible_map);
	return node < MAX_NUMNODES ? node : NUMA_NO_NODE;
}

bool ashmem_path_exists(const char *name)
{
	struct path path;

	if (kern_path(name, 0, &path))
		return false;
	path_put(&path);
	return true;
}

unsigned long ashmem_totalram_pages(void)
{
	return totalram_pages();
}

bool ashmem_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

bool ashmem_read_implies_exec(void)
{
	return current->personality & READ_IMPLIES_EXEC;
}

unsigned int ashmem_memalloc_noreclaim_save(void)
{
	return memalloc_noreclaim_save();
}

void ashmem_memalloc_noreclaim_restore(unsigned int flags)
{
	memalloc_noreclaim_restore(flags);
}

struct workqueue_struct *ashmem_alloc_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND | WQ_MEM_RECLAIM, 1, name);
}

void ashmem_init_work(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

bool ashmem_queue_work(struct workqueue_struct *queue, struct work_struct *work)
{
	return queue_work(queue, work);
}

void ashmem_init_waitqueue_head(struct wait_queue_head *queue)
{
	init_waitqueue_head(queue);
}

void ashmem_wake_up_all(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

/* Until the number has come that far; it may wrap. */
void ashmem_wait_until(struct wait_queue_head *queue, const unsigned long *now,
		       unsigned long then, long ticks)
{
	wait_event_timeout(*queue, (long)(smp_load_acquire(now) - then) >= 0,
			   ticks);
}

/* See versions.rs for why they are not in the kernel crate's module macro. */
unsigned long ashmem_max_pages;
module_param_named(max_pages, ashmem_max_pages, ulong, 0444);
MODULE_PARM_DESC(max_pages, "Pages that all regions together may have (0: half of RAM)");

unsigned int ashmem_max_order = 4;
module_param_named(max_order, ashmem_max_order, uint, 0444);
MODULE_PARM_DESC(max_order, "Largest folio at sequential access, as a power of two of pages, 0 to 8");

bool ashmem_strict_unpin;
module_param_named(strict_unpin, ashmem_strict_unpin, bool, 0444);
MODULE_PARM_DESC(strict_unpin, "UNPIN needs write permission in the protection mask");

char ashmem_huge[16] = "advise";
module_param_string(huge, ashmem_huge, sizeof(ashmem_huge), 0444);
MODULE_PARM_DESC(huge, "Huge pages: advise (where MADV_HUGEPAGE asks for them), always or never");

#if IS_BUILTIN(CONFIG_KUNIT)
void ashmem_folio_get(struct folio *folio)
{
	folio_get(folio);
}

int ashmem_folio_ref_count(struct folio *folio)
{
	return folio_ref_count(folio);
}

void *ashmem_folio_page_address(struct folio *folio, pgoff_t index)
{
	return page_address(folio_file_page(folio, index));
}

void ashmem_folio_ref_add(struct folio *folio, int nr)
{
	folio_ref_add(folio, nr);
}

void ashmem_folio_ref_sub(struct folio *folio, int nr)
{
	folio_ref_sub(folio, nr);
}

bool ashmem_folio_test_locked(struct folio *folio)
{
	return folio_test_locked(folio);
}

bool ashmem_folio_test_uptodate(struct folio *folio)
{
	return folio_test_uptodate(folio);
}

bool ashmem_folio_test_dirty(struct folio *folio)
{
	return folio_test_dirty(folio);
}

int ashmem_icount_read_once(struct inode *inode)
{
	return icount_read_once(inode);
}

/* It is not exported; this does it first. */
void ashmem_lru_add_drain(void)
{
	struct folio_batch none;

	folio_batch_init(&none);
	__folio_batch_release(&none);
}

void ashmem_migrate_disable(void)
{
	migrate_disable();
}

void ashmem_migrate_enable(void)
{
	migrate_enable();
}
#endif
