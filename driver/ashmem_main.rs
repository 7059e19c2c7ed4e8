// SPDX-License-Identifier: GPL-2.0-only

//! `/dev/ashmem`: shared memory that has a name, and that the kernel may take back when its owner
//! says so.
//!
//! ```text
//!   open, ioctl, mmap, read      page fault           memory pressure
//!            |                       |                       |
//!        device.rs               fault.rs               reclaim.rs      entry points
//!            |                       |                       |
//!            +-----------+-----------+           claim, mark, free
//!                        |                                   |
//!                    region.rs  <----------------------------+          one region
//!                    |       |
//!                 lru.rs   policy/                                      ages; who is pinned
//!                    |
//!                  glue/                                                all `unsafe`
//! ```
//!
//! A *fault* finds the page's folio in the region's own page cache, or allocates one, of as many
//! pages as `policy/growth.rs` says, and inserts it, and hands it to the core locked. An *ioctl*
//! parses its argument into a checked `PageRange` and changes the region's pin state. *Reclaim*,
//! called for one memory cgroup or for all, takes the range that was unpinned longest ago there,
//! claims it, and frees its folios one by one; those that may go in part only it leaves to a worker.
//!
//! # Lock order
//!
//! 1. `mmap_lock` or a VMA's lock (the core's)
//! 2. `Region::config`, a mutex: name, size, mask, file. Taken by ioctls, read(2) and mmap(2); never
//!    in a fault, never across access to user memory
//! 3. the folio lock
//! 4. `i_mmap_rwsem`, page table locks, `i_pages` (the core's)
//! 5. `Region::pins`, a spinlock: ranges, marks. In a fault only where there are ranges
//! 6. the spinlock of `PerCgroup`, or that of a cgroup's list in it
//! 7. `Queue::trees`, a spinlock
//!
//! Reclaim takes 3 by trylock only, and never 2. PIN may wait for claims, and PURGE_ALL_CACHES for a
//! PIN that waits (`Region::unclaimed`); both hold nothing then. Reclaim waits for nobody but the worker,
//! and for that a few ticks at most; the worker takes 3 to 7.
//!
//! Why no two paths race to a wrong state is argued pair by pair in `CONCURRENCY.md`.

use kernel::{
    prelude::*,
    sync::Arc, //
};

mod device;
mod fault;
mod glue;
mod lru;
mod policy;
mod reclaim;
mod region;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod uapi;

use glue::{
    device::Registration as DeviceRegistration,
    folio::MAX_FOLIO_ORDER,
    path_exists,
    pseudo_file::Mount,
    shrinker::{
        OomRegistration,
        Registration as ShrinkerRegistration, //
    },
    Parameters, //
};
use reclaim::{
    Reclaim,
    Splitter, //
};
use region::{
    Huge,
    Region,
    RegionLru,
    Shared,
    MAX_ORDER, //
};

module! {
    type: Ashmem,
    name: "ashmem",
    authors: ["The ashmem developers"],
    description: "Android shared memory: named, and purgeable where it is unpinned",
    license: "GPL",
    alias: ["ashmem_linux"],
}

/// Of the node.
const NAME: &CStr = c"ashmem";
/// Where that name may be another driver's: as a miscellaneous device, or as any that has the node.
const TAKEN: [&CStr; 2] = [c"/sys/class/misc/ashmem", c"/dev/ashmem"];

/// The loaded module. Fields are dropped in this order: first the node goes.
#[pin_data]
struct Ashmem {
    #[pin]
    device: DeviceRegistration<Region>,
    shrinker: ShrinkerRegistration<Reclaim>,
    #[pin]
    oom: OomRegistration<Reclaim>,
}

impl kernel::InPlaceModule for Ashmem {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            // Registered beside another one, it would dump a stack, or have no node. It is not
            // `EEXIST`, which modprobe takes for this very module, and makes a success of.
            if let Some(taken) = TAKEN.iter().find(|path| path_exists(path)) {
                pr_err!(
                    "{} exists: unload the driver that has it, or remove what one left behind\n",
                    taken.to_str()?
                );
                return Err(EBUSY);
            }
            let Parameters {
                max_pages,
                max_order,
                strict_unpin,
                huge,
            } = Parameters::given();
            if max_order > MAX_ORDER {
                pr_err!("max_order: {max_order} is more than {MAX_ORDER}\n");
                return Err(EINVAL);
            }
            let huge = Huge::parse(huge.to_bytes()).inspect_err(|_| {
                pr_err!("huge: there are never, advise and always\n");
            })?;
            let max_pages = match max_pages {
                0 => glue::total_ram_pages() / 2,
                pages => pages,
            };
            // Before the node: there is no region yet that it could miss.
            let mut lru = None;
            let shrinker = ShrinkerRegistration::new(c"ashmem", |id| {
                let new = RegionLru::new(c"ashmem_queue", id)?;
                lru = Some(new.clone());
                Splitter::new(new)
            })?;
            let reclaim = shrinker.shrinker().clone();
            let shared = Arc::new(
                Shared {
                    mount: Mount::pin()?,
                    lru: lru.ok_or(EINVAL)?,
                    max_pages,
                    strict_unpin,
                    max_order: max_order.min(MAX_FOLIO_ORDER),
                    huge,
                },
                GFP_KERNEL,
            )?;

            Ok(try_pin_init!(Self {
                shrinker,
                oom <- OomRegistration::new(reclaim),
                device <- DeviceRegistration::new(NAME, shared),
            }? Error))
        })
    }
}
